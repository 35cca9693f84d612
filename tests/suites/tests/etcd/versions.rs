//! The oldest and the newest server line: the same, in a smaller set.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pintle::{
    config::{Expect, Put, PutOutcome, Txn, TxnOp, TxnOutcome},
    lock::{AcquireOutcome, LockRequest, Mode},
    registry::RegisterOutcome,
};
use pintle_test_proxy::Cut;
use pintle_test_services::{EtcdOptions, EtcdVersion};
use pintle_test_suites::{eventually, follow::Follower, within};

use crate::{
    lock::{token_of, waiting},
    registry::{LONG, web},
    stage::Stage,
    watch::prefix,
};

async fn on(version: EtcdVersion) -> Result<Stage> {
    Stage::alone(EtcdOptions { version, ..EtcdOptions::default() }).await
}

async fn configuration_works_on(version: EtcdVersion) -> Result<()> {
    let stage = on(version).await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    stage.etcd.ctl(&["put", &stage.key("k/a"), "1"]).await?;
    let entry = node.config.get("k/a").await?.context("k/a")?;
    let follower = Follower::open(&node.config, "watcher", prefix("k")).await?;
    let newer = Put::new("k/a", "2").expect(Expect::Version(entry.version.clone()));
    assert!(matches!(node.config.put(newer.clone()).await?, PutOutcome::Stored { .. }));
    assert!(matches!(node.config.put(newer).await?, PutOutcome::Stale(Some(_))));
    let txn = Txn {
        conditions: vec![("k/b".into(), Expect::Absent)],
        ops: vec![TxnOp::Put { key: "k/b".into(), value: "1".into(), content_type: None }],
        ..Txn::default()
    };
    assert!(matches!(node.config.txn(txn.clone()).await?, TxnOutcome::Committed(_)));
    assert!(matches!(node.config.txn(txn).await?, TxnOutcome::Stale(_)));
    follower.until("both changes", |now| now.state.len() == 2 && now.state["k/a"] == "2").await?;
    let error = node.config.put(Put::new("big", vec![1; 2 << 20])).await.unwrap_err();
    assert_eq!(error.code(), "too-large", "{error}");

    // Resuming, and compaction underneath.
    proxy.cut_all(Cut::Reset).await?;
    stage.etcd.ctl(&["put", &stage.key("k/a"), "3"]).await?;
    follower.until("the change", |now| now.state["k/a"] == "3").await?;
    assert!(follower.now().resyncs.is_empty());
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    stage.etcd.ctl(&["del", &stage.key("k/b")]).await?;
    let mut client = stage.client().await?;
    let last = client.put(stage.key("k/a"), "4", None).await?;
    client.compact(last.header().context("a header")?.revision(), None).await?;
    proxy.heal().await?;
    follower.until("the resync", |now| now.state.len() == 1 && now.state["k/a"] == "4").await?;
    assert_eq!(follower.now().resyncs.len(), 1);
    Ok(())
}

async fn locks_and_registrations_work_on(version: EtcdVersion) -> Result<()> {
    let stage = on(version).await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let first = a.hold(LockRequest::new("l").ttl(LONG)).await?;
    let before = token_of(&first)?;
    let lock = b.lock.clone();
    let waiter = tokio::spawn(async move { lock.acquire(waiting("l")).await });
    eventually("the waiter", async || {
        Ok((a.lock.inspect("l").await?.waiters.len() == 1).then_some(()))
    })
    .await?;
    assert!(first.release().await?);
    let AcquireOutcome::Held(second) = within("the waiter", waiter).await??? else {
        bail!("it waited in vain")
    };
    assert!(token_of(&second)?.value > before.value);
    let guarded = Put::new("g", "1").held(second.reference());
    assert!(matches!(b.config.put(guarded).await?, PutOutcome::Stored { .. }));
    let key = stage.leased_key().await?;
    stage.etcd.ctl(&["lease", "revoke", &format!("{:x}", key.lease())]).await?;
    within("the notice", second.lost()).await?;
    let shared = || LockRequest::new("l").mode(Mode::Shared).ttl(LONG);
    let (_one, _two) = (a.hold(shared()).await?, b.hold(shared()).await?);

    let registration = a.register(web("1"), Duration::from_secs(2)).await?;
    assert!(matches!(b.registry.register(web("1"), LONG).await?, RegisterOutcome::Taken(_)));
    assert_eq!(b.instances("web").await?.len(), 1);
    registration.deregister().await?;
    assert!(b.instances("web").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_works_on_etcd_3_4() -> Result<()> {
    configuration_works_on(EtcdVersion::V3_4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_works_on_etcd_3_6() -> Result<()> {
    configuration_works_on(EtcdVersion::V3_6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_registrations_work_on_etcd_3_4() -> Result<()> {
    locks_and_registrations_work_on(EtcdVersion::V3_4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_registrations_work_on_etcd_3_6() -> Result<()> {
    locks_and_registrations_work_on(EtcdVersion::V3_6).await
}
