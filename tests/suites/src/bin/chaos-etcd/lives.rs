//! R7 and R13: instances over restarts of the server, and what a host leaves when it stops.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use pintle::{
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, RegisterOutcome, Registration, RegistrationStatus},
};
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{chaos::p99, within};

use crate::{
    Size, millis,
    stage::{Host, Stage, leased_keys},
};

const BACKENDS: usize = 4;
/// How many are asked for at once.
const AT_ONCE: usize = 50;
/// Longest wait for all to be there again.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn restarts(size: Size) -> Result<ChaosRow> {
    const P99_MAX: Duration = Duration::from_secs(2);
    let (instances, restarts) = (size.of(2_000, 200), size.of(20, 2));
    let mut stage = Stage::start(BACKENDS).await?;
    let ttl = Duration::from_secs(10);
    let registrations = register(&stage, instances, ttl).await?;
    let (mut times, mut missing) = (Vec::new(), 0);
    for _ in 0..restarts {
        stage.etcd.kill()?;
        stage.etcd.restart().await?;
        let back = until_back(&registrations).await;
        missing += back.iter().filter(|time| time.is_none()).count();
        times.extend(back.into_iter().flatten());
    }
    let listed = leased_keys(&mut stage.client().await?).await?.len();
    missing += instances.saturating_sub(listed);
    let p99 = p99(times);
    let late = u64::from(p99 > P99_MAX);
    let what = "instances over restarts of the server";
    let target = "100 %, p99 ≤ 2 s after the port answers";
    let (wanted, done) = (size.of(20, 2), restarts as u64);
    Ok(ChaosRow::new("R7-etcd", what, target, wanted, done)
        .violations(missing as u64 + late)
        .detail(format!("{instances} instances, {missing} missing, p99 {} ms", millis(p99))))
}

async fn register(stage: &Stage, count: usize, ttl: Duration) -> Result<Vec<Registration>> {
    let registering = (0..count).map(|number| async move {
        let registry = stage.host.pintle.registry(&Host::name(number % BACKENDS))?;
        let instance = Instance::new("lives", number.to_string(), "127.0.0.1", 1);
        match within("a registration", registry.register(instance, ttl)).await?? {
            RegisterOutcome::Registered(registration) => Ok(registration),
            RegisterOutcome::Taken(owner) => bail!("taken by {owner:?}"),
        }
    });
    stream::iter(registering).buffer_unordered(AT_ONCE).try_collect().await
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

pub(crate) async fn shutdown(size: Size) -> Result<ChaosRow> {
    const TOOK_MAX: Duration = Duration::from_secs(1);
    let count = size.of(500, 100);
    let stage = Stage::start(BACKENDS).await?;
    let ttl = Duration::from_secs(600);
    let registrations = register(&stage, count, ttl).await?;
    let locking = (0..count).map(|number| {
        let stage = &stage;
        async move {
            let lock = stage.host.pintle.lock(&Host::name(number % BACKENDS))?;
            let request = LockRequest::new(format!("lives/{number}")).ttl(ttl);
            match within("a lease", lock.acquire(request)).await?? {
                AcquireOutcome::Held(lease) => anyhow::Ok(lease),
                AcquireOutcome::Busy(holders) => bail!("held by {holders:?}"),
            }
        }
    });
    let leases: Vec<_> = stream::iter(locking).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut client = stage.client().await?;
    let before = leased_keys(&mut client).await?.len();
    let begun = Instant::now();
    within("the shutdown", stage.host.pintle.shutdown()).await.context("R13")?;
    let took = begun.elapsed();
    let left = leased_keys(&mut client).await?.len();
    let wrong = left as u64 + u64::from(took > TOOK_MAX);
    drop((registrations, leases));
    let what = "leases and registrations of a host that stops";
    Ok(ChaosRow::new("R13-etcd", what, "all gone within 1 s", size.of(1_000, 200), before as u64)
        .violations(wrong)
        .detail(format!("{left} left, stopped in {} ms", millis(took))))
}
