//! Who may do what.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use futures::StreamExt;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use pintle_client::{
    Client,
    api::{
        access::{CreateToken, Role},
        config::WriteQuery,
        lock::Acquire,
    },
    config::{Put, WriteOutcome},
};
use pintle_server::{ExampleRequest, examples};
use pintle_test_suites::{eventually, within};

use crate::served::{Reply, Served, request};

/// What each role may do beyond what the one before it may: written down once more, so that nobody
/// gets more by mistake.
const ANYBODY: [&str; 3] = ["server.live", "server.ready", "server.openapi"];
const VIEWER: [&str; 26] = [
    "server.metrics",
    "server.access",
    "settings.show",
    "backend.list",
    "backend.show",
    "plugin.list",
    "plugin.show",
    "config.get",
    "config.list",
    "config.get-many",
    "config.watch",
    "config.history",
    "registry.services",
    "registry.instances",
    "registry.watch",
    "lock.list",
    "lock.show",
    "lock.watch",
    "lock.lease",
    "leader.show",
    "leader.watch",
    "leader.term",
    "trace.status",
    "trace.extract",
    "trace.inject",
    // Needs no token at all, and works with one.
    "server.live",
];
const OPERATOR: [&str; 17] = [
    "backend.check",
    "config.put",
    "config.txn",
    "config.delete",
    "config.delete-prefix",
    "registry.register",
    "registry.keepalive",
    "registry.override",
    "registry.clear-override",
    "registry.remove",
    "lock.acquire",
    "lock.keepalive",
    "lock.release",
    "lock.force-release",
    "leader.campaign",
    "leader.keepalive",
    "leader.resign",
];
const ADMIN: [&str; 8] = [
    "backend.restart",
    "plugin.accept",
    "server.log-level",
    "server.set-log-level",
    "token.create",
    "token.list",
    "token.revoke",
    "audit.list",
];

