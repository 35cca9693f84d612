//! Claims on locks that are taken away, given up, or watched.

use std::time::{Duration, Instant};

use futures::future::try_join;
use pintle::direct::{
    Call, Failure,
    lock::{AcquireOutcome, AcquireRequest, Event, LockState},
};

use super::lock::value_of;
use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    owner::{Owner, asking, call},
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("lock.force-release", force_release, "an operator takes a lock away from its holder",
        needs Need::Feature("lock.force-release")),
    check!("lock.lost", lost, "a lease that was taken away is reported lost, once",
        needs Need::Feature("lock.force-release")),
    check!("lock.no-reacquire", no_reacquire, "a lost lease is never taken again",
        needs Need::Feature("lock.force-release")),
    check!("lock.watch", watch, "a watched lock tells its state, and each change of it",
        needs Need::Feature("lock.watch")),
    check!(
        "lock.confirmed",
        confirmed,
        "a claim that was taken away while it waited is never granted",
        needs Need::Feature("lock.waiters"), Need::Feature("lock.force-release")
    ),
    check!("lock.cancelled-acquire", cancelled, "a cancelled acquire leaves no claim behind"),
    check!(
        "lock.cancelled-acquire/racing",
        cancelled_racing,
        "an acquire cancelled as it wins is held or leaves nothing"
    ),
];

/// Short: that a claim is gone may be noticed only when it is renewed.
const TTL_MS: u32 = 3_000;

/// Takes a lock away from its one holder.
pub(super) async fn take_away(operator: &Owner, name: &str) -> Outcome {
    let state = operator.inspect(name).await?;
    let claim = state.holders.first().map(|claim| claim.claim_id.clone());
    let claim = claim.ok_or_else(|| Stop::Broken(format!("it is held, and shows {state:?}")))?;
    let taken = operator.raw.lock_force_release(call(), name.to_owned(), claim).await?;
    ensure!(taken, "the claim is there, and a force-release answers false");
    Ok(())
}

async fn force_release(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let operator = trial.other(&owner).await?;
    let name = trial.key("forced");
    let grant = owner.hold(asking(&name)).await?;
    let claim = operator.inspect(&name).await?.holders.into_iter().next();
    take_away(&operator, &name).await?;
    let second = operator.hold(AcquireRequest { wait_ms: 2_000, ..asking(&name) }).await?;
    let (before, now) = (value_of(&grant)?, value_of(&second)?);
    ensure!(
        now.0 == before.0 && now.1 > before.1,
        "the lock was taken from {before:?}, and the next holder has {now:?}"
    );
    if let Some(claim) = claim {
        let again = operator.raw.lock_force_release(call(), name.clone(), claim.claim_id).await?;
        ensure!(!again, "the claim is gone already, and a force-release answers true");
    }
    owner.lost(&grant, Duration::from_secs(8)).await?;
    operator.release(&second).await?;
    Ok(())
}

async fn lost(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let operator = trial.other(&owner).await?;
    let name = trial.key("lost");
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&name) }).await?;
    take_away(&operator, &name).await?;
    owner.lost(&grant, owner.patience(Duration::from_secs(4), TTL_MS)).await?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let events = owner.lock.of(grant.id);
    let times = events.iter().filter(|event| matches!(event, Event::Lost(_))).count();
    ensure!(times == 1, "one loss is reported {times} times");
    let last = events.last();
    ensure!(
        matches!(last, Some(Event::Lost(_))),
        "`lost` is the last event of a lease, and after it came {last:?}"
    );
    let released = owner.release(&grant).await?;
    ensure!(!released, "the lease is lost, and its release answers true");
    Ok(())
}

async fn no_reacquire(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let operator = trial.other(&owner).await?;
    let name = trial.key("again");
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&name) }).await?;
    take_away(&operator, &name).await?;
    owner.lost(&grant, owner.patience(Duration::from_secs(4), TTL_MS)).await?;
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        let holders = operator.inspect(&name).await?.holders;
        ensure!(
            holders.is_empty(),
            "the lease was lost and nobody asked again, and the lock shows {holders:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let events = owner.lock.of(grant.id);
    let lost = events.iter().position(|event| matches!(event, Event::Lost(_)));
    let later = events.get(lost.map_or(0, |at| at + 1)..).unwrap_or_default();
    ensure!(later.is_empty(), "after `lost` came {later:?}");
    Ok(())
}

async fn watch(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let name = trial.key("watch");
    let id = other.id();
    other.raw.lock_watch(call(), id, name.clone()).await?;
    let told = |what: &'static str, fits: fn(&LockState) -> bool| {
        let other = &other;
        async move {
            other
                .lock
                .wait(id, SOON, what, |events| {
                    let last = events.iter().rev().find_map(|arrived| match &arrived.event {
                        Event::State(state) => Some(state),
                        _ => None,
                    });
                    last.is_some_and(fits).then_some(())
                })
                .await
        }
    };
    told("a watch of a free lock says so", |state| state.holders.is_empty()).await?;
    let grant = owner.hold(asking(&name)).await?;
    told("a watch tells of a holder", |state| state.holders.len() == 1).await?;
    owner.release(&grant).await?;
    told("a watch tells of a release", |state| state.holders.is_empty()).await?;
    other.raw.lock_close(id)?;
    Ok(())
}

