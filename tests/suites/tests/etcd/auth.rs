//! Users, passwords and permissions; tokens that end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions};
use futures::{StreamExt, future::join_all};
use pintle::{
    Effect,
    config::{ListRequest, Put, Target},
    lock::{LeaseStatus, LockRequest},
};
use pintle_test_proxy::Cut;
use pintle_test_services::{Etcd, EtcdOptions, TestCa};
use pintle_test_suites::{eventually, follow::Follower, within};

use crate::{
    config::put,
    lock::status_is as lease_is,
    registry::{LONG, web},
    stage::{NodeSettings, Stage},
    watch::prefix,
};

const ROOT: [&str; 2] = ["--user", "root:root-secret"];

async fn ctl(etcd: &Etcd, arguments: &[&str]) -> Result<String> {
    Ok(etcd.ctl(&[&ROOT[..], arguments].concat()).await?)
}

/// A server with authentication, and a user `app` who may do everything below the root.
async fn guarded(mut arguments: Vec<String>) -> Result<Stage> {
    // The cheapest hash of passwords: many log in here.
    arguments.extend(["--bcrypt-cost".into(), "4".into()]);
    let stage = Stage::alone(EtcdOptions { arguments, ..EtcdOptions::default() }).await?;
    let etcd = &stage.etcd;
    etcd.ctl(&["user", "add", "root:root-secret"]).await?;
    etcd.ctl(&["user", "grant-role", "root", "root"]).await?;
    add_user(&stage, "app", "app-secret", &["--prefix=true", "readwrite", &stage.root]).await?;
    etcd.ctl(&["auth", "enable"]).await?;
    Ok(stage)
}

/// A user with one permission.
async fn add_user(stage: &Stage, name: &str, password: &str, permission: &[&str]) -> Result<()> {
    stage.etcd.ctl(&["role", "add", name]).await?;
    let grant = [&["role", "grant-permission", name], permission].concat();
    stage.etcd.ctl(&grant).await?;
    stage.etcd.ctl(&["user", "add", &format!("{name}:{password}")]).await?;
    stage.etcd.ctl(&["user", "grant-role", name, name]).await?;
    Ok(())
}

fn as_user(settings: NodeSettings, user: &str, password: &str) -> NodeSettings {
    settings.plugin(format!("user = {user:?}")).plugin(format!("password = {password:?}"))
}

