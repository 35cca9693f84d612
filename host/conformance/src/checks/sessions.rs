//! Leases and registrations when the network fails.

use std::time::{Duration, Instant};

use pintle::direct::{
    Failure, Weather, clock_ns,
    lock::{AcquireRequest, Event as LockEvent},
    registry::Event,
};

use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    inbox::Arrived,
    owner::{Owner, asking, call, instance},
    trial::{LOOK, Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "lock.lost/blackhole",
        lock_blackhole,
        "a holder whose network swallows everything is told before another can hold the lock",
        needs Need::Network, Need::Shares;
        slow
    ),
    check!(
        "lock.no-reacquire/blackhole",
        lock_stays_lost,
        "a lease that was lost in a blackhole stays lost when the network is back",
        needs Need::Network, Need::Shares;
        slow
    ),
    check!(
        "lock.lost-reply",
        lock_lost_reply,
        "an acquire whose reply was lost blocks neither others nor its owner",
        needs Need::Network
    ),
    check!(
        "registry.restored",
        restored,
        "after its session was lost an instance is registered again by itself, as it was last",
        needs Need::Network, Need::Shares;
        slow
    ),
    check!(
        "registry.no-takeover/lost",
        taken_meanwhile,
        "whose name another has got while it was cut off is told `taken`, and leaves it alone",
        needs Need::Network, Need::Shares;
        slow
    ),
    check!(
        "registry.status",
        status,
        "each loss of a registration and each recovery is reported, in this order",
        needs Need::Network, Need::Shares;
        slow
    ),
    check!(
        "registry.lost-reply",
        registry_lost_reply,
        "a register whose reply was lost leaves neither an orphan nor a double",
        needs Need::Network
    ),
];

/// The shortest TTL that there is.
const TTL_MS: u32 = 2_000;
/// Far longer than anything that a check waits for: what waits for it is blocked.
const LONG_TTL_MS: u32 = 60_000;

/// What these seconds are for a lease of [`TTL_MS`], where the servers keep none so short.
fn in_time(owner: &Owner, seconds: u64) -> Duration {
    owner.patience(Duration::from_secs(seconds), TTL_MS)
}

async fn lock_blackhole(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let name = trial.key("blackhole");
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&name) }).await?;
    trial.note("the network of a swallows everything from now on");
    owner.faults.set(Weather::Blackhole);
    let waiting = async {
        let next = AcquireRequest { wait_ms: owner.wait_ms(15_000, TTL_MS), ..asking(&name) };
        other.hold(next).await?;
        Outcome::Ok(Instant::now())
    };
    let losing = async {
        owner
            .lock
            .wait(grant.id, in_time(&owner, 15), "the loss is reported", |events| {
                let lost = |event: &LockEvent| matches!(event, LockEvent::Lost(_));
                events.iter().find(|it| lost(&it.event)).map(|it| it.at)
            })
            .await
    };
    let (next, lost) = futures::future::try_join(waiting, losing).await?;
    ensure!(
        lost <= next + Duration::from_millis(20),
        "another was granted the lock {} ms before the holder was told that it is lost",
        lost.saturating_duration_since(next).as_millis()
    );
    // Before the grant itself was over: what the host would do without the plugin.
    let validity = owner
        .lock
        .of(grant.id)
        .iter()
        .rev()
        .find_map(|event| match event {
            LockEvent::Renewed(validity) => Some(*validity),
            _ => None,
        })
        .unwrap_or(grant.lease.validity);
    let over_ns = validity.sent_at + u64::from(validity.valid_for_ms) * 1_000_000;
    let lost_ns = clock_ns().saturating_sub(
        u64::try_from(lost.elapsed().as_nanos()).map_err(|_| Stop::Unclear("too long".into()))?,
    );
    ensure!(
        lost_ns <= over_ns + 50_000_000,
        "the last grant was over {} ms before the loss was reported",
        lost_ns.saturating_sub(over_ns) / 1_000_000
    );
    Ok(())
}

