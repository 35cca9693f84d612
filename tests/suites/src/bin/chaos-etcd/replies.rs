//! R6: lost replies leave neither orphans nor doubles.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::Client;
use futures::future::try_join_all;
use pintle::{
    Effect,
    config::{Put, PutOutcome},
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_test_bench::ChaosRow;
use pintle_test_proxy::{Action, Cut, Rule};
use pintle_test_suites::{eventually, within};

use crate::{
    Size,
    stage::{Host, ROOT, Stage, leased_keys},
};

/// So long that nothing ends by itself.
const TTL: Duration = Duration::from_secs(3_000);

/// What loses its reply.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Register,
    Acquire,
    Put,
}

pub(crate) async fn lost(size: Size) -> Vec<ChaosRow> {
    let mut rows = Vec::new();
    for (kind, id) in [
        (Kind::Register, "R6-etcd-register"),
        (Kind::Acquire, "R6-etcd-acquire"),
        (Kind::Put, "R6-etcd-put"),
    ] {
        rows.push(crate::row(id, of(kind, id, size)).await);
    }
    rows
}

async fn of(kind: Kind, id: &str, size: Size) -> Result<ChaosRow> {
    let (backends, rounds) = (size.of(25, 5), size.of(40, 4));
    let stage = Stage::start(backends).await?;
    let workers = (0..backends).map(|number| work(&stage, kind, number, rounds));
    let wrong: Vec<Vec<String>> = try_join_all(workers).await?;
    let mut wrong: Vec<String> = wrong.into_iter().flatten().collect();
    let mut client = stage.client().await?;
    let left = eventually("no orphan", async || {
        Ok(leased_keys(&mut client).await?.is_empty().then_some(()))
    });
    if left.await.is_err() {
        let orphans = leased_keys(&mut stage.client().await?).await?;
        wrong.extend(orphans.iter().map(|pair| format!("orphan {:?}", pair.key_str())));
    }
    let done = (backends * rounds) as u64;
    let what = match kind {
        Kind::Register => "registrations whose reply is lost",
        Kind::Acquire => "claims whose reply is lost",
        Kind::Put => "puts whose reply is lost",
    };
    Ok(ChaosRow::new(id, what, "0 orphans, 0 doubles", size.of(1_000, 20), done)
        .violations(wrong.len() as u64)
        .detail(wrong.first().cloned().unwrap_or_default()))
}

/// Loses replies one after the other; what was wrong.
async fn work(stage: &Stage, kind: Kind, number: usize, rounds: usize) -> Result<Vec<String>> {
    let mut client = stage.client().await?;
    let mut wrong = Vec::new();
    for round in 0..rounds {
        let name = format!("lost-{number}-{round}-");
        let needle = name.clone().into_bytes();
        let how = if round % 2 == 0 { Cut::Reset } else { Cut::Close };
        let rule = Rule::reply_to(move |message| message.contains(&needle));
        let armed = stage.host.proxy(number)?.arm(rule, Action::CutBefore(how));
        let backend = Host::name(number);
        let found = match kind {
            Kind::Register => register(stage, &backend, &name).await?,
            Kind::Acquire => acquire(stage, &backend, &name).await?,
            Kind::Put => put(stage, &backend, &name, &mut client).await?,
        };
        armed.fired().await?;
        wrong.extend(found);
    }
    Ok(wrong)
}

async fn register(stage: &Stage, backend: &str, name: &str) -> Result<Option<String>> {
    let registry = stage.host.pintle.registry(backend)?;
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

async fn acquire(stage: &Stage, backend: &str, name: &str) -> Result<Option<String>> {
    let lock = stage.host.pintle.lock(backend)?;
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
    stage: &Stage,
    backend: &str,
    name: &str,
    client: &mut Client,
) -> Result<Option<String>> {
    let config = stage.host.pintle.config(backend)?;
    let key = format!("lost/{name}");
    match within("an answer", config.put(Put::new(key.as_str(), "1"))).await? {
        Ok(PutOutcome::Stored { .. }) => {}
        Ok(outcome) => bail!("{key}: {outcome:?}"),
        Err(error) if error.effect() == Effect::Unknown => {}
        Err(error) => return Ok(Some(format!("{key}: it happened, and {error} denies it"))),
    }
    let stored = client.get(format!("{ROOT}{key}"), None).await?;
    let version = stored.kvs().first().context("what was put")?.version();
    Ok((version != 1).then(|| format!("{key}: written {version} times")))
}