fn asked(example: &ExampleRequest, secret: Option<&str>) -> Result<Request<Full<bytes::Bytes>>> {
    let method: Method = example.method.parse()?;
    let mut asked = request(method, &example.target, example.body)?;
    if let Some(secret) = secret {
        let value = HeaderValue::from_str(&format!("Bearer {secret}"))?;
        asked.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(asked)
}

async fn get(served: &Served, target: &str, secret: &str) -> Result<Reply> {
    let mut asked = request(Method::GET, target, "")?;
    let value = HeaderValue::from_str(&format!("Bearer {secret}"))?;
    asked.headers_mut().insert(header::AUTHORIZATION, value);
    served.send(asked).await
}

fn client(served: &Served, secret: &str) -> Result<Client> {
    Ok(served.client().with_token(secret)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_is_written_down_and_nothing_else() -> Result<()> {
    let served = Served::guarded("").await?;
    let known: BTreeSet<&str> =
        ANYBODY.into_iter().chain(VIEWER).chain(OPERATOR).chain(ADMIN).collect();
    let there: BTreeSet<&str> = examples().iter().map(|example| example.id).collect();
    assert_eq!(known, there, "an operation that no role was thought of for");

    let mut allowed: BTreeSet<&str> = ANYBODY.into();
    check(&served, None, &allowed).await?;
    for (role, more) in
        [(Role::Viewer, &VIEWER[..]), (Role::Operator, &OPERATOR[..]), (Role::Admin, &ADMIN[..])]
    {
        allowed.extend(more);
        let secret = served.token(role.as_str(), role, &[]).await?;
        check(&served, Some(&secret), &allowed).await?;
    }
    Ok(())
}

/// Asks for everything, and sees whether it gets past the door exactly where it may.
async fn check(served: &Served, secret: Option<&str>, allowed: &BTreeSet<&str>) -> Result<()> {
    // Before the first token everybody may do everything.
    if !served.api.has_tokens() {
        served.token("first", Role::Viewer, &[]).await?;
    }
    for example in examples() {
        let reply = within("an answer", served.open(asked(&example, secret)?)).await?;
        let is_out = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&reply.status());
        assert_eq!(!is_out, allowed.contains(example.id), "{} {:?}", example.id, reply.status());
        if is_out {
            let expected = if secret.is_some() { 403 } else { 401 };
            assert_eq!(reply.status(), expected, "{}", example.id);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_before_the_first_token_and_everybody_afterwards() -> Result<()> {
    let served = Served::guarded("").await?;
    let access = served.client().admin().access().await?;
    assert_eq!((access.caller.as_str(), access.role), ("anyone", Role::Admin));
    assert!(!access.tokens_required);

    let secret = served.token("ann", Role::Viewer, &[]).await?;
    let refused = served.get("/v1/backends").await?;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"pintle\"");
    assert_eq!(refused.problem()?.code(), "token-missing");
    let access = client(&served, &secret)?.admin().access().await?;
    assert_eq!((access.caller.as_str(), access.role), ("ann", Role::Viewer));

    // When the last one is gone the door stays shut.
    let admin = served.owner().admin();
    admin.revoke_token("ann").await?;
    assert_eq!(served.get("/v1/backends").await?.problem()?.code(), "token-missing");
    assert_eq!(get(&served, "/v1/backends", &secret).await?.problem()?.code(), "token-refused");
    // And after a restart, too.
    let again = pintle_server::Api::open(served.pintle.clone(), None)?;
    let error = Client::in_process(again.router()).admin().backends().await.unwrap_err();
    assert_eq!(error.code(), "token-missing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_learns_that_a_backend_is_away_but_not_which() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Viewer, &[]).await?;
    served.pintle.shutdown().await;
    let reply = served.get("/readyz").await?;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!String::from_utf8_lossy(&reply.body).contains("main"), "{reply:?}");
    let told = get(&served, "/readyz", &secret).await?;
    assert!(String::from_utf8_lossy(&told.body).contains("main"), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_backend_is_good_for_that_one_only() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ci", Role::Admin, &["other"]).await?;
    let limited = client(&served, &secret)?;
    limited.config("other").put(Put::new("a", "1")).await?;
    let mut told = Vec::new();
    for backend in ["main", "default", "nope"] {
        let error = limited.config(backend).put(Put::new("a", "1")).await.unwrap_err();
        assert_eq!(error.code(), "forbidden", "{backend}: {error}");
        told.push(error.to_string());
    }
    // Nor is it told which backends there are, and what `default` stands for.
    assert!(told.iter().all(|text| *text == told[0] && !text.contains("main")), "{told:?}");
    // `default` is the backend that it stands for.
    let main = served.token("main", Role::Operator, &["main"]).await?;
    client(&served, &main)?.config("default").put(Put::new("a", "1")).await?;

    let names: Vec<String> =
        limited.admin().backends().await?.into_iter().map(|backend| backend.name).collect();
    assert_eq!(names, ["other"]);
    for target in ["/v1/settings", "/v1/tokens", "/v1/audit", "/v1/plugins", "/metrics"] {
        assert_eq!(get(&served, target, &secret).await?.problem()?.code(), "forbidden", "{target}");
    }
    assert_eq!(limited.admin().access().await?.backends, ["other"]);
    let unknown = served.token("x", Role::Viewer, &["mian"]).await.unwrap_err().to_string();
    assert!(unknown.contains("did you mean \"main\"?"), "{unknown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_another_backend_opens_nothing() -> Result<()> {
    let served = Served::guarded("").await?;
    let holder = client(&served, &served.token("holder", Role::Operator, &["main"]).await?)?;
    let name = pintle_client::lock::LeaseName { lock: "l".into(), id: "one".into() };
    holder.lock("main").put(&name, &Default::default()).await?;
    let other = client(&served, &served.token("other", Role::Operator, &["other"]).await?)?;
    let error = other.lock("main").release(&name).await.unwrap_err();
    assert_eq!(error.code(), "forbidden");
    assert!(other.lock("other").release(&name).await.is_err());
    // Who knows the id does not learn whose it is.
    let error = other.lock("other").put(&name, &Default::default()).await.unwrap_err();
    assert_eq!(error.code(), "lease-id-in-use");
    assert!(!format!("{error:?}").contains("main"), "{error:?}");
    let query = WriteQuery { held: Some("one".into()), previous: false };
    let put = Put { query, ..Put::new("a", "1") };
    let error = other.config("other").put(put).await.unwrap_err();
    assert_eq!(error.code(), "lease-unknown");
    assert!(!format!("{error:?}").contains("main"), "{error:?}");
    assert!(holder.lock("main").release(&name).await?.released);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_what_it_watches() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Viewer, &[]).await?;
    let mut watch = client(&served, &secret)?.config("main").watch_prefix("").await?;
    within("the snapshot", watch.next()).await?.context("an event")??;
    served.owner().admin().revoke_token("ann").await?;
    let error = loop {
        match within("the end", watch.next()).await?.context("an error")? {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "token-refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_waits_for_nothing_any_more() -> Result<()> {
    let served = Served::guarded("").await?;
    let held = served.owner().lock("main");
    let name = pintle_client::lock::LeaseName { lock: "l".into(), id: "one".into() };
    held.put(&name, &Acquire::default()).await?;
    let ann = client(&served, &served.token("ann", Role::Operator, &[]).await?)?.lock("main");
    let acquire = Acquire { wait_ms: 60_000, ..Acquire::default() };
    let revoked = async {
        while held.inspect("l").await?.waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        served.owner().admin().revoke_token("ann").await?;
        anyhow::Ok(())
    };
    let waiting = async { tokio::join!(ann.acquire("l", acquire), revoked) };
    let (refused, revoked) = within("the end of the wait", waiting).await?;
    revoked?;
    assert_eq!(refused.unwrap_err().code(), "token-refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_ends_what_was_begun_without_one() -> Result<()> {
    let served = Served::guarded("").await?;
    let mut watch = served.client().config("main").watch_prefix("").await?;
    within("the snapshot", watch.next()).await?.context("an event")??;
    served.token("ann", Role::Viewer, &[]).await?;
    let ended = within("the end", async {
        while let Some(item) = watch.next().await {
            if let Err(error) = item {
                return error.code().to_owned();
            }
        }
        "no error".to_owned()
    });
    assert_eq!(ended.await?, "token-missing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_notices_what_a_command_does_to_the_tokens_without_it() -> Result<()> {
    let served = Served::guarded("").await?;
    let listening = served.listen(0).await?;
    assert_eq!(listening.client()?.admin().access().await?.caller, "anyone");
    let command = pintle_server::Api::open(served.pintle.clone(), None)?;
    let admin = Client::in_process(command.router_of_owner()).admin();
    let request = CreateToken {
        name: "ann".into(),
        role: Role::Admin,
        backends: Vec::new(),
        expires_in_ms: None,
    };
    let secret = admin.create_token(&request).await?.secret;
    let ann = listening.client()?.with_token(&secret)?.admin();
    eventually("the token", async || Ok(ann.access().await.ok())).await?;
    assert!(listening.client()?.admin().access().await.is_err());
    admin.revoke_token("ann").await?;
    eventually("the end of the token", async || Ok(ann.access().await.err())).await?;
    // And does not bring it back.
    served.token("bob", Role::Viewer, &[]).await?;
    let names: Vec<_> = admin.tokens().await?.tokens.into_iter().map(|token| token.name).collect();
    assert!(!names.contains(&"ann".to_owned()), "{names:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_time_and_so_does_what_it_watches() -> Result<()> {
    let served = Served::guarded("").await?;
    let request = CreateToken {
        name: "short".into(),
        role: Role::Viewer,
        backends: Vec::new(),
        expires_in_ms: Some(300),
    };
    let created = served.owner().admin().create_token(&request).await?;
    assert!(created.token.expires_ms.is_some());
    let mut watch = client(&served, &created.secret)?.config("main").watch_prefix("").await?;
    let ended = within("the end", async {
        while let Some(item) = watch.next().await {
            if let Err(error) = item {
                return error.code().to_owned();
            }
        }
        "no error".to_owned()
    });
    assert_eq!(ended.await?, "token-refused");
    let refused = get(&served, "/v1/backends", &created.secret).await?;
    assert_eq!(refused.problem()?.code(), "token-refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_refused_and_soon_with_a_pause_but_right_ones_pass() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Viewer, &[]).await?;
    for _ in 0..10 {
        let reply = get(&served, "/v1/backends", "pintle_guess").await?;
        assert_eq!(reply.problem()?.code(), "token-refused");
    }
    let reply = get(&served, "/v1/backends", "pintle_guess").await?;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(reply.headers.contains_key(header::RETRY_AFTER), "{reply:?}");
    assert_eq!(get(&served, "/v1/backends", &secret).await?.status, StatusCode::OK);
    // A wrong token is never as good as none.
    let health = get(&served, "/healthz", "pintle_guess").await?;
    assert_eq!(health.status, StatusCode::TOO_MANY_REQUESTS);
    // What was tried is written down, and does not fill the disk.
    let trail = served.owner().admin().audit(&Default::default()).await?;
    let tried = trail.records.iter().filter(|record| record.outcome == "token-refused");
    assert_eq!(tried.count(), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_at_all_counts_as_a_wrong_one() -> Result<()> {
    let served = Served::guarded("").await?;
    served.token("ann", Role::Viewer, &[]).await?;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        let mut asked = request(Method::GET, "/v1/backends", "")?;
        asked.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
        statuses.push(served.send(asked).await?.status.as_u16());
    }
    assert_eq!((statuses[0], statuses[29]), (401, 429), "{statuses:?}");
    let trail = served.owner().admin().audit(&Default::default()).await?;
    let tried = trail.records.iter().filter(|record| record.caller == "unknown");
    assert!(tried.count() < 15, "the trail grows with each attempt");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_the_data_folder_needs_no_token_of_their_own() -> Result<()> {
    let served = Served::guarded("").await?;
    served.token("ann", Role::Viewer, &[]).await?;
    let first = served.api.issue_owner_secret();
    assert_eq!(client(&served, &first)?.admin().access().await?.caller, "owner");
    let second = served.api.issue_owner_secret();
    assert_eq!(
        client(&served, &first)?.admin().access().await.unwrap_err().code(),
        "token-refused"
    );
    assert_eq!(client(&served, &second)?.admin().access().await?.role, Role::Admin);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_read_only_changes_nothing_on_any_backend() -> Result<()> {
    let served = Served::guarded("[server]\nread_only = true").await?;
    // With the first token others would be asked for one.
    for example in examples().into_iter().filter(|example| example.id != "token.create") {
        let reply = within("an answer", served.open(asked(&example, None)?)).await?;
        let is_change = example.method != "GET"
            && ["config.", "registry.", "lock.", "leader."]
                .iter()
                .any(|noun| example.id.starts_with(noun))
            && !["config.get-many", "registry.keepalive", "lock.keepalive", "leader.keepalive"]
                .contains(&example.id);
        let refused = reply.status() == StatusCode::FORBIDDEN;
        assert_eq!(refused, is_change, "{} {}", example.id, reply.status());
    }
    let error = served.owner().config("main").put(Put::new("a", "1")).await.unwrap_err();
    assert_eq!(error.code(), "read-only");
    assert_eq!(served.owner().config("main").get("a").await?, None);
    assert!(served.owner().admin().access().await?.read_only);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_so_many_watches_and_takes_them_from_nobody_else() -> Result<()> {
    let served = Served::guarded("[server]\nlimits = { streams = 2 }").await?;
    let [ann, bob] = [
        client(&served, &served.token("ann", Role::Viewer, &[]).await?)?,
        client(&served, &served.token("bob", Role::Viewer, &[]).await?)?,
    ];
    let first = ann.config("main").watch_prefix("").await?;
    let _second = ann.config("main").watch_prefix("").await?;
    let error = ann.config("main").watch_prefix("").await.unwrap_err();
    assert_eq!(error.code(), "too-many-calls");
    assert!(error.problem().context("a problem")?.retry_after_ms.is_some());
    bob.config("main").watch_prefix("").await?;
    // Other calls go on, and a place that was given up is free.
    ann.admin().backends().await?;
    drop(first);
    within("a place", async {
        while ann.config("main").watch_prefix("").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_answer_but_the_first() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Admin, &[]).await?;
    let ann = client(&served, &secret)?;
    let WriteOutcome::Done(_) = ann.config("main").put(Put::new("a", "1")).await? else {
        panic!("not written")
    };
    for example in examples().into_iter().filter(|example| example.method == "GET") {
        if example.id.ends_with(".watch") {
            continue;
        }
        let reply = served.send(asked(&example, Some(&secret))?).await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(!text.contains(&secret), "{}", example.id);
    }
    Ok(())
}
