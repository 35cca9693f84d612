//! Locks when something breaks: lost leases, lost replies, cancelled calls, fenced writes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::KeyValue;
use futures::future::join_all;
use pintle::{
    config::{Delete, DeleteOutcome, Put, PutOutcome, Txn, TxnOp, TxnOutcome},
    lock::{AcquireOutcome, Lease, LeaseStatus, LockRequest},
};
use pintle_test_proxy::{Action, Cut, Direction, Fault, Message, Rule};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{eventually, within};

use crate::{
    lock::{state_with, status_is, waiting},
    registry::{LONG, TTL, web},
    stage::Stage,
};

/// Nothing that blocks a lock is left.
async fn no_claim(stage: &Stage) -> Result<()> {
    eventually("no claim", async || Ok(stage.leased_keys().await?.is_empty().then_some(()))).await
}

/// The lease is lost, once and for good.
async fn lost(lease: &Lease) -> Result<String> {
    let reason = within("the notice", lease.lost()).await?;
    assert!(!lease.is_held() && lease.remaining().is_zero());
    assert!(matches!(lease.status(), LeaseStatus::Lost(_)));
    Ok(reason.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_lost_when_its_key_is_deleted_and_never_taken_again() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    let key = stage.leased_key().await?;
    stage.etcd.ctl(&["del", key.key_str()?]).await?;
    lost(&lease).await?;
    assert!(stage.leased_keys().await?.is_empty(), "taken again");
    assert!(!lease.release().await?);
    node.hold(LockRequest::new("l")).await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_lost_when_it_is_revoked() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    let key = stage.leased_key().await?;
    stage.etcd.ctl(&["lease", "revoke", &format!("{:x}", key.lease())]).await?;
    lost(&lease).await?;
    assert!(stage.leased_keys().await?.is_empty(), "taken again");
    // Other leases of the same host go on.
    let other = node.hold(LockRequest::new("other").ttl(LONG)).await?;
    assert!(other.is_held());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_lease_is_not_anothers_loss() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let one = node.hold(LockRequest::new("one").ttl(LONG)).await?;
    let key = stage.leased_key().await?;
    let two = node.hold(LockRequest::new("two").ttl(LONG)).await?;
    stage.etcd.ctl(&["lease", "revoke", &format!("{:x}", key.lease())]).await?;
    lost(&one).await?;
    let mut client = stage.client().await?;
    let kept = stage.leased_key().await?;
    assert!(client.lease_time_to_live(kept.lease(), None).await?.ttl() > 0);
    assert!(two.is_held() && two.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_who_is_cut_off_is_told_before_the_server_lets_go() -> Result<()> {
    const HOLDERS: usize = 12;
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let mut held: Vec<(Lease, Vec<u8>)> = Vec::new();
    for number in 0..HOLDERS {
        let request = LockRequest::new(format!("b/{number}")).ttl(Duration::from_secs(3));
        let lease = node.hold(request).await?;
        let is_new = |pair: &KeyValue| held.iter().all(|(_, key)| key != pair.key());
        let key = stage.leased_keys().await?.into_iter().find(is_new).context("its key")?;
        held.push((lease, key.key().to_owned()));
    }
    let client = stage.client().await?;
    proxy.set(Fault::Blackhole);
    let notices = held.iter().map(|(lease, key)| {
        let mut client = client.clone();
        async move {
            lost(lease).await?;
            anyhow::Ok(client.get(key.as_slice(), None).await?.count())
        }
    });
    for still_there in join_all(notices).await {
        assert_eq!(still_there?, 1, "told after the server had given the lock away");
    }
    // The server lets go in its own time, and another gets the lock.
    let other = stage.node("b").await?;
    let next = within("the lock", other.lock.acquire(waiting("b/0"))).await??;
    assert!(matches!(next, AcquireOutcome::Held(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_lease_counts_from_the_sending_of_its_renewal() -> Result<()> {
    const DELAY: Duration = Duration::from_millis(400);
    /// The shortest lease with the least margin.
    const SAFE: Duration = Duration::from_millis(2_500);
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    node.config.get("k").await?;
    proxy.set(Fault::Delay { to_server: Duration::ZERO, to_client: DELAY });
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(3))).await?;
    // No answer took less than the delay, so that of every grant so much is over when it is known.
    let (mut before, mut renewals) = (lease.remaining(), 0);
    eventually("three renewals", async || {
        let now = lease.remaining();
        assert!(lease.is_held() && now <= SAFE - DELAY, "{now:?} are left, {renewals} renewals");
        renewals += u32::from(now > before);
        before = now;
        Ok((renewals == 3).then_some(()))
    })
    .await?;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_is_in_doubt_while_cut_off_and_holds_on_when_it_was_short() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    // It would be renewed after minutes: nothing but the lost connection can say so.
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    let before = stage.leased_key().await?;
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    status_is(&lease, |status| matches!(status, LeaseStatus::Suspect(_))).await?;
    assert!(lease.is_held());
    proxy.heal().await?;
    status_is(&lease, |status| *status == LeaseStatus::Held).await?;
    let after = stage.leased_key().await?;
    assert_eq!((after.key(), after.lease()), (before.key(), before.lease()));
    assert!(lease.release().await?);
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_a_claim_leaves_no_orphan() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let other = stage.node("b").await?;
    for (round, how) in [Cut::Reset, Cut::Close].into_iter().cycle().take(6).enumerate() {
        let name = format!("lost-reply-{round}");
        let needle = name.clone().into_bytes();
        let rule = Rule::reply_to(move |message| message.contains(&needle));
        let armed = proxy.arm(rule, Action::CutBefore(how));
        let outcome = within("an answer", node.lock.acquire(waiting(&name))).await?;
        armed.fired().await?;
        match outcome {
            Ok(AcquireOutcome::Held(lease)) => {
                // Then it is really ours.
                let busy = other.lock.acquire(LockRequest::new(&name)).await?;
                assert!(matches!(busy, AcquireOutcome::Busy(_)));
                assert_eq!(other.lock.inspect(&name).await?.holders.len(), 1);
                assert!(lease.release().await?);
            }
            Ok(AcquireOutcome::Busy(holders)) => bail!("busy with its own claim: {holders:?}"),
            Err(_) => {}
        }
        // Its TTL is ten minutes: what it left behind would block this one.
        let next = within("the lock", other.lock.acquire(waiting(&name))).await??;
        let AcquireOutcome::Held(next) = next else { bail!("it waited in vain") };
        assert!(next.release().await?);
    }
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ended_before_its_claim_came_is_replaced_by_another() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let claim = Rule::request(|message| message.contains(b"held-up"));
    let held_up = proxy.arm(claim, Action::Fault(Fault::BlackholeTowards(Direction::ToServer)));
    let meanwhile = async {
        held_up.fired().await?;
        let mut client = stage.client().await?;
        let granted = client.leases().await?;
        let [lease] = granted.leases() else { bail!("not one lease: {granted:?}") };
        client.lease_revoke(lease.id()).await?;
        proxy.heal().await?;
        anyhow::Ok(lease.id())
    };
    let acquiring = within("the lock", node.lock.acquire(waiting("held-up")));
    let (outcome, ended) = tokio::join!(acquiring, meanwhile);
    let (AcquireOutcome::Held(lease), ended) = (outcome??, ended?) else { bail!("not held") };
    assert_ne!(stage.leased_key().await?.lease(), ended);
    assert!(lease.release().await?);
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_lost_on_its_way_is_made_up_for() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    for is_done in [false, true] {
        let lease = node.hold(LockRequest::new("release").ttl(LONG)).await?;
        let key = stage.leased_key().await?.key().to_owned();
        let names_it = move |message: &Message<'_>| message.contains(&key);
        let rule = if is_done { Rule::reply_to(names_it) } else { Rule::request(names_it) };
        let lost = proxy.arm(rule, Action::CutBefore(Cut::Reset));
        // Released or in doubt: its TTL is ten minutes, and no claim may be left in the end.
        let _ = within("an answer", lease.release()).await?;
        lost.fired().await?;
        no_claim(&stage).await?;
    }
    Ok(())
}

/// Neither is gone by its TTL in the time of a test: only who is let go of is not renewed.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_back_in_time_is_given_back_later() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    let dropped = node.register(web("dropped"), LONG).await?;
    let told = node.register(web("told"), LONG).await?;
    assert_eq!(stage.leased_keys().await?.len(), 3);
    proxy.set(Fault::Blackhole);
    drop((lease, dropped));
    within("an error", told.deregister()).await?.unwrap_err();
    proxy.heal().await?;
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_is_dropped_leaves_nothing_wherever_it_was() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    // Dropped when the claim is on the server and its reply is not here yet.
    let rule = Rule::reply_to(|message| message.contains(b"dropped"));
    let towards = Fault::BlackholeTowards(Direction::ToClient);
    let armed = proxy.arm(rule, Action::Fault(towards));
    tokio::select! {
        outcome = node.lock.acquire(waiting("dropped")) => bail!("it was answered: {outcome:?}"),
        fired = armed.fired() => fired?,
    }
    proxy.heal().await?;
    no_claim(&stage).await?;

    // Dropped while it waits.
    let other = stage.node("b").await?;
    let held = other.hold(LockRequest::new("waits").ttl(LONG)).await?;
    tokio::select! {
        outcome = node.lock.acquire(waiting("waits")) => bail!("it was answered: {outcome:?}"),
        state = state_with(&other, "waits", |state| state.waiters.len() == 1) => { state?; }
    }
    state_with(&other, "waits", |state| state.waiters.is_empty()).await?;
    assert!(held.release().await?);
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn acquires_that_are_dropped_at_any_moment_leave_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    for number in 0..40_u32 {
        let acquire = node.lock.acquire(waiting("moment"));
        // A little later each time, so that each step is met by some.
        let limit = Duration::from_micros(u64::from(number) * 150);
        if let Ok(outcome) = tokio::time::timeout(limit, acquire).await {
            let AcquireOutcome::Held(lease) = outcome? else { bail!("it waited in vain") };
            drop(lease);
        }
    }
    // The last of them may not have reached the server yet, so that a look at it would see nothing:
    // this one comes behind all of them, and waits for as long as anything is left.
    assert!(node.hold(waiting("moment")).await?.release().await?);
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_connection_is_cut_still_gets_the_lock() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let (a, b) = (stage.node_through("a", &proxy).await?, stage.node("b").await?);
    let held = b.hold(LockRequest::new("l").ttl(LONG)).await?;
    let lock = a.lock.clone();
    let waiter = tokio::spawn(async move { lock.acquire(waiting("l").owner("waiter")).await });
    for _ in 0..3 {
        state_with(&b, "l", |state| state.waiters.len() == 1).await?;
        let before = proxy.counts().accepted;
        proxy.cut_all(Cut::Reset).await?;
        proxy.wait_until("a connection after the cut", |now| now.accepted > before).await?;
    }
    assert!(held.release().await?);
    match within("the waiter", waiter).await?? {
        Ok(AcquireOutcome::Held(lease)) => {
            let state = b.lock.inspect("l").await?;
            assert_eq!((state.holders.len(), &*state.holders[0].owner), (1, "waiter"));
            assert!(lease.release().await?);
        }
        Ok(AcquireOutcome::Busy(holders)) => bail!("it waited in vain: {holders:?}"),
        Err(error) => bail!("a cut ended the wait: {error}"),
    }
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_own_claim_is_deleted_does_not_believe_that_it_holds() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let held = b.hold(LockRequest::new("l").ttl(LONG)).await?;
    let first = stage.leased_key().await?;
    let lock = a.lock.clone();
    let waiter = tokio::spawn(async move { lock.acquire(waiting("l").owner("waiter")).await });
    state_with(&b, "l", |state| state.waiters.len() == 1).await?;
    let claims = stage.leased_keys().await?;
    let own = claims.iter().find(|pair| pair.key() != first.key()).context("its claim")?;
    stage.client().await?.delete(own.key(), None).await?;
    assert!(held.release().await?);
    // It fails, or begins anew; but whoever believes in it has a claim.
    if let Ok(AcquireOutcome::Held(lease)) = within("the waiter", waiter).await?? {
        let state = b.lock.inspect("l").await?;
        assert_eq!(state.holders.len(), 1, "held without a claim");
        assert!(lease.release().await?);
    }
    no_claim(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_in_a_precondition_fences_on_the_server_itself() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let lease = node.hold(LockRequest::new("guard").ttl(LONG)).await?;
    let put = |value: &'static str| node.config.put(Put::new("g/k", value).held(lease.reference()));
    assert!(matches!(put("1").await?, PutOutcome::Stored { .. }));
    let key = stage.leased_key().await?.key().to_owned();
    // The notice of the loss is kept from the plugin, so that only the server can refuse.
    let notice = key.clone();
    let hidden = Rule::reply(move |message| message.contains(&notice)).always();
    let hidden = proxy.arm(hidden, Action::Drop);
    stage.client().await?.delete(key, None).await?;
    hidden.fired().await?;
    assert!(lease.is_held(), "it was told all the same");

    assert_eq!(put("2").await?, PutOutcome::Fenced);
    let delete = Delete { held: Some(lease.reference()), ..Delete::new("g/k") };
    assert_eq!(node.config.delete(delete).await?, DeleteOutcome::Fenced);
    let op = TxnOp::Put { key: "g/k".into(), value: "3".into(), content_type: None };
    let txn = Txn { held: vec![lease.reference()], ops: vec![op], ..Txn::default() };
    assert_eq!(node.config.txn(txn).await?, TxnOutcome::Fenced);
    assert_eq!(node.config.get("g/k").await?.context("g/k")?.value, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_known_to_be_lost_guards_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let lease = node.hold(LockRequest::new("guard").ttl(LONG)).await?;
    let reference = lease.reference();
    stage.client().await?.delete(stage.leased_key().await?.key(), None).await?;
    lost(&lease).await?;
    match node.config.put(Put::new("g/k", "1").held(reference.clone())).await {
        Ok(outcome) => assert_eq!(outcome, PutOutcome::Fenced),
        Err(error) => assert_eq!(error.code(), "lease-lost", "{error}"),
    }
    match node.config.delete_prefix("g", Some(reference)).await {
        Ok(count) => bail!("{count} deleted under a lost lease"),
        Err(error) => assert_eq!(error.effect(), pintle::Effect::None, "{error}"),
    }
    assert!(node.config.get("g/k").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_reads_do_not_starve_the_renewal_of_leases() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let mut client = stage.client().await?;
    client.put(stage.key("large"), vec![b'x'; 1 << 20], None).await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(3))).await?;
    let before = stage.leased_key().await?;
    let reading = join_all((0..16).map(|_| {
        let config = node.config.clone();
        async move {
            loop {
                // Some may be refused under such a load; what counts is the lease.
                if config.get("large").await.is_err() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }));
    // As many at a third each as it would live twice without.
    let renewed = eventually("six renewals under load", async || {
        if !lease.is_held() {
            bail!("lost under load: {:?}", lease.status());
        }
        let renewed = stage.etcd.metric("etcd_debugging_lease_renewed_total", &[]).await?;
        Ok((renewed >= 6.0).then_some(()))
    });
    tokio::select! {
        renewed = renewed => renewed?,
        _ = reading => bail!("the readers ended"),
    }
    let after = stage.leased_key().await?;
    assert_eq!(after.create_revision(), before.create_revision());
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_stuck_on_its_way_does_not_hold_up_renewals() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    stage.client().await?.put(stage.key("stuck"), "1", None).await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(3))).await?;
    // Its answer, and what comes behind it on the same connection.
    let towards = Fault::BlackholeTowards(Direction::ToClient);
    let rule = Rule::reply_to(|message| message.contains(b"stuck"));
    let stuck = proxy.arm(rule, Action::Fault(towards));
    let config = node.config.clone();
    let reading = tokio::spawn(async move { config.get("stuck").await });
    stuck.fired().await?;
    let renewals = async || stage.etcd.metric("etcd_debugging_lease_renewed_total", &[]).await;
    let before = renewals().await?;
    let renewed =
        eventually(
            "three renewals",
            async || Ok((renewals().await? >= before + 3.0).then_some(())),
        );
    tokio::select! {
        renewed = renewed => renewed?,
        status = lease.changed() => bail!("the lease is {status:?}"),
    }
    proxy.heal().await?;
    // In time or too late: it is no concern of the lease.
    let _ = within("the end of the read", reading).await??;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_a_restart_of_the_server_and_tokens_go_on_rising() -> Result<()> {
    let mut stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(60))).await?;
    let first = lease.token().context("a token")?.clone();
    let server = stage.server()?;
    server.kill()?;
    server.restart().await?;
    status_is(&lease, |status| *status == LeaseStatus::Held).await?;
    // It answers again, and the lock is still ours.
    eventually("an answer", async || Ok(node.config.get("k").await.ok())).await?;
    assert!(lease.release().await?);
    let next = node.hold(LockRequest::new("l").ttl(TTL)).await?;
    let second = next.token().context("a token")?;
    assert_eq!(second.epoch, first.epoch);
    assert!(second.value > first.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_renews_ends_with_its_ttl() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let (dying, other) = (stage.node_through("a", &proxy).await?, stage.node("b").await?);
    let lease = dying.hold(LockRequest::new("l").ttl(TTL)).await?;
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    let next = within("the lock", other.lock.acquire(waiting("l"))).await??;
    let AcquireOutcome::Held(next) = next else { bail!("it waited in vain") };
    assert!(!lease.is_held(), "two holders");
    let (before, after) = (lease.token().context("a token")?, next.token().context("a token")?);
    assert!(after.value > before.value);
    Ok(())
}