async fn lock_stays_lost(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let name = trial.key("stays-lost");
    let grant = owner.hold(AcquireRequest { ttl_ms: TTL_MS, ..asking(&name) }).await?;
    owner.faults.set(Weather::Blackhole);
    owner.lost(&grant, in_time(&owner, 10)).await?;
    trial.note("the lease is lost; the network is whole again");
    owner.faults.set(Weather::Clear);
    eventually("the lock is free after its holder was lost", in_time(&owner, 10), || async {
        Ok(other.inspect(&name).await?.holders.is_empty().then_some(()))
    })
    .await?;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let holders = other.inspect(&name).await?.holders;
        ensure!(
            holders.is_empty(),
            "the lease was lost and nobody asked again, and the lock shows {holders:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let events = owner.lock.of(grant.id);
    let lost = events.iter().position(|event| matches!(event, LockEvent::Lost(_)));
    let later = events.get(lost.map_or(0, |at| at + 1)..).unwrap_or_default();
    ensure!(later.is_empty(), "after `lost` came {later:?}");
    Ok(())
}

async fn lock_lost_reply(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let mut errors = 0;
    for round in 0..6 {
        let name = trial.key(&format!("lost-reply/{round}"));
        let ttl = |name: &str| AcquireRequest { ttl_ms: LONG_TTL_MS, ..asking(name) };
        warm_up(&owner).await?;
        let id = owner.id();
        owner.faults.set(Weather::LoseReply { after: round });
        let first = owner.raw.lock_acquire(call(), id, ttl(&name)).await;
        owner.faults.set(Weather::Clear);
        match first {
            Ok(pintle::direct::lock::AcquireOutcome::Held(_)) => {
                // The plugin found its claim again, or tried again: it is held, and nobody else's.
                let holders = while_unclear(|| owner.inspect(&name)).await?.holders;
                ensure!(
                    holders.len() == 1,
                    "an acquire answered held, and the lock shows {holders:?}"
                );
                let mut asked = 0;
                let release = || {
                    asked += 1;
                    async { Ok(owner.raw.lock_release(call(), id).await?) }
                };
                let released = while_unclear(release).await?;
                ensure!(released || asked > 1, "an acquire answered held, and its release false");
            }
            Ok(pintle::direct::lock::AcquireOutcome::Busy(claims)) => {
                return Err(Stop::Broken(format!(
                    "nobody had the lock, and an acquire whose reply was lost answers busy: it \
                     meets its own claim {claims:?}"
                )));
            }
            Err(Failure::Error(_)) => errors += 1,
            Err(failure) => return Err(failure.into()),
        }
        let next = AcquireRequest { wait_ms: 4_000, ..ttl(&name) };
        let again = while_unclear(|| owner.acquire(next.clone())).await?;
        let again = again.map_err(|claims| {
            Stop::Broken(format!(
                "the reply to an acquire was lost, and 4 s later it still blocks its own owner \
                 ({claims:?})"
            ))
        })?;
        owner.release(&again).await?;
        let left = owner.inspect(&name).await?;
        ensure!(
            left.holders.is_empty() && left.waiters.is_empty(),
            "everything was released, and the lock shows {left:?}"
        );
    }
    trial.note(format!("{} replies were lost, {errors} errors", owner.lost_replies()?));
    Ok(())
}

/// Asks again for a while after an error that says nothing about a promise. The loss of a reply
/// breaks all connections, and it may come behind the answer that the check waits for: then the next
/// call meets it, whose own reply is lost as well.
async fn while_unclear<T, F>(mut ask: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<T>>,
{
    let until = Instant::now() + SOON;
    loop {
        match ask().await {
            Err(Stop::Unclear(_)) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            outcome => return outcome,
        }
    }
}

/// A call that makes sure that there is a connection: a reply is lost, not a greeting.
async fn warm_up(owner: &Owner) -> Outcome {
    eventually("the plugin is connected", SOON, || async {
        let names = owner.raw.lock_list(call(), String::new(), None, 1).await;
        let instances = owner.raw.registry_services(call(), None, 1).await;
        Ok((names.is_ok() || instances.is_ok()).then_some(()))
    })
    .await
}

/// Swallows everything of `owner` until its instance is gone, and then nothing any more.
async fn lose_session(trial: &Trial, owner: &Owner, other: &Owner, service: &str) -> Outcome {
    trial.note("the network of a swallows everything");
    owner.faults.set(Weather::Blackhole);
    eventually("the instance is gone while its owner is cut off", in_time(owner, 10), || async {
        Ok(other.find(service, "x").await?.is_none().then_some(()))
    })
    .await?;
    trial.note("it is whole again");
    owner.faults.set(Weather::Clear);
    Ok(())
}

async fn restored(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let service = trial.service("restored");
    let mut mine = instance(&service, "x");
    let id = owner.register(mine.clone(), TTL_MS).await?;
    for weight in [7, 8] {
        mine.weight = weight;
        owner.raw.registry_update(call(), id, mine.clone()).await?;
        lose_session(trial, &owner, &other, &service).await?;
        let what = "it is registered again by itself";
        let found =
            eventually(what, in_time(&owner, 15), || async { other.find(&service, "x").await })
                .await?;
        ensure!(
            found.instance.weight == weight && found.ephemeral,
            "it was updated to weight {weight} before its session was lost; it came back as {found:?}"
        );
        // Updates are taken again once the plugin knows that it is back.
        owner
            .registry
            .wait(id, SOON, "its recovery is reported", |events| {
                let back = |it: &&Arrived<Event>| matches!(it.event, Event::Registered(_));
                let lost = events.iter().rposition(|it| matches!(it.event, Event::Lost(_)))?;
                events.iter().skip(lost).find(back).map(drop)
            })
            .await?;
    }
    Ok(())
}

async fn taken_meanwhile(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let service = trial.service("taken");
    let id = owner.register(instance(&service, "x"), TTL_MS).await?;
    trial.note("the network of a swallows everything until b has its name");
    owner.faults.set(Weather::Blackhole);
    let mut theirs = instance(&service, "x");
    theirs.host = "10.0.0.2".to_owned();
    let what = "the name is free when its owner was cut off for its TTL";
    eventually(what, in_time(&owner, 10), || async {
        Ok(other.try_register(theirs.clone(), LONG_TTL_MS).await?.ok())
    })
    .await?;
    owner.faults.set(Weather::Clear);
    trial.note("it is whole again");
    let taken = owner
        .registry
        .wait(id, SOON, "the former owner is told `taken`", |events| {
            events.iter().find_map(|it| match &it.event {
                Event::Taken(state) => Some(state.instance.host.clone()),
                _ => None,
            })
        })
        .await?;
    ensure!(taken == theirs.host, "10.0.0.2 has the name, and `taken` names {taken}");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let hosts: Vec<String> =
            other.instances(&service).await?.into_iter().map(|it| it.instance.host).collect();
        ensure!(hosts == [theirs.host.clone()], "10.0.0.2 has the name; listed are {hosts:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let last = owner.registry.of(id).pop();
    ensure!(
        matches!(last, Some(Event::Taken(_))),
        "`taken` is the last event of a registration, and after it came {last:?}"
    );
    Ok(())
}

async fn status(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.owner("b").await?;
    let service = trial.service("status");
    let id = owner.register(instance(&service, "x"), TTL_MS).await?;
    for losses in 1..=2 {
        lose_session(trial, &owner, &other, &service).await?;
        eventually("it is registered again by itself", in_time(&owner, 15), || async {
            Ok(other.find(&service, "x").await?.map(drop))
        })
        .await?;
        let what = "each loss is reported, and after it the recovery";
        owner
            .registry
            .wait(id, SOON, what, |events| {
                let lost = |it: &&Arrived<Event>| matches!(it.event, Event::Lost(_));
                let last = events.iter().rposition(|it| lost(&it))?;
                let count = events.iter().filter(lost).count();
                let mut later = events.iter().skip(last);
                (count >= losses && later.any(|it| matches!(it.event, Event::Registered(_))))
                    .then_some(())
            })
            .await?;
    }
    Ok(())
}

async fn registry_lost_reply(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    for round in 0..6 {
        let service = trial.service(&format!("lost-reply-{round}"));
        warm_up(&owner).await?;
        let id = owner.id();
        let registration = pintle::direct::registry::Registration {
            instance: instance(&service, "x"),
            ttl_ms: LONG_TTL_MS,
        };
        owner.faults.set(Weather::LoseReply { after: round });
        let first = owner.raw.registry_register(call(), id, registration.clone()).await;
        owner.faults.set(Weather::Clear);
        let id = match first {
            Ok(pintle::direct::registry::RegisterOutcome::Registered(_)) => id,
            Ok(pintle::direct::registry::RegisterOutcome::Taken(state)) => {
                return Err(Stop::Broken(format!(
                    "the name was free, and a register whose reply was lost meets its own \
                     instance: {state:?}"
                )));
            }
            Err(Failure::Error(_)) => {
                // Repeated by the host until it succeeds.
                let register = || async {
                    let again = owner.try_register(instance(&service, "x"), LONG_TTL_MS).await?;
                    Ok(again.ok())
                };
                let what = "its own orphan does not block an owner";
                while_unclear(|| eventually(what, Duration::from_secs(5), register)).await?
            }
            Err(failure) => return Err(failure.into()),
        };
        let listed = while_unclear(|| owner.instances(&service)).await?.len();
        ensure!(listed == 1, "one instance is registered, and {listed} are listed");
        while_unclear(|| async { Ok(owner.raw.registry_deregister(call(), id).await?) }).await?;
        let orphan = owner.find(&service, "x").await?;
        ensure!(orphan.is_none(), "it was deregistered, and an orphan is listed: {orphan:?}");
    }
    owner.lost_replies().map(drop)
}
