//! When the plugin itself ends: its successor finds what it left on the server.

use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{EventType, WatchOptions};
use futures::future::join_all;
use pintle::{BackendState, config::ReadOptions, lock::LockRequest, registry::RegistrationStatus};
use pintle_test_suites::{eventually, follow::Follower, within};

use crate::{
    config::put,
    lock::waiting,
    registry::{LONG, status_is, web},
    stage::{Node, Stage},
    watch::prefix,
};

/// A host whose plugin has little memory, and a value that is a good part of it.
async fn narrow(stage: &Stage) -> Result<Node> {
    let mut client = stage.client().await?;
    client.put(stage.key("large/k"), vec![b'x'; 1 << 20], None).await?;
    let settings = stage.settings("a").backend("limits = { memory = \"12MiB\", call = \"20s\" }");
    stage.start(settings).await
}

/// Asks for more at once than the plugin has memory for, until it has ended and serves again. Of a past
/// version, for these are each asked for by themselves.
async fn end_plugin(node: &Node) -> Result<()> {
    let before = node.pintle.backend("main")?.restarts;
    let large = node.config.get("large/k").await?.context("the large value")?;
    let at = ReadOptions { at: Some(large.version.clone()), ..ReadOptions::default() };
    eventually("the end of the plugin", async || {
        let reads = (0..64).map(|_| node.config.get_with("large/k", at.clone()));
        join_all(reads).await;
        Ok((node.pintle.backend("main")?.restarts > before).then_some(()))
    })
    .await?;
    eventually("the successor", async || {
        let state = node.pintle.backend("main")?.state;
        Ok((state == BackendState::Serving).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_removes_the_locks_and_adopts_the_registrations() -> Result<()> {
    let stage = Stage::new().await?;
    let node = narrow(&stage).await?;
    let registration = node.register(web("1"), Duration::from_secs(60)).await?;
    let instance = stage.leased_key().await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    let mut client = stage.client().await?;
    let options = WatchOptions::new().with_prev_key();
    let mut events = client.watch(instance.key(), Some(options)).await?;
    end_plugin(&node).await?;

    let reason = within("the notice", lease.lost()).await?;
    assert!(!reason.is_empty());
    // Its TTL is ten minutes: without the checkpoint its owner would block itself.
    let next = within("the lock", node.lock.acquire(waiting("l"))).await??;
    assert!(matches!(next, pintle::lock::AcquireOutcome::Held(_)));
    status_is(&registration, |status| *status == RegistrationStatus::Registered).await?;
    let after = stage.client().await?.get(instance.key(), None).await?;
    let after = after.kvs().first().context("the instance")?;
    assert_eq!(after.create_revision(), instance.create_revision(), "it was gone in between");
    assert_eq!(after.value_str()?, instance.value_str()?, "since when it is registered, too");

    // Nobody saw it go. The deletion below is the first on its key.
    registration.deregister().await?;
    let deletions = async {
        loop {
            let message = events.message().await?.context("the end of the watch")?;
            let removal = message.events().iter().find(|e| e.event_type() == EventType::Delete);
            if let Some(removal) = removal {
                let before = removal.prev_kv().context("what was before")?;
                return anyhow::Ok(before.create_revision());
            }
        }
    };
    assert_eq!(within("the deletion", deletions).await??, instance.create_revision());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_with_a_successor() -> Result<()> {
    let stage = Stage::new().await?;
    let node = narrow(&stage).await?;
    put(&node.config, "w/k", "1").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("w")).await?;
    end_plugin(&node).await?;
    stage.client().await?.put(stage.key("w/k"), "2", None).await?;
    follower.until("the change", |now| now.state["w/k"] == "2").await?;
    let followed = follower.now();
    assert!(!followed.resyncs.is_empty(), "the gap is not marked");
    assert!(followed.ended.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_of_an_ended_plugin_leaves_no_claim() -> Result<()> {
    let stage = Stage::new().await?;
    let (node, other) = (narrow(&stage).await?, stage.node("b").await?);
    let held = other.hold(LockRequest::new("l").ttl(LONG)).await?;
    let lock = node.lock.clone();
    let waiter = tokio::spawn(async move { lock.acquire(waiting("l")).await });
    eventually("the waiter", async || {
        Ok((other.lock.inspect("l").await?.waiters.len() == 1).then_some(()))
    })
    .await?;
    end_plugin(&node).await?;
    let ended = within("the waiter's end", waiter).await??;
    assert!(ended.is_err(), "{ended:?}");
    eventually("no waiter", async || {
        Ok(other.lock.inspect("l").await?.waiters.is_empty().then_some(()))
    })
    .await?;
    assert!(held.is_held() && held.release().await?);
    Ok(())
}
