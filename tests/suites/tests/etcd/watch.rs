//! Watches while nothing is broken: order, values, boundaries, many at once.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use etcd_client::{Client, Txn, TxnOp};
use futures::{future::try_join_all, stream::StreamExt};
use pintle::config::{Delete, Target, WatchEvent};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{
    eventually,
    follow::{Follower, Record, check_all, next_event, snapshot, text},
    within,
};

use crate::{config::put, stage::Stage};

pub(crate) fn prefix(prefix: &str) -> Target {
    Target::Prefix(prefix.into())
}

/// Writes `count` values to each of `keys` natively, one after the other, with a removal now and
/// then; what was written.
pub(crate) async fn write(
    client: &mut Client,
    root: &str,
    keys: &[String],
    count: usize,
) -> Result<Record> {
    let mut record = Record::default();
    for turn in 0..count {
        for key in keys {
            let (path, value) = (format!("{root}{key}"), format!("{key}={turn}"));
            client.put(path.as_str(), value.as_str(), None).await?;
            record.put(key, &value);
            if turn % 7 == 3 {
                client.delete(path, None).await?;
                record.removed(key);
            }
        }
    }
    Ok(record)
}

/// Those who share a watch get it from their mirror; the server would read it from its store for each
/// change.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_before_is_told_without_having_the_server_look_it_up() -> Result<()> {
    const CHANGES: u32 = 100;
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    put(&node.config, "w/a", "0").await?;
    let mut watch = node.config.watch(prefix("w")).await?;
    snapshot(&mut watch).await?;
    let look_ups = async || stage.etcd.metric("etcd_mvcc_range_total", &[]).await;
    let before = look_ups().await?;
    let mut client = stage.client().await?;
    for number in 1..=CHANGES {
        client.put(stage.key("w/a"), number.to_string(), None).await?;
        let WatchEvent::Put { previous, .. } = next_event(&mut watch).await? else {
            bail!("no change")
        };
        assert_eq!(text(&previous.context("what was before")?.value), (number - 1).to_string());
    }
    let done = look_ups().await? - before;
    assert!(done < f64::from(CHANGES) / 2.0, "{done} look-ups for {CHANGES} changes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_is_there_and_then_every_change_with_what_was_before() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    put(config, "w/a", "1").await?;
    put(config, "w/b", "1").await?;
    let mut watch = config.watch(prefix("w")).await?;
    let found = snapshot(&mut watch).await?;
    assert_eq!(
        found,
        BTreeMap::from([("w/a", "1"), ("w/b", "1")].map(|(k, v)| (k.into(), v.into())))
    );

    let version = put(config, "w/a", "2").await?;
    let WatchEvent::Put { entry, previous } = next_event(&mut watch).await? else {
        bail!("no put")
    };
    assert_eq!((text(&entry.value), &entry.version), ("2".into(), &version));
    assert_eq!(text(&previous.context("what was before")?.value), "1");
    config.delete(Delete::new("w/a")).await?;
    let WatchEvent::Removed { key, version: removal, previous } = next_event(&mut watch).await?
    else {
        bail!("no removal")
    };
    assert_eq!(&*key, "w/a");
    assert_ne!(removal.context("its version")?, version);
    assert_eq!(text(&previous.context("what was before")?.value), "2");
    put(config, "w/new", "1").await?;
    assert!(matches!(next_event(&mut watch).await?, WatchEvent::Put { previous: None, .. }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_on_a_prefix_ends_at_a_separator_and_one_on_a_key_at_its_end() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let below = Follower::open(&node.config, "below", prefix("p/a")).await?;
    let only = Follower::open(&node.config, "only", Target::Key("p/a".into())).await?;
    let mut record = Record::default();
    for key in ["p/a", "p/a/x", "p/ab", "p/a.x", "p", "p/a0/x", "p/a/x/y", "p/a"] {
        // Through a host, so that the last one is the last for both.
        put(&node.config, key, &format!("{key}!")).await?;
        record.put(key, &format!("{key}!"));
    }
    put(&node.config, "p/a/last", "1").await?;
    record.put("p/a/last", "1");
    below.until("the last", |followed| followed.state.contains_key("p/a/last")).await?;
    only.until("both", |followed| followed.events.len() == 4).await?;
    let keys: Vec<_> = below.now().state.into_keys().collect();
    assert_eq!(keys, ["p/a/last", "p/a/x", "p/a/x/y"]);
    check_all(&[below], &record.written, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_many_writers_come_each_once_and_in_order() -> Result<()> {
    const WRITERS: usize = 4;
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let mut followers = Vec::new();
    for number in 0..8 {
        let target =
            if number % 2 == 0 { prefix("m") } else { Target::Key(format!("m/{number}/0")) };
        followers.push(Follower::open(&node.config, &format!("watcher {number}"), target).await?);
    }
    let client = stage.client().await?;
    let writers = (0..WRITERS).map(|writer| {
        let (mut client, root) = (client.clone(), stage.root.clone());
        async move {
            let keys: Vec<String> =
                (0..3).map(|key| format!("m/{}/{key}", 2 * writer + 1)).collect();
            write(&mut client, &root, &keys, 40).await
        }
    });
    let mut all = Record::default();
    for record in within("the writers", try_join_all(writers)).await?? {
        for (key, value) in record.state {
            all.state.insert(key, value);
        }
        for writer in 0..WRITERS {
            for key in (0..3).map(|key| format!("m/{}/{key}", 2 * writer + 1)) {
                for change in record.written.changes(&key) {
                    all.written.push(&key, change.clone());
                }
            }
        }
    }
    for follower in followers.iter().step_by(2) {
        follower.until_state(&all.state).await?;
    }
    for (number, follower) in followers.iter().enumerate().filter(|(number, _)| number % 2 == 1) {
        let key = format!("m/{number}/0");
        let last = all.state.get(&key).cloned();
        follower
            .until("the last value", |followed| followed.state.get(&key).cloned() == last)
            .await?;
    }
    check_all(&followers, &all.written, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_changes_of_a_transaction_arrive() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("t")).await?;
    let mut client = stage.client().await?;
    let ops: Vec<TxnOp> =
        (0..100).map(|number| TxnOp::put(stage.key(&format!("t/{number}")), "1", None)).collect();
    client.txn(Txn::new().and_then(ops)).await?;
    follower.until("all", |followed| followed.state.len() == 100).await?;
    assert!(follower.now().resyncs.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watches_share_few_connections() -> Result<()> {
    const WATCHES: usize = 100;
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let mut followers = Vec::new();
    for number in 0..WATCHES {
        let target = Target::Key(format!("s/{number}"));
        followers.push(Follower::begin(&node.config, &format!("watcher {number}"), target).await?);
    }
    let mut client = stage.client().await?;
    let keys: Vec<String> = (0..WATCHES).map(|number| format!("s/{number}")).collect();
    for follower in &followers {
        follower.until("its snapshot", |followed| !followed.events.is_empty()).await?;
    }
    let record = write(&mut client, &stage.root, &keys, 2).await?;
    for (number, follower) in followers.iter().enumerate() {
        let wanted = record.state.get(&format!("s/{number}"));
        let arrived = |value: Option<&String>| value == wanted;
        follower
            .until("its value", |followed| arrived(followed.state.get(&format!("s/{number}"))))
            .await?;
    }
    check_all(&followers, &record.written, 0);
    let network = node.pintle.backend("main")?.network;
    assert!(network.connections_open <= 4, "{network:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watch_is_proven_current_again_and_again() -> Result<()> {
    const BOUND: Duration = Duration::from_secs(15);
    // Nobody else writes to this one: nothing but questions can prove anything.
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    put(&node.config, "i/k", "1").await?;
    let mirror = node.config.mirror(prefix("i")).await?;
    let mut before = Duration::ZERO;
    let mut proofs = 0;
    let proven = async {
        while proofs < 4 {
            let age = mirror.cached("i/k", BOUND).context("a proof within the bound")?.age();
            proofs += u32::from(age < before);
            before = age;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(5 * BOUND, proven).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_dropped_is_closed_and_a_new_one_begins_anew() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    put(&node.config, "d/k", "1").await?;
    drop(Follower::open(&node.config, "first", prefix("d")).await?);
    put(&node.config, "d/k", "2").await?;
    let mut again = node.config.watch(prefix("d")).await?;
    let first = snapshot(&mut again).await?;
    if first.get("d/k").map(String::as_str) != Some("2") {
        // The shared watch was still open and a moment behind.
        assert!(
            matches!(next_event(&mut again).await?, WatchEvent::Put { entry, .. } if entry.value == "2")
        );
    }
    let mut lingering = again.take(1);
    put(&node.config, "d/k", "3").await?;
    assert!(within("the change", lingering.next()).await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_after_an_event_that_was_seen() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut watch = config.watch(prefix("e")).await?;
    snapshot(&mut watch).await?;
    put(config, "e/k", "1").await?;
    next_event(&mut watch).await?;
    let seen = watch.last_event_id().context("a place")?;
    drop(watch);
    put(config, "e/k", "2").await?;
    let resumed = eventually("the change", async || {
        let mut watch = config.watch_resuming(prefix("e"), seen).await?;
        Ok(Some(next_event(&mut watch).await?))
    })
    .await?;
    assert!(matches!(&resumed, WatchEvent::Put { entry, .. } if entry.value == "2"), "{resumed:?}");
    Ok(())
}
