//! Locks while nothing is broken.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, future::try_join_all};
use pintle::{
    leader::CampaignOutcome,
    lock::{AcquireOutcome, Lease, LeaseStatus, LockRequest, LockState, Mode},
};
use pintle_test_history::{
    LockHistory, LockMode, Resource, Token as CheckedToken, check_locks, check_writes,
};
use pintle_test_suites::{eventually, within};

use crate::{
    registry::LONG,
    stage::{Node, Stage},
};

pub(crate) fn token_of(lease: &Lease) -> Result<CheckedToken> {
    let token = lease.token().context("an exclusive lease without a token")?;
    Ok(CheckedToken { epoch: token.epoch.to_string(), value: token.value })
}

/// Asks until the lock is free; how long it may take is up to [`within`].
pub(crate) fn waiting(name: &str) -> LockRequest {
    LockRequest::new(name).ttl(LONG).wait(Duration::from_secs(60))
}

/// Waits until the lease stands as wanted.
pub(crate) async fn status_is(lease: &Lease, wanted: impl Fn(&LeaseStatus) -> bool) -> Result<()> {
    eventually("a status of the lease", async || Ok(wanted(&lease.status()).then_some(())))
        .await
        .with_context(|| format!("{:?}", lease.status()))
}

/// Waits until the lock is as wanted.
pub(crate) async fn state_with(
    node: &Node,
    name: &str,
    wanted: impl Fn(&LockState) -> bool,
) -> Result<LockState> {
    eventually("a state of the lock", async || {
        let state = node.lock.inspect(name).await?;
        Ok(wanted(&state).then_some(state))
    })
    .await
}