async fn confirmed(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let waiter = trial.other(&owner).await?;
    let name = trial.key("confirmed");
    let grant = owner.hold(asking(&name)).await?;
    let id = waiter.id();
    let request = AcquireRequest { wait_ms: 4_000, owner: "waiter".into(), ..asking(&name) };
    let limit = Duration::from_secs(8);
    let waiting =
        async { Ok::<_, Stop>(waiter.raw.lock_acquire(Call::within(limit), id, request).await) };
    let taking = async {
        let claim = eventually("the waiter is listed", SOON, || async {
            let waiters = owner.inspect(&name).await?.waiters;
            Ok(waiters.into_iter().find(|claim| claim.owner == "waiter"))
        })
        .await?;
        let taken = owner.raw.lock_force_release(call(), name.clone(), claim.claim_id).await?;
        ensure!(taken, "the waiter is listed, and a force-release of its claim answers false");
        owner.release(&grant).await?;
        // The lock is free now, and the claim is not there: it must not be granted.
        let state = owner.inspect(&name).await?;
        ensure!(state.waiters.is_empty(), "the waiting claim was taken away, and shows {state:?}");
        Outcome::Ok(())
    };
    match try_join(waiting, taking).await?.0 {
        Ok(AcquireOutcome::Held(lease)) => {
            let holders = owner.inspect(&name).await?.holders;
            ensure!(
                holders.iter().any(|claim| claim.owner == "waiter"),
                "the waiting claim was taken away, and it is granted {lease:?}; the lock shows \
                 {holders:?}"
            );
            Ok(())
        }
        Ok(AcquireOutcome::Busy(_)) => Ok(()),
        Err(Failure::Error(error)) if error.code == "internal" => Err(Stop::Broken(format!(
            "the waiting claim was taken away, and its acquire answers with a defect of the plugin: {}",
            error.message
        ))),
        Err(refused @ Failure::Error(_)) => match Stop::from(refused) {
            // Told in its own way that it is not granted, by who did reach the server.
            Stop::Broken(_) => Ok(()),
            stop => Err(stop),
        },
        Err(failure) => Err(failure.into()),
    }
}

async fn cancelled(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let waiter = trial.other(&owner).await?;
    let name = trial.key("cancelled");
    let grant = owner.hold(asking(&name)).await?;
    let (id, attempt) = (waiter.id(), Call::within(Duration::from_secs(30)));
    let request = AcquireRequest { wait_ms: 25_000, owner: "waiter".into(), ..asking(&name) };
    let waiting = async { Ok(waiter.raw.lock_acquire(attempt, id, request).await) };
    let cancelling = async {
        if owner.has("lock.waiters") {
            eventually("the waiter is listed", SOON, || async {
                let waiters = owner.inspect(&name).await?.waiters;
                Ok(waiters.iter().any(|claim| claim.owner == "waiter").then_some(()))
            })
            .await?;
        } else {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        waiter.raw.cancel(attempt)?;
        Outcome::Ok(())
    };
    let (outcome, ()) = try_join(waiting, cancelling).await?;
    ensure!(
        matches!(&outcome, Err(Failure::Error(error)) if error.code == "cancelled"),
        "an acquire was cancelled while it waited, and answers {outcome:?}"
    );
    let state = owner.inspect(&name).await?;
    ensure!(state.waiters.is_empty(), "the waiter was cancelled, and the lock shows {state:?}");
    owner.release(&grant).await?;
    free_at_once(&owner, &name).await
}

/// Takes and gives back a lock that nobody has.
async fn free_at_once(owner: &Owner, name: &str) -> Outcome {
    let request = AcquireRequest { wait_ms: 1_000, owner: "next".into(), ..asking(name) };
    match owner.acquire(request).await? {
        Ok(grant) => {
            owner.release(&grant).await?;
            Ok(())
        }
        Err(claims) => Err(Stop::Broken(format!(
            "nobody asks for the lock any more, and a second later it is still held: {claims:?}"
        ))),
    }
}

async fn cancelled_racing(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let mut errors = 0;
    for round in 0..16 {
        let name = trial.key(&format!("racing/{round}"));
        let (id, attempt) = (owner.id(), Call::within(Duration::from_secs(5)));
        let asking = async { Ok(owner.raw.lock_acquire(attempt, id, asking(&name)).await) };
        let cancelling = async {
            tokio::time::sleep(Duration::from_micros(150 * round)).await;
            owner.raw.cancel(attempt)?;
            Outcome::Ok(())
        };
        let (outcome, ()) = try_join(asking, cancelling).await?;
        match outcome {
            Ok(AcquireOutcome::Held(_)) => {
                let released = owner.raw.lock_release(call(), id).await?;
                ensure!(released, "an acquire answered held, and its release false");
            }
            Ok(AcquireOutcome::Busy(claims)) => {
                return Err(Stop::Broken(format!(
                    "nobody has the lock, and busy comes: {claims:?}"
                )));
            }
            Err(Failure::Error(error)) if error.code == "cancelled" => errors += 1,
            Err(failure) => return Err(failure.into()),
        }
        free_at_once(&owner, &name).await?;
    }
    trial.note(format!("{errors} of 16 were cancelled in time"));
    Ok(())
}
