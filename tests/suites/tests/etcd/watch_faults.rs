//! Watches over broken connections, compaction and silence.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use pintle::config::Target;
use pintle_test_proxy::{Cut, Fault};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{
    DEADLINE, eventually,
    follow::{Follower, Record, check_all},
    within,
};

use crate::{
    config::put,
    stage::Stage,
    watch::{prefix, write},
};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_again_and_again_cost_no_change() -> Result<()> {
    const CUTS: usize = 6;
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let mut followers = Vec::new();
    for number in 0..6 {
        let target = if number < 3 { prefix("c") } else { Target::Key(format!("c/{number}")) };
        followers.push(Follower::open(&node.config, &format!("watcher {number}"), target).await?);
    }
    let (mut client, root) = (stage.client().await?, stage.root.clone());
    let keys: Vec<String> = (0..6).map(|number| format!("c/{number}")).collect();
    let writing = tokio::spawn(async move { write(&mut client, &root, &keys, 120).await });
    for number in 0..CUTS {
        let how = if number % 2 == 0 { Cut::Reset } else { Cut::Close };
        let before = proxy.counts().accepted;
        proxy.cut_all(how).await?;
        proxy.wait_until("a connection after the cut", |now| now.accepted > before).await?;
    }
    let record = within("the writer", writing).await???;
    for follower in followers.iter().take(3) {
        follower.until_state(&record.state).await?;
    }
    for (number, follower) in followers.iter().enumerate().skip(3) {
        let key = format!("c/{number}");
        let last = record.state.get(&key).cloned();
        follower.until("the last value", |now| now.state.get(&key).cloned() == last).await?;
    }
    // Nothing was compacted: the server still has everything that was missed.
    check_all(&followers, &record.written, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_compaction_underneath_a_watch_resyncs_and_is_right_again() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let mut client = stage.client().await?;
    for key in ["k/stays", "k/changes", "k/goes"] {
        client.put(stage.key(key), "1", None).await?;
    }
    let follower = Follower::open(&node.config, "watcher", prefix("k")).await?;
    let idle = Follower::open(&node.config, "watcher of nothing", prefix("nothing")).await?;

    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    client.put(stage.key("k/changes"), "2", None).await?;
    client.delete(stage.key("k/goes"), None).await?;
    client.put(stage.key("k/comes-and-goes"), "1", None).await?;
    client.delete(stage.key("k/comes-and-goes"), None).await?;
    let last = client.put(stage.key("k/new"), "1", None).await?;
    client.compact(last.header().context("a header")?.revision(), None).await?;
    proxy.heal().await?;

    let state = [("k/changes", "2"), ("k/new", "1"), ("k/stays", "1")];
    let state: BTreeMap<String, String> =
        state.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    follower.until_state(&state).await?;
    let followed = follower.now();
    assert_eq!(followed.resyncs.len(), 1, "{:?}", followed.resyncs);
    assert!(followed.ended.is_none(), "{:?}", followed.ended);

    // They go on, the one that saw nothing too.
    put(&node.config, "k/new", "2").await?;
    put(&node.config, "nothing/but", "1").await?;
    follower.until("the next change", |now| now.state["k/new"] == "2").await?;
    idle.until("the first change", |now| !now.state.is_empty()).await?;
    assert!(idle.now().resyncs.len() <= 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_larger_than_any_message_arrives_whole() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let follower = Follower::open(&node.config, "watcher", prefix("b")).await?;
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    let mut client = stage.client().await?;
    let mut record = Record::default();
    // 18 MB, where a message may have 16.
    for number in 0..180 {
        let (key, value) =
            (format!("b/{}", number % 3), format!("{number}-{}", "x".repeat(100 << 10)));
        client.put(stage.key(&key), value.as_str(), None).await?;
        record.put(&key, &value);
    }
    proxy.heal().await?;
    follower.until_state(&record.state).await?;
    // More than a plugin may keep for one reader becomes one gap that is marked.
    check_all(&[follower], &record.written, 1);
    stage.wipe().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fell_silent_is_noticed_by_a_ping_and_replaced() -> Result<()> {
    let stage = Stage::new().await?;
    let proxies = [stage.proxy().await?, stage.proxy().await?];
    let brisk = stage.brisk_node_through("brisk", &proxies[0]).await?;
    // Without PINGs it is noticed as well, when a proof that nothing is missing is overdue.
    let settings = stage.settings("slow").endpoints([proxies[1].addr().to_string()]);
    let slow = stage.start(settings.plugin("ping_after_ms = 600000")).await?;
    put(&brisk.config, "s/k", "1").await?;
    // Proofs come in periods from the opening on. This one's come first, so that it would be the first
    // to notice, were it not for the PINGs of the other.
    let waiting = Follower::open(&slow.config, "waiting", prefix("s")).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let noticing = Follower::open(&brisk.config, "noticing", prefix("s")).await?;
    // A snapshot comes over another connection: only a change shows that the watch stands.
    put(&brisk.config, "s/k", "2").await?;
    noticing.until("the first change", |now| now.state["s/k"] == "2").await?;
    waiting.until("the first change", |now| now.state["s/k"] == "2").await?;
    // The server's side of every connection ends and the client is not told.
    for connection in proxies.iter().flat_map(pintle_test_proxy::Proxy::connections) {
        connection.strand().await?;
    }
    stage.client().await?.put(stage.key("s/k"), "3", None).await?;
    noticing.until("the change", |now| now.state["s/k"] == "3").await?;
    assert_eq!(waiting.now().state["s/k"], "2", "it was no PING that noticed it");
    assert!(noticing.now().resyncs.is_empty());
    waiting.until("the change", |now| now.state["s/k"] == "3").await?;
    assert!(waiting.now().resyncs.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blackhole_shows_as_staleness_and_heals() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.brisk_node_through("a", &proxy).await?;
    put(&node.config, "h/k", "1").await?;
    let mirror = node.config.mirror(prefix("h")).await?;
    let follower = Follower::open(&node.config, "watcher", prefix("h")).await?;
    proxy.set(Fault::Blackhole);
    let error = within("an answer", node.config.get("h/k")).await?.unwrap_err();
    assert!(matches!(error.code(), "unavailable" | "timeout"), "{error}");
    stage.client().await?.put(stage.key("h/k"), "2", None).await?;
    let cached = mirror.cached("h/k", DEADLINE).context("the last that was known")?;
    assert_eq!(cached.entry.context("h/k")?.value, "1");
    proxy.heal().await?;
    follower.until("the change", |now| now.state["h/k"] == "2").await?;
    eventually("a live mirror", async || {
        let cached = mirror.cached("h/k", DEADLINE);
        Ok(cached.filter(|cached| cached.live && cached.entry.is_some()).map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_survive_a_restart_of_the_server() -> Result<()> {
    let mut stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("r")).await?;
    let mut record = Record::default();
    for turn in 0..3 {
        let mut client = stage.client().await?;
        for step in 0..20 {
            let value = format!("{turn}.{step}");
            client.put(stage.key("r/k"), value.as_str(), None).await?;
            record.put("r/k", &value);
        }
        let server = stage.server()?;
        server.kill()?;
        server.restart().await?;
    }
    follower.until_state(&record.state).await?;
    check_all(&[follower], &record.written, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_restore_of_an_older_snapshot_watches_show_what_is_there_now() -> Result<()> {
    let mut stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    put(&node.config, "o/old", "1").await?;
    put(&node.config, "o/changed", "1").await?;
    let snapshot = stage.folder().join("snapshot");
    let file = snapshot.display().to_string();
    stage.etcd.ctl(&["snapshot", "save", &file]).await?;
    put(&node.config, "o/changed", "2").await?;
    for number in 0..20 {
        put(&node.config, "o/new", &number.to_string()).await?;
    }
    let follower = Follower::open(&node.config, "watcher", prefix("o")).await?;
    let mirror = node.config.mirror(prefix("o")).await?;
    stage.server()?.restore(&snapshot).await?;
    let state = [("o/old", "1"), ("o/changed", "1")];
    let state: BTreeMap<String, String> =
        state.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    follower.until_state(&state).await?;
    assert!(!follower.now().resyncs.is_empty(), "the gap is not marked");
    eventually("a live mirror", async || {
        let cached = mirror.cached("o/changed", DEADLINE).filter(|cached| cached.live);
        Ok(cached.and_then(|cached| cached.entry).filter(|entry| entry.value == "1").map(drop))
    })
    .await?;
    // And it goes on from there.
    eventually("a write", async || Ok(put(&node.config, "o/old", "2").await.ok())).await?;
    follower.until("the change", |now| now.state["o/old"] == "2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_opened_while_the_server_is_away_begins_when_it_comes() -> Result<()> {
    let mut stage = Stage::alone(EtcdOptions::default()).await?;
    stage.client().await?.put(stage.key("l/k"), "1", None).await?;
    stage.server()?.kill()?;
    let node = stage.node("a").await?;
    let follower = Follower::begin(&node.config, "watcher", prefix("l")).await?;
    let error = node.config.get("l/k").await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    assert!(error.to_string().contains(&stage.etcd.endpoint()), "{error}");
    stage.server()?.restart().await?;
    follower.until("the snapshot", |now| now.state.contains_key("l/k")).await
}
