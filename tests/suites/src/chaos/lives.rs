//! R7 and R13: instances over restarts of the server, and what a host leaves when it stops.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use pintle::{
    lock::{AcquireOutcome, Lease, LockRequest},
    registry::{Instance, RegisterOutcome, Registration, RegistrationStatus},
};
use pintle_test_bench::ChaosRow;

use super::{
    Size,
    backend::{Backend, Control},
    p99,
    stage::{Host, Stage},
};
use crate::{eventually, within};

/// Among which what is held is divided.
pub(super) const BACKENDS: usize = 4;
/// How many are asked for at once.
const AT_ONCE: usize = 50;
/// Longest wait for all to be there again.
const LIMIT: Duration = Duration::from_secs(60);

/// R7: many instances, and a server that is killed again and again.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn restarts<B: Backend>(size: Size) -> Result<ChaosRow> {
    const P99_MAX: Duration = Duration::from_secs(2);
    let (instances, restarts) = (size.of(2_000, 200), size.of(20, 2));
    let mut stage = Stage::<B>::start(BACKENDS).await?;
    let ttl = Duration::from_secs(10);
    let registrations = register(&stage.host, instances, ttl).await?;
    let (mut times, mut missing) = (Vec::new(), 0);
    for _ in 0..restarts {
        B::kill(&mut stage.server)?;
        // What does not know that its server is gone would count as back at once.
        eventually("doubt about all instances", async || {
            let in_doubt = |one: &Registration| one.status() != RegistrationStatus::Registered;
            Ok(registrations.iter().all(in_doubt).then_some(()))
        })
        .await?;
        B::restart(&mut stage.server).await?;
        let back = until_back(&registrations).await;
        missing += back.iter().filter(|time| time.is_none()).count();
        times.extend(back.into_iter().flatten());
        let listed = stage.control().await?.leased().await?.len();
        missing += instances.saturating_sub(listed);
    }
    let p99 = p99(times);
    let late = u64::from(p99 > P99_MAX);
    let what = "instances over restarts of the server";
    let target = "100 %, p99 ≤ 2 s after the port answers";
    let (wanted, done) = (size.of(20, 2), restarts as u64);
    Ok(ChaosRow::new(&B::id("R7"), what, target, wanted, done)
        .violations(missing as u64 + late)
        .detail(format!("{instances} instances, {missing} missing, p99 {} ms", p99.as_millis())))
}

pub(super) async fn register(
    host: &Host,
    count: usize,
    ttl: Duration,
) -> Result<Vec<Registration>> {
    let registering = (0..count).map(|number| async move {
        let registry = host.pintle.registry(&Host::name(number % BACKENDS))?;
        let instance = Instance::new("lives", number.to_string(), "127.0.0.1", 1);
        match within("a registration", registry.register(instance, ttl)).await?? {
            RegisterOutcome::Registered(registration) => Ok(registration),
            RegisterOutcome::Taken(owner) => bail!("taken by {owner:?}"),
        }
    });
    stream::iter(registering).buffer_unordered(AT_ONCE).try_collect().await
}

/// Takes so many locks, each of its own name.
pub(super) async fn acquire(host: &Host, count: usize, ttl: Duration) -> Result<Vec<Lease>> {
    let acquiring = (0..count).map(|number| async move {
        let lock = host.pintle.lock(&Host::name(number % BACKENDS))?;
        let request = LockRequest::new(format!("lives/{number}")).ttl(ttl);
        match within("a lease", lock.acquire(request)).await?? {
            AcquireOutcome::Held(lease) => Ok(lease),
            AcquireOutcome::Busy(holders) => bail!("held by {holders:?}"),
        }
    });
    stream::iter(acquiring).buffer_unordered(AT_ONCE).try_collect().await
}

/// How long each takes until it is certainly registered; none when it is not in time.
async fn until_back(registrations: &[Registration]) -> Vec<Option<Duration>> {
    let begun = Instant::now();
    let mut back = vec![None; registrations.len()];
    while back.iter().any(Option::is_none) && begun.elapsed() < LIMIT {
        for (registration, back) in registrations.iter().zip(&mut back) {
            if registration.status() == RegistrationStatus::Registered {
                back.get_or_insert_with(|| begun.elapsed());
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    back
}

/// R13: a host that stops while it has many leases and registrations.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn shutdown<B: Backend>(size: Size) -> Result<ChaosRow> {
    const TOOK_MAX: Duration = Duration::from_secs(1);
    let count = size.of(500, 100);
    let stage = Stage::<B>::start(BACKENDS).await?;
    let ttl = Duration::from_secs(600);
    let registrations = register(&stage.host, count, ttl).await?;
    let leases = acquire(&stage.host, count, ttl).await?;
    let control = stage.control().await?;
    let before = control.leased().await?.len();
    let begun = Instant::now();
    within("the shutdown", stage.host.pintle.shutdown()).await.context("R13")?;
    let took = begun.elapsed();
    let left = control.leased().await?.len();
    let wrong = left as u64 + u64::from(took > TOOK_MAX);
    drop((registrations, leases));
    let what = "leases and registrations of a host that stops";
    Ok(ChaosRow::new(
        &B::id("R13"),
        what,
        "all gone within 1 s",
        size.of(1_000, 200),
        before as u64,
    )
    .violations(wrong)
    .detail(format!("{left} left, stopped in {} ms", took.as_millis())))
}
