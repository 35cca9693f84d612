//! The robustness goals in small: the fault injection that runs for minutes does the same at length.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use pintle::{
    Effect,
    config::{Expect, Put, PutOutcome},
    lock::{AcquireOutcome, LockRequest},
    registry::RegistrationStatus,
};
use pintle_test_history::{Resource, check_writes};
use pintle_test_proxy::{Action, Cut, Direction, Fault, Proxy, Rule};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{
    eventually,
    follow::{Follower, check_all},
    load::Load,
    within,
};

use crate::{
    config::put,
    lock::token_of,
    registry::{status_is, web},
    stage::{Node, Stage},
    watch::{prefix, write},
};

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_linearizable_while_connections_break() -> Result<()> {
    const OPERATIONS: usize = 1_600;
    let stage = Stage::new().await?;
    let proxies = [stage.proxy().await?, stage.proxy().await?];
    let mut nodes = Vec::new();
    for (number, proxy) in proxies.iter().enumerate() {
        nodes.push(stage.node_through(&number.to_string(), proxy).await?);
    }
    let configs: Vec<_> = nodes.iter().map(|node| node.config.clone()).collect();
    let load = Load::start(&configs, 8);
    let mut faults = 0;
    while load.count() < OPERATIONS {
        break_something(&proxies[faults % 2], faults / 2).await?;
        faults += 1;
        load.more(150).await?;
    }
    let report = load.end().await?;
    assert!(report.checked >= 1_600 && report.is_clean(), "{faults} faults: {report}");
    Ok(())
}