async fn calls(etcd: &Etcd, method: &str) -> Result<f64> {
    let labels = [("grpc_method", method)];
    Ok(etcd.metric("grpc_server_handled_total", &labels).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_does_all_that_it_may() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    let node = stage.start(as_user(stage.settings("a"), "app", "app-secret")).await?;
    put(&node.config, "k", "1").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("")).await?;
    put(&node.config, "k", "2").await?;
    follower.until("the change", |now| now.state["k"] == "2").await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    node.config.put(Put::new("k", "3").held(lease.reference())).await?;
    assert_eq!(ctl(&stage.etcd, &["get", &stage.key("k"), "--print-value-only"]).await?, "3");
    let registration = node.register(web("1"), LONG).await?;
    assert_eq!(node.instances("web").await?.len(), 1);
    registration.deregister().await?;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_plainly_and_never_tried_again_by_itself() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    let before = calls(&stage.etcd, "Authenticate").await?;
    let node = stage.start(as_user(stage.settings("a"), "app", "not-the-secret")).await?;
    let _watch = node.config.watch(prefix("")).await?;
    for _ in 0..3 {
        let error = within("an answer", node.config.get("k")).await?.unwrap_err();
        let text = format!("{error} {:?}", error.advice());
        // Refused when it started, or call by call.
        assert!(matches!(error.code(), "unauthenticated" | "not-running"), "{text}");
        assert_eq!(error.effect(), Effect::None);
        assert!(text.contains("password") || text.contains("authenticat"), "{text}");
        assert!(!text.contains("not-the-secret"), "{text}");
    }
    let status = node.pintle.backend("main")?;
    assert!(!format!("{status:?}").contains("not-the-secret"), "{status:?}");
    let after = calls(&stage.etcd, "Authenticate").await?;
    assert!(after - before <= 1.0, "{} attempts", after - before);
    // Nobody asks any more: nothing may go on in the background.
    let tried = async {
        while calls(&stage.etcd, "Authenticate").await? <= after {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let tried = tokio::time::timeout(Duration::from_secs(2), tried).await;
    assert!(tried.is_err(), "it tries again and again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_do_is_named() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    let open = stage.key("open/");
    let etcd = &stage.etcd;
    for arguments in [
        &["role", "add", "reader"][..],
        &["role", "grant-permission", "reader", "--prefix=true", "read", &open],
        &["user", "add", "reader:reader-secret"],
        &["user", "grant-role", "reader", "reader"],
        &["put", &stage.key("open/k"), "1"],
    ] {
        ctl(etcd, arguments).await?;
    }
    let node = stage.start(as_user(stage.settings("a"), "reader", "reader-secret")).await?;
    assert_eq!(node.config.get("open/k").await?.context("open/k")?.value, "1");
    let errors = [
        node.config.put(Put::new("open/k", "2")).await.unwrap_err(),
        node.config.get("secret").await.unwrap_err(),
        node.config.list(ListRequest::default()).await.unwrap_err(),
        node.lock.acquire(LockRequest::new("l")).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.code(), error.effect()), ("denied", Effect::None), "{error}");
        assert!(error.to_string().contains("permission"), "it does not say what lacks: {error}");
    }
    // A watch that is not allowed ends with a reason, and never falls silent.
    let mut watch = node.config.watch(prefix("secret")).await?;
    let error = within("the end", watch.next()).await?.context("an error")?.unwrap_err();
    assert_eq!(error.code(), "denied", "{error}");
    let follower = Follower::open(&node.config, "watcher", prefix("open")).await?;
    ctl(etcd, &["put", &stage.key("open/k"), "2"]).await?;
    follower.until("the change", |now| now.state["open/k"] == "2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_be_read_spoils_no_other_that_is_read_at_the_same_time() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    for arguments in [
        &["role", "add", "reader"][..],
        &["role", "grant-permission", "reader", "--prefix=true", "read", &stage.key("open/")],
        &["user", "add", "reader:reader-secret"],
        &["user", "grant-role", "reader", "reader"],
        &["put", &stage.key("open/k"), "1"],
    ] {
        ctl(&stage.etcd, arguments).await?;
    }
    let node = stage.start(as_user(stage.settings("a"), "reader", "reader-secret")).await?;
    for _ in 0..4 {
        let keys = (0..64).map(|number| if number % 9 == 4 { "closed" } else { "open/k" });
        let reads = keys.map(async |key| (key, node.config.get(key).await));
        for (key, read) in join_all(reads).await {
            match read {
                Ok(entry) => assert_eq!((key, entry.context(key)?.value), ("open/k", "1".into())),
                Err(error) => assert_eq!((key, error.code()), ("closed", "denied"), "{error}"),
            }
        }
    }
    let together = calls(&stage.etcd, "Txn").await?;
    assert!(together >= 4.0, "{together} requests for more than one key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ended_is_renewed_unnoticed() -> Result<()> {
    let ca = TestCa::new()?;
    let pair = ca.client("jwt")?;
    // Such a token ends on time whether it is used or not.
    let token = format!(
        "jwt,pub-key={},priv-key={},sign-method=ES256,ttl=2s",
        pair.certificate.display(),
        pair.key.display()
    );
    let stage = guarded(vec!["--auth-token".into(), token]).await?;
    let node = stage.start(as_user(stage.settings("a"), "app", "app-secret")).await?;
    put(&node.config, "k", "0").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("")).await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(3))).await?;
    for turn in 1..=2 {
        until_tokens_of_now_end(&stage.etcd, &stage.key("k")).await?;
        let value = turn.to_string();
        put(&node.config, "k", &value).await?;
        follower.until("the change", |now| now.state["k"] == value).await?;
    }
    assert_eq!(lease.status(), LeaseStatus::Held);
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ended_because_nobody_used_it_is_renewed_unnoticed() -> Result<()> {
    let stage = guarded(vec!["--auth-token-ttl".into(), "1".into()]).await?;
    let node = stage.start(as_user(stage.settings("a"), "app", "app-secret")).await?;
    put(&node.config, "k", "1").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("")).await?;
    // Use prolongs such a token, so that each of these can be looked at once.
    let mut unused = Vec::new();
    for _ in 0..40 {
        unused.push(without_renewal(&stage.etcd).await?);
    }
    let key = stage.key("k");
    let ended = eventually("the end of the tokens", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut native = unused.pop().context("they all lived")?;
        Ok(native.get(key.as_str(), None).await.err())
    });
    assert!(ended.await?.to_string().contains("invalid auth token"));
    // Nothing was asked for but a watch, and the next thing is another one.
    let second = Follower::open(&node.config, "second watcher", Target::Key("k".into())).await?;
    put(&node.config, "k", "2").await?;
    follower.until("the change", |now| now.state["k"] == "2").await?;
    second.until("the change", |now| now.state["k"] == "2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_taken_away_ends_its_watch_and_no_other() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    let etcd = &stage.etcd;
    let (kept, lost) = (stage.key("kept/"), stage.key("lost/"));
    let grant = ["role", "grant-permission", "two", "--prefix=true", "read"];
    for arguments in [
        &["role", "add", "two"][..],
        &[&grant[..], &[kept.as_str()]].concat(),
        &[&grant[..], &[lost.as_str()]].concat(),
        &["user", "add", "two:two-secret"],
        &["user", "grant-role", "two", "two"],
    ] {
        ctl(etcd, arguments).await?;
    }
    let proxy = stage.proxy().await?;
    let settings = stage.settings("a").endpoints([proxy.addr().to_string()]);
    let node = stage.start(as_user(settings, "two", "two-secret")).await?;
    let stays = Follower::open(&node.config, "stays", prefix("kept")).await?;
    let ends = Follower::open(&node.config, "ends", prefix("lost")).await?;
    ctl(etcd, &["role", "revoke-permission", "two", "--prefix=true", &lost]).await?;
    // The server looks at permissions when a watch is opened: as it is again after this.
    proxy.cut_all(Cut::Reset).await?;
    ends.until("the end", |now| now.ended.is_some()).await?;
    let reason = ends.now().ended.context("a reason")?;
    assert!(reason.contains("permission"), "{reason}");
    ctl(etcd, &["put", &stage.key("kept/k"), "1"]).await?;
    stays.until("the change", |now| now.state.contains_key("kept/k")).await?;
    assert!(stays.now().ended.is_none() && stays.now().resyncs.is_empty());
    Ok(())
}

