//! The recipe is the one that native clients use: whoever follows it excludes us, and we them.
//!
//! A claim is a key of its own with a lease; the one of the lowest create-revision below the lock's
//! prefix holds (see `docs/layout.md`).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};
use pintle::{
    config::{Put, PutOutcome},
    lock::{AcquireOutcome, Lease, LockRequest},
};
use pintle_test_suites::{eventually, within};

use crate::{
    lock::{state_with, waiting},
    registry::LONG,
    stage::Stage,
};

/// A claim of a native client.
struct NativeClaim {
    client: Client,
    /// Below which the claims of the lock stand, with the separator at its end.
    prefix: String,
    key: String,
    revision: i64,
}

impl NativeClaim {
    /// Puts a claim beside those that are there, with a value like theirs.
    async fn make(stage: &Stage, prefix: &str, value: &[u8]) -> Result<Self> {
        let mut client = stage.client().await?;
        let lease = client.lease_grant(600, None).await?.id();
        let key = format!("{prefix}{lease:x}");
        let absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), value, Some(PutOptions::new().with_lease(lease)));
        let done = client.txn(Txn::new().when([absent]).and_then([put])).await?;
        let revision = done.header().context("a header")?.revision();
        Ok(Self { client, prefix: prefix.into(), key, revision })
    }

    /// Whether no older claim is there.
    async fn is_holder(&mut self) -> Result<bool> {
        let options = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(1);
        let first = self.client.get(self.prefix.as_str(), Some(options)).await?;
        Ok(first.kvs().first().context("its own claim")?.create_revision() == self.revision)
    }

    async fn release(mut self) -> Result<()> {
        self.client.delete(self.key, None).await?;
        Ok(())
    }
}

/// Prefix and value of the one claim that is there.
async fn shape(stage: &Stage) -> Result<(String, Vec<u8>)> {
    let claim = stage.leased_key().await?;
    let (prefix, _) = claim.key_str()?.rsplit_once('/').context("a separator")?;
    Ok((format!("{prefix}/"), claim.value().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_claim_waits_for_ours_and_then_excludes_us() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let lease = node.hold(LockRequest::new("r/lock").owner("ours").ttl(LONG)).await?;
    let (prefix, value) = shape(&stage).await?;
    assert!(prefix.starts_with(&stage.root));
    let mut native = NativeClaim::make(&stage, &prefix, &value).await?;
    assert!(!native.is_holder().await?);
    let state = node.lock.inspect("r/lock").await?;
    assert_eq!((state.holders.len(), state.waiters.len()), (1, 1), "{state:?}");

    let token = lease.token().context("a token")?.value;
    assert!(lease.release().await?);
    eventually("the native holder", async || Ok(native.is_holder().await?.then_some(()))).await?;
    let busy = node.lock.acquire(LockRequest::new("r/lock")).await?;
    assert!(matches!(busy, AcquireOutcome::Busy(_)), "two holders");
    assert!(native.is_holder().await?);

    // Ours waits for it, and its token is higher.
    let lock = node.lock.clone();
    let waiter = tokio::spawn(async move { lock.acquire(waiting("r/lock")).await });
    state_with(&node, "r/lock", |state| state.waiters.len() == 1).await?;
    let revision = u64::try_from(native.revision)?;
    native.release().await?;
    let AcquireOutcome::Held(next) = within("the waiter", waiter).await??? else {
        bail!("it waited in vain")
    };
    let after = next.token().context("a token")?.value;
    assert!(token < revision && revision < after, "{token}, {revision}, {after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_the_revision_at_which_the_claim_came_into_being() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let first = node.hold(LockRequest::new("r/token").ttl(LONG)).await?;
    let before = stage.leased_key().await?;
    let token = |lease: &Lease| -> Result<(String, u64)> {
        let token = lease.token().context("a token")?;
        Ok((token.epoch.to_string(), token.value))
    };
    let mut client = stage.client().await?;
    let cluster = client.status().await?.header().context("a header")?.cluster_id();
    let expected = |claim: &KeyValue| -> Result<(String, u64)> {
        Ok((format!("{cluster:x}"), claim.create_revision().try_into()?))
    };
    assert_eq!(token(&first)?, expected(&before)?);

    let lock = node.lock.clone();
    let waiter = tokio::spawn(async move { lock.acquire(waiting("r/token")).await });
    state_with(&node, "r/token", |state| state.waiters.len() == 1).await?;
    // The store goes on while it waits, and somebody writes its claim again.
    let claims = stage.leased_keys().await?;
    let own = claims.iter().find(|claim| claim.key() != before.key()).context("its claim")?;
    let options = PutOptions::new().with_lease(own.lease());
    client.put(own.key(), own.value(), Some(options)).await?;
    first.release().await?;
    let AcquireOutcome::Held(next) = within("the waiter", waiter).await??? else {
        bail!("it waited in vain")
    };
    assert_eq!(token(&next)?, expected(own)?);
    // A write that it guards is taken.
    let guarded = Put::new("r/guarded", "1").held(next.reference());
    assert!(matches!(node.config.put(guarded).await?, PutOutcome::Stored { .. }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_with_an_unknown_value_counts_as_a_holder() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let lease = node.hold(LockRequest::new("r/odd").ttl(LONG)).await?;
    let (prefix, _) = shape(&stage).await?;
    lease.release().await?;
    // As `etcdctl lock` and the Go client write it: without any value.
    let native = NativeClaim::make(&stage, &prefix, b"").await?;
    let busy = node.lock.acquire(LockRequest::new("r/odd")).await?;
    assert!(matches!(busy, AcquireOutcome::Busy(holders) if holders.len() == 1), "two holders");
    assert_eq!(node.lock.inspect("r/odd").await?.holders.len(), 1);
    native.release().await?;
    node.hold(LockRequest::new("r/odd")).await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_claim_between_two_of_ours_keeps_its_place() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let first = node.hold(LockRequest::new("r/place").ttl(LONG)).await?;
    let (prefix, value) = shape(&stage).await?;
    let mut native = NativeClaim::make(&stage, &prefix, &value).await?;
    let lock = node.lock.clone();
    let mut waiter = tokio::spawn(async move { lock.acquire(waiting("r/place")).await });
    state_with(&node, "r/place", |state| state.waiters.len() == 2).await?;
    first.release().await?;
    eventually("the native holder", async || Ok(native.is_holder().await?.then_some(()))).await?;
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiter).await;
    assert!(early.is_err(), "it overtook the native claim: {early:?}");
    native.release().await?;
    let outcome = within("the waiter", waiter).await???;
    assert!(matches!(outcome, AcquireOutcome::Held(_)));
    Ok(())
}