/// One of the faults, in turn.
async fn break_something(proxy: &Proxy, number: usize) -> Result<()> {
    let reply = || Rule::reply_to(|message| message.contains(b"reg/"));
    match number % 3 {
        0 => proxy.arm(reply(), Action::CutBefore(Cut::Reset)).fired().await?,
        1 => proxy.arm(reply(), Action::CutAfter(Cut::Close)).fired().await?,
        _ => drop(proxy.cut_all(Cut::Reset).await?),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_watchers_miss_nothing_over_reconnects_and_compaction() -> Result<()> {
    const WATCHERS: usize = 50;
    const ROUNDS: usize = 5;
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let mut followers = Vec::new();
    for number in 0..WATCHERS {
        let target = prefix(&format!("f/{}", number % 5));
        followers.push(Follower::open(&node.config, &format!("watcher {number}"), target).await?);
    }
    let (client, root) = (stage.client().await?, stage.root.clone());
    let keys: Vec<String> = (0..10).map(|number| format!("f/{}/{number}", number % 5)).collect();
    let writing = {
        let (mut client, root) = (client.clone(), root.clone());
        tokio::spawn(async move { write(&mut client, &root, &keys, 100).await })
    };
    let mut client = client;
    for _ in 0..ROUNDS {
        let before = proxy.counts().accepted;
        proxy.cut_all(Cut::Reset).await?;
        let now = client.get(root.as_str(), None).await?;
        client.compact(now.header().context("a header")?.revision(), None).await?;
        proxy.wait_until("a connection after the cut", |now| now.accepted > before).await?;
    }
    let record = within("the writer", writing).await???;
    for (number, follower) in followers.iter().enumerate() {
        let below = format!("f/{}/", number % 5);
        let wanted =
            record.state.iter().filter(|(key, _)| key.starts_with(&below)).map(own).collect();
        follower.until_state(&wanted).await?;
    }
    check_all(&followers, &record.written, ROUNDS);
    Ok(())
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// Each holder writes once at once, and once when it has long lost the lock. How many late writes
/// were taken, and how many refused.
async fn pausing_holders(resource: &Resource) -> Result<(u64, u64)> {
    const HOLDERS: usize = 4;
    let stage = Stage::new().await?;
    let mut nodes: Vec<(Proxy, Node)> = Vec::new();
    for number in 0..HOLDERS {
        let proxy = stage.proxy().await?;
        let node = stage.node_through(&number.to_string(), &proxy).await?;
        nodes.push((proxy, node));
    }
    let mut late = Vec::new();
    for (proxy, node) in &nodes {
        let request =
            LockRequest::new("r4").ttl(Duration::from_secs(2)).wait(Duration::from_secs(60));
        let outcome = within("the lock", node.lock.acquire(request)).await??;
        let AcquireOutcome::Held(lease) = outcome else { bail!("it waited in vain") };
        let token = token_of(&lease)?;
        let written = resource.write("r4", "at once", token.clone());
        assert!(written.is_ok(), "the newest holder was refused");
        // It pauses for longer than its TTL, and does not look whether it still holds.
        proxy.set(Fault::Blackhole);
        late.push((lease, token));
    }
    late.pop();
    let before = resource.refused();
    let mut taken = 0;
    for (lease, token) in late {
        assert!(!lease.is_held(), "two holders");
        taken += u64::from(resource.write("r4", "late", token).is_ok());
    }
    Ok((taken, resource.refused() - before))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_checks_tokens_takes_no_write_of_a_holder_who_paused() -> Result<()> {
    let (checking, unchecked) = (Resource::checking(), Resource::unchecked());
    let runs = tokio::try_join!(pausing_holders(&checking), pausing_holders(&unchecked))?;
    assert_eq!(runs.0, (0, 3));
    assert!(check_writes(&checking.accepted()).is_clean());
    // The same without the check is what tokens are for.
    assert_eq!(runs.1, (3, 0));
    assert!(!check_writes(&unchecked.accepted()).is_clean());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_reply_was_lost_is_in_doubt_and_happened_once() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let mut client = stage.client().await?;
    for round in 0..10 {
        let (key, how) = (format!("lost/{round}"), [Cut::Reset, Cut::Close][round % 2]);
        let needle = key.clone().into_bytes();
        let rule = Rule::reply_to(move |message| message.contains(&needle));
        let armed = proxy.arm(rule, Action::CutBefore(how));
        let outcome = within("an answer", node.config.put(Put::new(key.as_str(), "1"))).await?;
        armed.fired().await?;
        match outcome {
            Err(error) => assert_eq!(error.effect(), Effect::Unknown, "{error}"),
            Ok(outcome) => assert!(matches!(outcome, PutOutcome::Stored { .. }), "{outcome:?}"),
        }
        let stored = client.get(stage.key(&key), None).await?;
        let versions: Vec<i64> = stored.kvs().iter().map(|pair| pair.version()).collect();
        assert_eq!(versions, [1], "written {versions:?} times");
        // Read before you repeat: the expectation tells.
        let again = Put::new(key.as_str(), "2").expect(Expect::Absent);
        let again = eventually("an answer", async || Ok(node.config.put(again.clone()).await.ok()));
        assert!(matches!(again.await?, PutOutcome::Stale(Some(_))));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_left_did_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    put(&node.config, "first", "1").await?;
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    let error = within("an answer", node.config.put(Put::new("k", "1"))).await?.unwrap_err();
    // In doubt at most if it met the cut itself.
    assert!(matches!(error.code(), "unavailable" | "timeout"), "{error}");
    let error = within("an answer", node.config.put(Put::new("k", "1"))).await?.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error}");
    proxy.heal().await?;
    eventually("an answer", async || Ok(node.config.get("k").await.ok())).await?;
    assert!(stage.keys_below("k").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_is_there_again_after_each_restart() -> Result<()> {
    const INSTANCES: usize = 100;
    let mut stage = Stage::alone(EtcdOptions::default()).await?;
    let node = Arc::new(stage.node("a").await?);
    let registering = (0..INSTANCES).map(|number| {
        let node = Arc::clone(&node);
        async move { node.register(web(&number.to_string()), Duration::from_secs(3)).await }
    });
    let registrations = try_join_all(registering).await?;
    for _ in 0..2 {
        let server = stage.server()?;
        server.kill()?;
        server.restart().await?;
        eventually("all instances", async || {
            let found = node.instances("web").await.map_or(0, |all| all.len());
            Ok((found == INSTANCES).then_some(()))
        })
        .await?;
    }
    for registration in &registrations {
        status_is(registration, |status| *status == RegistrationStatus::Registered).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_converges_after_a_partition() -> Result<()> {
    const KEYS: usize = 200;
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.brisk_node_through("a", &proxy).await?;
    let mut client = stage.client().await?;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("c/{number}")).collect();
    let mut record = write(&mut client, &stage.root, &keys, 1).await?;
    let follower = Follower::open(&node.config, "watcher", prefix("c")).await?;
    // Packets vanish both ways, and nobody is told.
    proxy.set(Fault::BlackholeTowards(Direction::ToClient));
    for key in keys.iter().take(20) {
        client.put(stage.key(key), "changed", None).await?;
        record.put(key, "changed");
    }
    let error = within("an answer", node.config.get("c/0")).await?.unwrap_err();
    assert!(matches!(error.code(), "unavailable" | "timeout"), "{error}");
    proxy.heal().await?;
    follower.until_state(&record.state).await?;
    assert!(follower.now().resyncs.is_empty());
    Ok(())
}
