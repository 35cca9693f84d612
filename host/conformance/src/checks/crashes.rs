//! Incarnations that end in the middle of whatever they do, and their successors.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use pintle::direct::{Weather, lock::AcquireRequest};

use super::plugin::{Holdings, LONG_TTL_MS, free_within};
use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{Owner, asking, call, instance},
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("plugin.resume", resume, "a successor finds what its predecessor held",
        needs Need::Keeps),
    check!("plugin.checkpoint", checkpoint, "killed at any time, its successor blocks nobody",
        needs Need::Keeps),
    check!(
        "plugin.checkpoint/replies",
        after_replies,
        "killed after each reply of its server in turn, its successor blocks nobody",
        needs Need::Network
    ),
];

async fn resume(trial: &mut Trial) -> Outcome {
    let Holdings { locks, registry } = Holdings::of(trial)?;
    let owner = trial.owner("a").await?;
    let (lock, service) = (trial.key("resume"), trial.service("resume"));
    if locks {
        owner.hold(AcquireRequest { ttl_ms: LONG_TTL_MS, ..asking(&lock) }).await?;
    }
    if registry {
        owner.register(instance(&service, "x"), LONG_TTL_MS).await?;
    }
    owner.kill().await;
    let later = trial.successor("a", &owner).await?;
    if registry {
        // As the host repeats it.
        let again = later.try_register(instance(&service, "x"), LONG_TTL_MS).await?;
        ensure!(
            again.is_ok(),
            "its predecessor had it registered, and the successor is told it is taken: {again:?}"
        );
        ensure!(later.find(&service, "x").await?.is_some(), "it was adopted, and is not listed");
    }
    if locks {
        free_within(&later, &lock, 4_000, "its holder crashed and has a successor").await?;
    }
    Ok(())
}

async fn checkpoint(trial: &mut Trial) -> Outcome {
    let Holdings { locks, registry } = Holdings::of(trial)?;
    for round in 0..ROUNDS {
        if locks {
            killed_acquiring(trial, Point::Time(round)).await?;
        }
        if registry {
            killed_registering(trial, Point::Time(round)).await?;
        }
    }
    Ok(())
}

async fn after_replies(trial: &mut Trial) -> Outcome {
    let Holdings { locks, registry } = Holdings::of(trial)?;
    let (mut acquiring, mut registering) = (locks, registry);
    for replies in 0..REPLIES_MAX {
        if acquiring {
            acquiring = !killed_acquiring(trial, Point::Replies(replies)).await?;
        }
        if registering {
            registering = !killed_registering(trial, Point::Replies(replies)).await?;
        }
        if !acquiring && !registering {
            trial.note(format!("with {replies} replies everything was done"));
            return Ok(());
        }
    }
    Err(Stop::Unclear(format!(
        "with {REPLIES_MAX} replies it was not done, and nobody looked what becomes of it after more"
    )))
}

/// Where an incarnation is killed.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// The later the greater; at the greatest when its call is done.
    Time(u32),
    /// When it has heard so many replies and no other, but its next request has been answered; or when
    /// its call is done.
    Replies(u32),
}

/// More replies are not counted one by one.
const REPLIES_MAX: u32 = 16;
/// What a request takes to reach the server and be carried out there.
const CARRIED_OUT: Duration = Duration::from_millis(150);

/// Points at which an incarnation is killed, from before a claim is written to after its grant.
const ROUNDS: u32 = 8;

/// Answers whether the call was done before.
async fn killed_acquiring(trial: &mut Trial, point: Point) -> Outcome<bool> {
    let owner = trial.owner("a").await?;
    let name = trial.key(&format!("checkpoint/{point:?}"));
    owner.inspect(&name).await?;
    let request = AcquireRequest { ttl_ms: LONG_TTL_MS, ..asking(&name) };
    let acquiring = owner.raw.lock_acquire(call(), owner.id(), request);
    let done = kill_during(&owner, point, async { drop(acquiring.await) }).await;
    let later = trial.successor("a", &owner).await?;
    let why = format!("its holder was killed at point {point:?} and has a successor");
    free_within(&later, &name, 4_000, &why).await?;
    later.kill().await;
    Ok(done)
}

/// Answers whether the call was done before.
async fn killed_registering(trial: &mut Trial, point: Point) -> Outcome<bool> {
    let owner = trial.owner("a").await?;
    let service = trial.service(&format!("checkpoint-{point:?}"));
    owner.instances(&service).await?;
    let registering = owner.try_register(instance(&service, "x"), LONG_TTL_MS);
    let done = kill_during(&owner, point, async { drop(registering.await) }).await;
    let later = trial.successor("a", &owner).await?;
    let what = "a successor gets the name that its predecessor was registering";
    eventually(what, Duration::from_secs(4), || async {
        // The host repeats it after an error, too.
        match later.try_register(instance(&service, "x"), LONG_TTL_MS).await {
            Ok(again) => Ok(again.ok()),
            Err(Stop::Unclear(_)) => Ok(None),
            Err(stop) => Err(stop),
        }
    })
    .await?;
    let listed = later.instances(&service).await?.len();
    ensure!(listed == 1, "one instance is registered, and {listed} are listed ({point:?})");
    later.stop().await?;
    Ok(done)
}

/// Kills `owner` somewhere in `pending`, which is answered to with its end; whether it was done before.
async fn kill_during(owner: &Owner, point: Point, pending: impl Future<Output = ()>) -> bool {
    let done = AtomicBool::new(false);
    let pending = async {
        pending.await;
        done.store(true, Ordering::Release);
    };
    let is_done = || done.load(Ordering::Acquire);
    if let Point::Replies(after) = point {
        owner.faults.set(Weather::Deaf { after });
    }
    let killing = async {
        match point {
            Point::Time(round) if round < ROUNDS - 1 => {
                tokio::time::sleep(Duration::from_micros(400) * round * round).await;
            }
            Point::Time(_) => until(is_done).await,
            Point::Replies(_) => {
                until(|| is_done() || owner.faults.is_deaf()).await;
                if !is_done() {
                    tokio::time::sleep(CARRIED_OUT).await;
                }
            }
        }
        let before = is_done();
        owner.kill().await;
        before
    };
    futures::future::join(pending, killing).await.1
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
