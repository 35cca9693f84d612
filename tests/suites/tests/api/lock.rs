//! Locks and leases.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use http::StatusCode;
use pintle::lock::LockRequest;
use pintle_client::{
    Client,
    api::{
        config::WriteQuery,
        lock::{Acquire, Lease, ListQuery, Mode, Released},
        problem::code,
    },
    config::{Put, WriteOutcome},
    lease::HeldLease,
    lock::{AcquireOutcome, LeaseName, is_gone},
    watch::Delivery,
};
use pintle_test_suites::within;

use crate::served::Served;

const LEASE: &str = "/v1/backends/main/locks/jobs%2Fnightly/leases";

fn short() -> Acquire {
    Acquire { ttl_ms: 2_000, owner: "test".into(), ..Acquire::default() }
}

async fn hold(client: &Client, name: &str, acquire: Acquire) -> Result<HeldLease> {
    match within("the lock", client.lock("main").acquire(name, acquire)).await?? {
        AcquireOutcome::Held(lease) => Ok(lease),
        AcquireOutcome::Busy(holders) => bail!("{name} is held by {holders:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_one_holder_whose_token_is_higher_than_those_before() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    let first = hold(&client, "jobs/nightly", Acquire::default()).await?;
    let AcquireOutcome::Busy(holders) =
        client.lock("main").acquire("jobs/nightly", Acquire::default()).await?
    else {
        panic!("two holders")
    };
    assert_eq!(holders[0].token.as_ref(), first.token());
    let before = first.token().context("a token")?.clone();
    assert!(first.is_held() && first.remaining() <= Duration::from_secs(15));
    assert!(first.release().await?);

    let second = hold(&client, "jobs/nightly", Acquire::default()).await?;
    let after = second.token().context("a token")?;
    assert_eq!(after.epoch, before.epoch);
    assert!(after.value > before.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_with_the_same_id_finds_the_same_lease() -> Result<()> {
    let served = Served::new().await?;
    let first: Lease = served.put(&format!("{LEASE}/one"), "").await?.json()?;
    let again: Lease = served.put(&format!("{LEASE}/one"), "").await?.json()?;
    assert_eq!(first.token, again.token);
    let other = served.put(&format!("{LEASE}/one"), r#"{"mode":"shared"}"#).await?;
    assert_eq!(other.problem()?.code(), code::LEASE_ID_IN_USE);
    let elsewhere = served.put("/v1/backends/main/locks/other/leases/one", "").await?;
    assert_eq!(elsewhere.problem()?.code(), code::LEASE_ID_IN_USE);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_has_ended_is_never_given_again() -> Result<()> {
    let served = Served::new().await?;
    let target = &format!("{LEASE}/one");
    let unknown = served.post(&format!("{target}/keepalive"), "").await?;
    assert_eq!(unknown.status, StatusCode::GONE);
    assert_eq!(unknown.problem()?.code(), code::LEASE_UNKNOWN);
    assert_eq!(served.delete(target).await?.problem()?.code(), code::LEASE_UNKNOWN);

    served.put(target, "").await?.json::<Lease>()?;
    assert!(served.delete(target).await?.json::<Released>()?.released);
    // The answer may have been lost: asking again is no error, and says the same.
    assert!(served.delete(target).await?.json::<Released>()?.released);
    for reply in [
        served.put(target, "").await?,
        served.get(target).await?,
        served.post(&format!("{target}/keepalive"), "").await?,
    ] {
        assert_eq!(reply.status, StatusCode::GONE);
        assert_eq!(reply.problem()?.code(), code::LEASE_RELEASED);
    }
    // Another server does not know it at all.
    let restarted = served.restarted();
    assert_eq!(restarted.get(target).await?.problem()?.code(), code::LEASE_UNKNOWN);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_client_is_silent_goes_to_the_next() -> Result<()> {
    let served = Served::new().await?;
    let target = &format!("{LEASE}/silent");
    let began = Instant::now();
    let lease: Lease = served.put(target, r#"{"ttl_ms":2000}"#).await?.json()?;
    assert!(lease.valid_for_ms <= 2_000);
    let next = Acquire { wait_ms: 10_000, ..short() };
    let _next = hold(&served.client(), "jobs/nightly", next).await?;
    // Not a moment before the first one could tell by its own clock.
    assert!(began.elapsed() >= Duration::from_millis(lease.valid_for_ms));
    assert_eq!(served.get(target).await?.problem()?.code(), code::LEASE_LOST);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lives_keeps_its_lease_past_its_ttl() -> Result<()> {
    let served = Served::new().await?;
    let listening = served.listen(0).await?;
    let lease = hold(&listening.client()?, "l", short()).await?;
    let waiter = Acquire { wait_ms: 3_000, ..short() };
    let outcome = served.client().lock("main").acquire("l", waiter).await?;
    assert!(matches!(outcome, AcquireOutcome::Busy(_)), "{outcome:?}");
    assert!(lease.is_held());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn time_spent_waiting_for_a_lock_does_not_shorten_the_lease() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    let holder = hold(&client, "l", short()).await?;
    let acquire = Acquire { wait_ms: 10_000, ..short() };
    let waiting = tokio::spawn(async move { hold(&client, "l", acquire).await });
    let lock = served.client().lock("main");
    while lock.inspect("l").await?.waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    // As long as the whole TTL.
    let _ = tokio::time::timeout(Duration::from_secs(2), holder.lost()).await;
    holder.release().await?;
    let lease = within("the lock", waiting).await???;
    assert!(lease.remaining() > Duration::from_millis(500), "{:?}", lease.remaining());
    assert!(lease.is_held());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_taken_away_is_lost_at_once() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    // The keepalive would come too late to be what tells.
    let acquire = Acquire { ttl_ms: 3_600_000, ..Acquire::default() };
    let lease = hold(&client, "l", acquire).await?;
    let lock = client.lock("main");
    let claim = lock.inspect("l").await?.holders.remove(0).claim_id;
    assert!(lock.force_release("l", &claim).await?.released);
    let reason = within("the loss", lease.lost()).await?;
    assert!(reason.contains("lost"), "{reason}");
    assert!(!lease.is_held() && lease.remaining().is_zero());
    assert!(!lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_who_goes_away_leaves_nothing_behind() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    let holder = hold(&client, "l", Acquire::default()).await?;
    let lock = client.lock("main");
    let acquire = Acquire { wait_ms: 60_000, ..Acquire::default() };
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("l", acquire).await }
    });
    while lock.inspect("l").await?.waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    within("the waiter to go", async {
        while !lock.inspect("l").await?.waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    })
    .await??;
    holder.release().await?;
    client.finish().await;
    assert!(lock.inspect("l").await?.holders.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_taken_back_is_not_answered_with_a_lease() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    let holder = hold(&client, "l", Acquire::default()).await?;
    let lock = client.lock("main");
    let name = LeaseName { lock: "l".into(), id: "asked".into() };
    let acquire = Acquire { wait_ms: 60_000, ..Acquire::default() };
    let waiting = tokio::spawn({
        let (lock, name) = (lock.clone(), name.clone());
        async move { lock.put(&name, &acquire).await }
    });
    while lock.inspect("l").await?.waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!lock.release(&name).await?.released);
    let error = within("the answer", waiting).await??.unwrap_err();
    assert!(is_gone(&error), "{error}");
    holder.release().await?;
    assert!(lock.inspect("l").await?.holders.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_lease_is_released() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    drop(hold(&client, "l", Acquire::default()).await?);
    let wait = Acquire { wait_ms: 10_000, ..Acquire::default() };
    hold(&client, "l", wait).await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_under_a_lease_happens_only_while_it_is_held() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    let config = client.config("main");
    let lease = hold(&client, "l", Acquire::default()).await?;
    let query = WriteQuery { held: Some(lease.name().id.clone()), previous: false };
    let put = Put { query, ..Put::new("guarded", "1") };
    assert!(matches!(config.put(put.clone()).await?, WriteOutcome::Done(_)));
    lease.release().await?;
    assert_eq!(config.put(put).await?, WriteOutcome::Fenced);
    let query = WriteQuery { held: Some("never".into()), previous: false };
    let error = config.put(Put { query, ..Put::new("guarded", "2") }).await.unwrap_err();
    assert_eq!(error.code(), code::LEASE_UNKNOWN);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_tells_holders_and_waits_for_them() -> Result<()> {
    let served = Served::new().await?;
    let listening = served.listen(0).await?;
    let client = listening.client()?;
    let lease = hold(&client, "l", Acquire::default()).await?;
    let stopping = tokio::spawn(listening.stop());
    let reason = within("the loss", lease.lost()).await?;
    assert!(reason.contains("shutting down"), "{reason}");
    // The holder has not said that it knows: nobody else may have the lock yet.
    let other = LockRequest::new("l").wait(Duration::from_secs(1));
    let outcome = served.pintle.lock("main")?.acquire(other).await?;
    assert!(matches!(outcome, pintle::lock::AcquireOutcome::Busy(_)), "{outcome:?}");
    assert!(!stopping.is_finished());
    lease.release().await?;
    within("the end of the server", stopping).await???;
    assert!(served.pintle.lock("main")?.inspect("l").await?.holders.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_of_a_lock_can_be_listed_and_watched() -> Result<()> {
    let served = Served::new().await?;
    let client = served.client();
    let lock = client.lock("main");
    let mut watch = lock.watch("jobs/a").await?;
    let mut holders = async || match within("a state", watch.next()).await?.context("the end")?? {
        Delivery::Event(state) => anyhow::Ok(state.holders.len()),
        Delivery::Disconnected(reason) => bail!("{reason}"),
    };
    assert_eq!(holders().await?, 0);
    let shared = Acquire { mode: Mode::Shared, ..Acquire::default() };
    let _one = hold(&client, "jobs/a", shared.clone()).await?;
    let _two = hold(&client, "jobs/a", shared).await?;
    while holders().await? != 2 {}
    let page = lock.list(&ListQuery { prefix: "jobs".into(), ..ListQuery::default() }).await?;
    assert_eq!(page.names, ["jobs/a"]);
    Ok(())
}