/// A native client that never renews its token.
async fn without_renewal(etcd: &Arc<Etcd>) -> Result<Client> {
    let options =
        ConnectOptions::new().with_user("app", "app-secret").with_auto_token_refresh(false);
    Ok(Client::connect([etcd.endpoint()], Some(options)).await?)
}

/// Waits until a native client that never renews its token is refused.
async fn until_tokens_of_now_end(etcd: &Arc<Etcd>, key: &str) -> Result<()> {
    let mut native = without_renewal(etcd).await?;
    native.get(key, None).await?;
    eventually("the end of the token", async || Ok(native.get(key, None).await.err().map(drop)))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_restarted_server_forgot_are_renewed() -> Result<()> {
    let mut stage = guarded(Vec::new()).await?;
    let node = stage.start(as_user(stage.settings("a"), "app", "app-secret")).await?;
    put(&node.config, "k", "1").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("")).await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(60))).await?;
    let server = stage.server()?;
    server.kill()?;
    server.restart().await?;
    eventually("a write", async || Ok(put(&node.config, "k", "2").await.ok())).await?;
    follower.until("the change", |now| now.state["k"] == "2").await?;
    lease_is(&lease, |status| *status == LeaseStatus::Held).await?;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_user_a_guarded_server_is_named_as_the_reason() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    let node = stage.node("a").await?;
    let error = node.config.get("k").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("unauthenticated", Effect::None), "{error}");
    assert!(error.to_string().contains("user"), "{error}");
    let mut watch = node.config.watch(prefix("")).await?;
    let ended = within("the end", watch.next()).await?.context("an error")?;
    assert_eq!(ended.unwrap_err().code(), "unauthenticated");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_no_hindrance_where_the_server_asks_for_none() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.start(as_user(stage.settings("a"), "app", "app-secret")).await?;
    put(&node.config, "k", "1").await?;
    assert!(node.config.get("k").await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_can_never_work_are_refused_by_name() -> Result<()> {
    let stage = Stage::new().await?;
    for (line, name) in [
        ("user = \"app\"", "password"),
        ("password = \"app-secret\"", "user"),
        ("roots = \"/x/\"", "roots"),
        ("user = 5", "user"),
    ] {
        let node = stage.start(stage.settings("a").plugin(line)).await?;
        let status = node.pintle.backend("main")?;
        assert_eq!(status.state.as_str(), "refused", "{line}: {status:?}");
        assert!(status.reason.contains(name), "{line}: {}", status.reason);
        assert!(!status.reason.contains("app-secret"), "{}", status.reason);
    }
    let none = stage.start(stage.settings("a").endpoints([])).await?;
    let status = none.pintle.backend("main")?;
    assert_eq!(status.state.as_str(), "refused", "{status:?}");
    assert!(status.reason.contains("endpoints"), "{}", status.reason);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_found_by_reference() -> Result<()> {
    let stage = guarded(Vec::new()).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "app-secret\n")?;
    let reference = format!("password = {{ file = {:?} }}", file.path());
    let settings = stage.settings("a").plugin("user = \"app\"").plugin(reference);
    let node = stage.start(settings).await?;
    put(&node.config, "k", "1").await?;
    let watch = node.config.watch(Target::Key("k".into())).await?;
    drop(watch);
    Ok(())
}