/// Takes the lock again and again, and writes to the resource under it.
pub(crate) async fn contend(
    node: &Node,
    holder: &str,
    name: &str,
    turns: usize,
    history: &LockHistory,
    resource: &Resource,
) -> Result<()> {
    for _ in 0..turns {
        let asked = history.now();
        let request = waiting(name).owner(holder).ttl(Duration::from_secs(10));
        let lease = within("the lock", node.lock.acquire(request)).await??;
        let AcquireOutcome::Held(lease) = lease else { bail!("it waited in vain") };
        let token = token_of(&lease)?;
        let valid_for = lease.remaining();
        let since_asked = Duration::from_nanos(history.now() - asked);
        let mode = LockMode::Exclusive;
        let holding = history.acquired(
            name,
            holder,
            mode,
            Some(token.clone()),
            asked,
            since_asked + valid_for,
        );
        for _ in 0..3 {
            if resource.write(name, holder, token.clone()).is_err() {
                bail!("{holder} held the lock and was refused");
            }
            tokio::task::yield_now().await;
        }
        history.ended(holding);
        lease.release().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_contenders_exclude_each_other_and_their_tokens_rise() -> Result<()> {
    let stage = Stage::new().await?;
    let nodes = Arc::new([stage.node("a").await?, stage.node("b").await?]);
    let (history, resource) = (LockHistory::new(), Resource::checking());
    let contenders = (0..8).map(|number| {
        let (nodes, history, resource) = (&nodes, &history, &resource);
        async move {
            let holder = format!("contender {number}");
            contend(&nodes[number % 2], &holder, "c/lock", 8, history, resource).await
        }
    });
    try_join_all(contenders).await?;
    let holdings = check_locks(&history.holdings());
    assert!(holdings.checked == 64 && holdings.is_clean(), "{holdings}");
    let writes = check_writes(&resource.accepted());
    assert!(writes.checked == 192 && writes.is_clean(), "{writes}");
    assert_eq!(resource.refused(), 0);
    assert!(stage.leased_keys().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_tells_who_holds_and_leaves_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let lease = a.hold(LockRequest::new("job").owner("first")).await?;
    let AcquireOutcome::Busy(holders) =
        b.lock.acquire(LockRequest::new("job").owner("second")).await?
    else {
        bail!("two holders")
    };
    assert_eq!((holders.len(), &*holders[0].owner), (1, "first"));
    assert_eq!(holders[0].token.as_ref(), lease.token());
    assert_eq!(stage.leased_keys().await?.len(), 1);
    // Another name, even one below it, is another lock.
    let below = b.hold(LockRequest::new("job/below")).await?;
    assert!(lease.release().await? && below.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_in_vain_leaves_no_waiter() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let _lease = a.hold(LockRequest::new("job").owner("first").ttl(LONG)).await?;
    let request = LockRequest::new("job").wait(Duration::from_millis(300)).ttl(LONG);
    let outcome = within("the end of the wait", b.lock.acquire(request)).await??;
    assert!(matches!(outcome, AcquireOutcome::Busy(holders) if holders[0].owner == "first"));
    assert!(b.lock.inspect("job").await?.waiters.is_empty());
    assert_eq!(stage.leased_keys().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_listed_and_get_the_lock_in_their_order() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let first = a.hold(LockRequest::new("q").owner("0").ttl(LONG)).await?;
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 1..=4 {
        let node = if number % 2 == 0 { &a } else { &b };
        let (lock, sender) = (node.lock.clone(), sender.clone());
        let owner = number.to_string();
        tokio::spawn(async move {
            let outcome = lock.acquire(waiting("q").owner(owner.clone())).await;
            // The test may have failed before it is its turn.
            let _ = sender.send((owner, outcome));
        });
        let count = number as usize;
        state_with(&a, "q", |state| state.waiters.len() == count).await?;
    }
    let state = b.lock.inspect("q").await?;
    assert_eq!(state.holders[0].owner, "0");
    let waiters: Vec<_> = state.waiters.iter().map(|claim| &*claim.owner).collect();
    assert_eq!(waiters, ["1", "2", "3", "4"]);

    let mut last = first.token().context("a token")?.value;
    first.release().await?;
    for wanted in ["1", "2", "3", "4"] {
        let (owner, outcome) = within("the next", order.recv()).await?.context("an outcome")?;
        let AcquireOutcome::Held(lease) = outcome? else { bail!("{owner} waited in vain") };
        assert_eq!(owner, wanted);
        let token = lease.token().context("a token")?.value;
        assert!(token > last, "{token} after {last}");
        last = token;
        lease.release().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_holders_exclude_only_exclusive_ones() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let shared = || LockRequest::new("s").mode(Mode::Shared).ttl(LONG);
    let (one, two) = (a.hold(shared()).await?, b.hold(shared()).await?);
    assert!(one.token().is_none() && two.token().is_none());
    let exclusive = a.lock.acquire(LockRequest::new("s")).await?;
    assert!(matches!(exclusive, AcquireOutcome::Busy(holders) if holders.len() == 2));
    let lock = b.lock.clone();
    let writer = tokio::spawn(async move { lock.acquire(waiting("s").owner("writer")).await });
    state_with(&a, "s", |state| state.waiters.len() == 1).await?;
    one.release().await?;
    let state = a.lock.inspect("s").await?;
    assert_eq!((state.holders.len(), state.waiters.len()), (1, 1));
    two.release().await?;
    let AcquireOutcome::Held(writer) = within("the writer", writer).await??? else {
        bail!("it waited in vain")
    };
    assert!(matches!(a.lock.acquire(shared()).await?, AcquireOutcome::Busy(_)));
    assert!(writer.token().is_some());
    writer.release().await?;
    a.hold(shared()).await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_hold_than_there_are_permits() -> Result<()> {
    const PERMITS: u32 = 3;
    let stage = Stage::new().await?;
    let nodes = [stage.node("a").await?, stage.node("b").await?];
    let history = LockHistory::new();
    let contenders = (0..9).map(|number| {
        let (node, history) = (&nodes[number % 2], &history);
        async move {
            for _ in 0..4 {
                let asked = history.now();
                let request = waiting("p").mode(Mode::Permit(PERMITS));
                let outcome = within("a permit", node.lock.acquire(request)).await??;
                let AcquireOutcome::Held(lease) = outcome else { bail!("it waited in vain") };
                let mode = LockMode::Permit(PERMITS);
                let holder = number.to_string();
                let holding = history.acquired("p", &holder, mode, None, asked, LONG);
                tokio::task::yield_now().await;
                history.ended(holding);
                lease.release().await?;
            }
            Ok(())
        }
    });
    try_join_all(contenders).await?;
    let report = check_locks(&history.holdings());
    assert!(report.checked == 36 && report.is_clean(), "{report}");

    let permit = || LockRequest::new("p").mode(Mode::Permit(PERMITS)).ttl(LONG);
    let mut held = Vec::new();
    for _ in 0..PERMITS {
        held.push(nodes[0].hold(permit()).await?);
    }
    let busy = nodes[1].lock.acquire(permit()).await?;
    assert!(matches!(busy, AcquireOutcome::Busy(holders) if holders.len() == 3));
    held.pop();
    let next = LockRequest { wait: Duration::from_secs(60), ..permit() };
    nodes[1].hold(next).await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_listed_below_a_prefix_in_pages() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let mut held = Vec::new();
    for name in ["jobs/a", "jobs/a/b", "jobs/ü", "jobsx", "other"] {
        held.push(node.hold(LockRequest::new(name).ttl(LONG)).await?);
    }
    held.push(node.hold(LockRequest::new("jobs/s").mode(Mode::Shared).ttl(LONG)).await?);
    held.push(node.hold(LockRequest::new("jobs/s").mode(Mode::Shared).ttl(LONG)).await?);
    let mut names = Vec::new();
    let mut page = None;
    loop {
        let found = node.lock.list("jobs", page, 2).await?;
        assert!(found.names.len() <= 2);
        names.extend(found.names);
        match found.next {
            Some(next) => page = Some(next),
            None => break,
        }
    }
    names.sort_unstable();
    assert_eq!(names, ["jobs/a", "jobs/a/b", "jobs/s", "jobs/ü"]);
    assert_eq!(node.lock.list("", None, 0).await?.names.len(), 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_a_lock_away() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let lease = a.hold(LockRequest::new("f").ttl(LONG)).await?;
    let claim = b.lock.inspect("f").await?.holders.remove(0);
    assert!(b.lock.force_release("f", &claim.claim_id).await?);
    within("the notice", lease.lost()).await?;
    assert!(!b.lock.force_release("f", &claim.claim_id).await?);
    let next = b.hold(LockRequest::new("f").ttl(LONG)).await?;
    assert!(next.token().context("a token")?.value > claim.token.context("a token")?.value);
    // The one that lost it cannot release what another holds.
    assert!(!lease.release().await?);
    assert_eq!(b.lock.inspect("f").await?.holders.len(), 1);
    assert!(next.is_held());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_watched_from_holder_to_holder() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let mut states = Box::pin(b.lock.watch("w").await?);
    let mut holder = async || {
        let state = within("a state", states.next()).await?.context("the watch ended")??;
        anyhow::Ok(state.holders.first().map(|claim| claim.owner.clone()))
    };
    assert_eq!(holder().await?, None);
    let one = a.hold(LockRequest::new("w").owner("one")).await?;
    assert_eq!(holder().await?.as_deref(), Some("one"));
    one.release().await?;
    let two = b.hold(LockRequest::new("w").owner("two")).await?;
    within("the second", async {
        while holder().await?.as_deref() != Some("two") {}
        anyhow::Ok(())
    })
    .await??;
    two.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_follow_each_other() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let (one, two) = (a.pintle.leader("main")?, b.pintle.leader("main")?);
    let CampaignOutcome::Elected(first) = one.campaign("x", "a", LONG, Duration::ZERO).await?
    else {
        bail!("not elected")
    };
    let CampaignOutcome::Following(leader) = two.campaign("x", "b", LONG, Duration::ZERO).await?
    else {
        bail!("two leaders")
    };
    assert_eq!(leader.context("a leader")?.owner, "a");
    let campaign =
        tokio::spawn(async move { two.campaign("x", "b", LONG, Duration::from_secs(60)).await });
    let token = first.token().context("a token")?.value;
    assert!(first.resign().await?);
    let CampaignOutcome::Elected(second) = within("the election", campaign).await??? else {
        bail!("it waited in vain")
    };
    assert!(second.token().context("a token")?.value > token);
    assert_eq!(one.leader("x").await?.context("a leader")?.owner, "b");
    Ok(())
}
