//! R6: lost replies leave neither orphans nor doubles.

use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::try_join_all;
use pintle::{
    Effect,
    config::{Put, PutOutcome},
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_test_bench::ChaosRow;
use pintle_test_proxy::{Action, Cut};

use super::{
    Size,
    backend::{Backend, Control, Kind},
    stage::{Host, Stage},
};
use crate::{eventually, within};

/// So long that nothing ends by itself.
const TTL: Duration = Duration::from_secs(3_000);

/// R6: replies to one kind of call are lost, one after the other on each of many connections.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn lost<B: Backend>(kind: Kind, size: Size) -> Result<ChaosRow> {
    let (backends, rounds) = (size.of(25, 5), size.of(40, 4));
    let stage = Stage::<B>::start(backends).await?;
    let control = stage.control().await?;
    // Where a backend has directories, this one is there before all of them want to make it.
    control.put("lost/first", "").await?;
    let workers = (0..backends).map(|number| work(&stage, kind, number, rounds));
    let wrong: Vec<Vec<String>> = try_join_all(workers).await?;
    let mut wrong: Vec<String> = wrong.into_iter().flatten().collect();
    let left =
        eventually("no orphan", async || Ok(control.leased().await?.is_empty().then_some(())));
    if left.await.is_err() {
        wrong.extend(control.leased().await?.iter().map(|name| format!("orphan {name:?}")));
    }
    let done = (backends * rounds) as u64;
    let (which, what) = match kind {
        Kind::Register => ("register", "registrations whose reply is lost"),
        Kind::Acquire => ("acquire", "claims whose reply is lost"),
        Kind::Put => ("put", "puts whose reply is lost"),
    };
    let id = format!("{}-{which}", B::id("R6"));
    Ok(ChaosRow::new(&id, what, "0 orphans, 0 doubles", size.of(1_000, 20), done)
        .violations(wrong.len() as u64)
        .detail(wrong.first().cloned().unwrap_or_default()))
}

/// Loses replies one after the other; what was wrong.
async fn work<B: Backend>(
    stage: &Stage<B>,
    kind: Kind,
    number: usize,
    rounds: usize,
) -> Result<Vec<String>> {
    let control = stage.control().await?;
    let mut wrong = Vec::new();
    for round in 0..rounds {
        let name = format!("lost-{number}-{round}-");
        let how = if round % 2 == 0 { Cut::Reset } else { Cut::Close };
        let armed = stage.host.proxy(number)?.arm(B::reply_of(kind, &name), Action::CutBefore(how));
        let backend = Host::name(number);
        let found = match kind {
            Kind::Register => register(&stage.host, &backend, &name).await?,
            Kind::Acquire => acquire(&stage.host, &backend, &name).await?,
            Kind::Put => put(&stage.host, &backend, &name, &control).await?,
        };
        armed.fired().await?;
        wrong.extend(found);
    }
    Ok(wrong)
}

async fn register(host: &Host, backend: &str, name: &str) -> Result<Option<String>> {
    let registry = host.pintle.registry(backend)?;
    let instance = Instance::new("lost", name, "127.0.0.1", 1);
    let outcome = within("an answer", registry.register(instance.clone(), TTL)).await?;
    let taken = |owner| Some(format!("{name}: taken by {owner:?}"));
    match outcome {
        Ok(RegisterOutcome::Registered(registration)) => registration.deregister().await?,
        Ok(RegisterOutcome::Taken(owner)) => return Ok(taken(owner)),
        // Whatever was said, the name must be free.
        Err(_) => {}
    }
    let again =
        eventually("an answer", async || match registry.register(instance.clone(), TTL).await {
            Err(error) if error.is_transient() => Ok(None),
            outcome => Ok(Some(outcome?)),
        });
    match again.await? {
        RegisterOutcome::Registered(registration) => {
            registration.deregister().await?;
            Ok(None)
        }
        RegisterOutcome::Taken(owner) => Ok(taken(owner)),
    }
}

async fn acquire(host: &Host, backend: &str, name: &str) -> Result<Option<String>> {
    let lock = host.pintle.lock(backend)?;
    let request = || LockRequest::new(name).ttl(TTL).wait(Duration::from_secs(10));
    match within("an answer", lock.acquire(request())).await? {
        Ok(AcquireOutcome::Held(lease)) => drop(lease.release().await),
        Ok(AcquireOutcome::Busy(_)) => return Ok(Some(format!("{name}: busy with itself"))),
        Err(_) => {}
    }
    let again = eventually("an answer", async || match lock.acquire(request()).await {
        Err(error) if error.is_transient() => Ok(None),
        outcome => Ok(Some(outcome?)),
    });
    match again.await? {
        AcquireOutcome::Held(lease) => {
            lease.release().await?;
            Ok(None)
        }
        AcquireOutcome::Busy(_) => Ok(Some(format!("{name}: an orphan blocks it"))),
    }
}

async fn put(
    host: &Host,
    backend: &str,
    name: &str,
    control: &impl Control,
) -> Result<Option<String>> {
    let config = host.pintle.config(backend)?;
    let key = format!("lost/{name}");
    match within("an answer", config.put(Put::new(key.as_str(), "1"))).await? {
        Ok(PutOutcome::Stored { .. }) => {}
        Ok(outcome) => bail!("{key}: {outcome:?}"),
        Err(error) if error.effect() == Effect::Unknown => {}
        Err(error) => return Ok(Some(format!("{key}: it happened, and {error} denies it"))),
    }
    let writes = control.writes(&key).await?;
    Ok((writes != 1).then(|| format!("{key}: written {writes} times")))
}
