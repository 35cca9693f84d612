//! What a broken connection, a trap or a lost reply may do, and what not.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pintle::config::{Expect, Put, PutOutcome};
use pintle::lock::{AcquireOutcome, LockRequest};
use pintle::registry::{Instance, RegisterOutcome, RegistrationStatus};
use pintle::{Effect, HealthState};
use pintle_test_history::{Answer, Call, Entry, Expect as Expected, History, check_linearizable};
use pintle_test_proxy::{Action, Cut, Fault, Rule};
use pintle_test_suites::within;

use crate::support::{Host, eventually, other_client, proxy, shared};

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_reply_is_lost_has_an_unknown_effect_and_happened_once() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/lost-put").await?, other_client().await?);
    let config = host.config()?;
    config.put(Put::new("k", "1")).await?;
    let lost = proxy.arm(
        Rule::reply_to(|message| message.contains(b"/lost-put/k")),
        Action::CutBefore(Cut::Reset),
    );
    let error = config.put(Put::new("k", "2")).await.unwrap_err();
    lost.fired().await?;
    assert_eq!((error.code(), error.effect()), ("unavailable", Effect::Unknown));
    let (data, stat) = other.get_data("/lost-put/k").await?;
    assert_eq!((data.as_slice(), stat.version), (&b"2"[..], 1));
    assert!(config.get("k").await?.is_some(), "and the next call has a connection again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_reply_is_lost_is_read_again() -> Result<()> {
    let (host, proxy) = Host::proxied("/lost-get").await?;
    let config = host.config()?;
    config.put(Put::new("k", "1")).await?;
    let lost = proxy.arm(
        Rule::reply_to(|message| message.contains(b"/lost-get/k")),
        Action::CutBefore(Cut::Reset),
    );
    assert_eq!(&config.get("k").await?.context("nothing there")?.value[..], b"1");
    lost.fired().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_a_call_fails_with_the_reason_and_nothing_happened() -> Result<()> {
    let (host, proxy) = Host::proxied("/down").await?;
    let config = host.config()?;
    config.put(Put::new("k", "1")).await?;
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    // What is sent before the loss is noticed may have happened.
    eventually("the loss to be noticed", async || {
        let check = host.pintle.check_backend("main").await?;
        Ok(check.health?.state == HealthState::Unavailable)
    })
    .await?;
    let error = config.put(Put::new("k", "2")).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None));
    assert!(error.to_string().contains("connection refused"), "{error}");
    proxy.heal().await?;
    eventually("the server to be found again", async || {
        Ok(config.put(Put::new("k", "3")).await.is_ok())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed_and_left() -> Result<()> {
    let proxy = proxy(shared().await?).await?;
    let settings = "root = \"/half\"\nsession_timeout_ms = 4000";
    let host = Host::start(&[proxy.addr().to_string()], settings).await?;
    let config = host.config()?;
    config.put(Put::new("k", "1")).await?;
    let connections = proxy.connections();
    connections[0].strand().await?;
    eventually("another connection", async || Ok(host.counter("reconnects").await? >= 1)).await?;
    assert!(config.get("k").await?.is_some());
    Ok(())
}

/// A value that does not fit into the sandbox ends the incarnation.
async fn trap(host: &Host) -> Result<()> {
    let error = host.config()?.put(Put::new("k", vec![0; 24 << 20])).await.unwrap_err();
    anyhow::ensure!(error.code() == "plugin-ended", "{error}");
    Ok(())
}

async fn small_host(root: &str) -> Result<Host> {
    let endpoint = shared().await?.endpoint();
    Host::with(&format!(
        "[backends.main]\nplugin = \"zookeeper\"\nendpoints = [\"{endpoint}\"]\n\
         limits = {{ memory = \"16MiB\" }}\n[backends.main.settings]\nroot = \"{root}\"\n"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_trap_registrations_are_adopted_without_a_gap() -> Result<()> {
    let (host, other) = (small_host("/trap-registry").await?, other_client().await?);
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let registry = host.pintle.registry("main")?;
    let outcome = registry.register(instance, Duration::from_secs(30)).await?;
    let RegisterOutcome::Registered(registration) = outcome else { bail!("taken") };
    let path = "/trap-registry/.pintle/v1/registry/instances/web/1";
    let before = other.check_stat(path).await?.context("no node")?;
    trap(&host).await?;
    host.serving_again(1).await?;
    let is_there = |status: &RegistrationStatus| *status == RegistrationStatus::Registered;
    within("the registration", registration.wait_for(is_there)).await?;
    let after = other.check_stat(path).await?.context("no node")?;
    assert_eq!((before.czxid, before.ephemeral_owner), (after.czxid, after.ephemeral_owner));
    registration.deregister().await?;
    assert!(other.check_stat(path).await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deregistered_while_the_plugin_is_away_is_gone_when_that_is_answered() -> Result<()>
{
    let (host, other) = (small_host("/trap-deregister").await?, other_client().await?);
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let outcome = host.pintle.registry("main")?.register(instance, Duration::from_secs(30)).await?;
    let RegisterOutcome::Registered(registration) = outcome else { bail!("taken") };
    trap(&host).await?;
    registration.deregister().await?;
    let path = "/trap-deregister/.pintle/v1/registry/instances/web/1";
    assert!(other.check_stat(path).await?.is_none(), "at once, and not when it is found unclaimed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_trap_locks_are_lost_and_block_nobody() -> Result<()> {
    let host = small_host("/trap-lock").await?;
    let request = || LockRequest::new("job").ttl(Duration::from_secs(10));
    let lease = host.acquire(request()).await?;
    trap(&host).await?;
    within("the notice", lease.lost()).await?;
    host.serving_again(1).await?;
    let begun = std::time::Instant::now();
    let wait = request().wait(Duration::from_secs(10));
    let outcome = host.pintle.lock("main")?.acquire(wait).await?;
    assert!(matches!(outcome, AcquireOutcome::Held(_)), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "not by its TTL");
    Ok(())
}

/// R1 in small: a register that is read and written while connections break is linearizable.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_linearizable_while_connections_break() -> Result<()> {
    const CLIENTS: u32 = 4;
    const ROUNDS: u32 = 60;
    let history = History::default();
    let mut proxies = Vec::new();
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let proxy = proxy(shared().await?).await?;
        let host = Host::start(&[proxy.addr().to_string()], "root = \"/r1\"").await?;
        proxies.push(proxy);
        let history = history.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                operate(&host, &history, client, round).await?;
            }
            anyhow::Ok(())
        }));
    }
    let breaking = tokio::spawn(async move {
        for round in 0_u64.. {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let Some(proxy) = proxies.get(usize::try_from(round % u64::from(CLIENTS))?) else {
                continue;
            };
            let rule = if round % 2 == 0 { Rule::reply(|_| true) } else { Rule::request(|_| true) };
            proxy.arm(rule.nth(round % 5 + 1), Action::CutBefore(Cut::Reset));
            if round % 16 == 7 {
                proxy.set(Fault::Blackhole);
                tokio::time::sleep(Duration::from_millis(80)).await;
                proxy.heal().await?;
            }
        }
        anyhow::Ok(())
    });
    for task in tasks {
        task.await??;
    }
    breaking.abort();
    let report = check_linearizable(&history.operations());
    assert!(report.is_clean(), "{report}");
    Ok(())
}

/// One operation of a client, recorded.
async fn operate(host: &Host, history: &History, client: u32, round: u32) -> Result<()> {
    let config = host.config()?.with_timeout(Duration::from_secs(5));
    let key = format!("k{}", round % 2);
    if (client + round).is_multiple_of(3) {
        let pending = history.begin(client, &key, Call::Get);
        match config.get(&key).await {
            Ok(entry) => pending.ok(Answer::Got(entry.map(|entry| Entry {
                value: String::from_utf8_lossy(&entry.value).into_owned(),
                version: Some(entry.version.to_string()),
            }))),
            Err(_) => pending.failed(),
        }
        return Ok(());
    }
    let value = format!("{client}.{round}");
    let current = config.get(&key).await.ok().flatten();
    let (expect, expected) = match (&current, round % 2) {
        (Some(entry), 0) => {
            let version = entry.version.clone();
            (Expect::Version(version.clone()), Expected::Version(version.to_string()))
        }
        (None, 0) => (Expect::Absent, Expected::Absent),
        _ => (Expect::Anything, Expected::Anything),
    };
    let call = Call::Put { value: value.clone(), expect: expected };
    let pending = history.begin(client, &key, call);
    match config.put(Put::new(&key, value).expect(expect)).await {
        Ok(PutOutcome::Stored { version, .. }) => {
            pending.ok(Answer::Stored(Some(version.to_string())));
        }
        Ok(PutOutcome::Stale(_)) => pending.ok(Answer::Refused),
        Ok(PutOutcome::Fenced) => bail!("fenced"),
        Err(error) if error.effect() == Effect::None => pending.failed(),
        Err(_) => pending.unknown(),
    }
    Ok(())
}
