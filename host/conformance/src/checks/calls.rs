//! The manners of calls: their time, their cancellation, their errors, how fresh their answers are.

use std::time::{Duration, Instant};

use futures::future::try_join;
use pintle::{
    Capability,
    direct::{
        Call, Failure, Start, Weather,
        config::PutOutcome,
        lock::{AcquireOutcome, AcquireRequest},
        types::{Consistency, Effect, Error},
    },
};

use super::plugin::use_server;
use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    owner::{Owner, asking, call, read, write},
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("plugin.timeout", timeout, "a call that waits returns when its time is over",
        needs Need::Capability(Capability::Lock)),
    check!("plugin.timeout/blackhole", timeout_blackhole, "a call whose server is not heard returns in time",
        needs Need::Network),
    check!("plugin.cancel", cancel, "a cancelled call returns within a second",
        needs Need::Capability(Capability::Lock)),
    check!("plugin.cancel/blackhole", cancel_blackhole, "so it does when its server is not heard",
        needs Need::Network),
    check!("plugin.cancel-clean", cancel_clean, "an acquire that wins although cancelled gives it back",
        needs Need::Capability(Capability::Lock)),
    check!("plugin.error-effect", error_effect, "effect none is said only when nothing happened",
        needs Need::Network, Need::Capability(Capability::Config)),
    check!("plugin.error-secret", error_secret, "no error holds a value of a secret setting"),
    check!("plugin.consistency", consistency, "a sequential read sees the plugin's own writes",
        needs Need::Capability(Capability::Config)),
];

/// How much later than it was told a call may return: what the host needs to carry the answer.
const MARGIN: Duration = Duration::from_millis(400);

async fn timeout(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let name = trial.key("timeout");
    let grant = owner.hold(asking(&name)).await?;
    let limit = Duration::from_secs(2);
    let asked = Instant::now();
    let request = AcquireRequest { wait_ms: 20_000, ..asking(&name) };
    let outcome = owner.raw.lock_acquire(Call::within(limit), owner.id(), request).await;
    let took = asked.elapsed();
    ensure!(
        took < limit + MARGIN,
        "told to return within {} ms, an acquire took {} ms and answers {outcome:?}",
        limit.as_millis(),
        took.as_millis()
    );
    ensure!(
        matches!(&outcome, Err(Failure::Error(error)) if error.code == "timeout"),
        "its time was over before its wait was, and it answers {outcome:?} instead of `timeout`"
    );
    let state = owner.inspect(&name).await?;
    ensure!(state.waiters.is_empty(), "an acquire timed out, and its claim is left: {state:?}");
    owner.release(&grant).await?;
    Ok(())
}

async fn timeout_blackhole(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    use_server(&owner, &trial.key("timeout"), Duration::from_secs(5)).await?;
    owner.faults.set(Weather::Blackhole);
    for limit in [Duration::from_millis(500), Duration::from_millis(1_500)] {
        let asked = Instant::now();
        let outcome = use_server(&owner, &trial.key("timeout"), limit).await;
        let took = asked.elapsed();
        ensure!(
            took < limit + MARGIN && matches!(outcome, Err(Failure::Error(_))),
            "the server is not heard; told to return within {} ms it took {} ms and answers \
             {outcome:?}",
            limit.as_millis(),
            took.as_millis()
        );
    }
    Ok(())
}

async fn cancel(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let name = trial.key("cancel");
    let grant = owner.hold(asking(&name)).await?;
    let attempt = Call::within(Duration::from_secs(8));
    let request = AcquireRequest { wait_ms: 6_000, ..asking(&name) };
    let waiting = owner.raw.lock_acquire(attempt, owner.id(), request);
    cancelled_in_time(&owner, attempt, async { waiting.await.map(drop) }).await?;
    // What is not pending is ignored.
    owner.raw.cancel(attempt)?;
    owner.raw.cancel(Call::within(Duration::ZERO))?;
    ensure!(owner.release(&grant).await?, "a cancel of what is not pending ended a lease");
    Ok(())
}

async fn cancel_blackhole(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("cancel");
    use_server(&owner, &key, Duration::from_secs(5)).await?;
    owner.faults.set(Weather::Blackhole);
    let attempt = Call::within(Duration::from_secs(6));
    if owner.offers(Capability::Config) {
        let using = owner.raw.config_get(attempt, key, owner.fresh());
        cancelled_in_time(&owner, attempt, async { using.await.map(drop) }).await
    } else {
        let using = owner.raw.tracing_export(attempt, super::tracing::batch(1));
        cancelled_in_time(&owner, attempt, async { using.await.map(drop) }).await
    }
}

async fn cancelled_in_time(
    owner: &Owner,
    attempt: Call,
    pending: impl Future<Output = Result<(), Failure>>,
) -> Outcome {
    let cancelling = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        owner.raw.cancel(attempt)?;
        Outcome::Ok(Instant::now())
    };
    let pending = async {
        let outcome = pending.await;
        Outcome::Ok((outcome, Instant::now()))
    };
    let (cancelled, (outcome, returned)) = try_join(cancelling, pending).await?;
    let took = returned.saturating_duration_since(cancelled);
    ensure!(
        took < Duration::from_secs(1) + MARGIN,
        "a cancelled call returns within a second; it took {} ms and answers {outcome:?}",
        took.as_millis()
    );
    ensure!(
        matches!(&outcome, Err(Failure::Error(error)) if error.code == "cancelled"),
        "a call that was cancelled while it waited answers {outcome:?} instead of `cancelled`"
    );
    Ok(())
}

async fn cancel_clean(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let name = trial.key("clean");
    for round in 0..12 {
        let grant = owner.hold(AcquireRequest { wait_ms: 1_500, ..asking(&name) }).await?;
        let (id, attempt) = (owner.id(), Call::within(Duration::from_secs(10)));
        let request = AcquireRequest { wait_ms: 8_000, ..asking(&name) };
        let waiting = async { Ok(owner.raw.lock_acquire(attempt, id, request).await) };
        let racing = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The lock becomes free just when the waiter is cancelled.
            let (released, ()) = try_join(owner.release(&grant), async {
                tokio::time::sleep(Duration::from_micros(200 * round)).await;
                owner.raw.cancel(attempt)?;
                Outcome::Ok(())
            })
            .await?;
            ensure!(released, "a lease is held, and its release answers false");
            Outcome::Ok(())
        };
        let (outcome, ()) = try_join(waiting, racing).await?;
        match outcome {
            Ok(AcquireOutcome::Held(_)) => {
                owner.raw.lock_release(call(), id).await?;
            }
            Ok(AcquireOutcome::Busy(_)) | Err(Failure::Error(_)) => {}
            Err(failure) => return Err(failure.into()),
        }
        let next = owner.acquire(AcquireRequest { wait_ms: 1_500, ..asking(&name) }).await?;
        let next = next.map_err(|claims| {
            Stop::Broken(format!(
                "the acquire was cancelled, nobody holds the lock, and it is blocked: {claims:?} \
                 (round {round})"
            ))
        })?;
        owner.release(&next).await?;
    }
    Ok(())
}

async fn error_effect(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    for round in 0..5 {
        let key = trial.key(&format!("effect/{round}"));
        use_server(&owner, &key, Duration::from_secs(5)).await?;
        let weather = match round {
            0 => Weather::Cut,
            _ => Weather::LoseReply { after: round - 1 },
        };
        owner.faults.set(weather);
        let outcome =
            owner.raw.config_put(Call::within(Duration::from_secs(2)), write(&key, "x")).await;
        owner.faults.set(Weather::Clear);
        let stored = eventually("it reads again after a fault", SOON, || async {
            match owner.raw.config_get(call(), key.clone(), owner.fresh()).await {
                Ok(found) => Ok(Some(found.is_some())),
                Err(Failure::Error(_)) => Ok(None),
                Err(failure) => Err(failure.into()),
            }
        })
        .await?;
        match outcome {
            Ok(PutOutcome::Stored(_)) => {
                ensure!(stored, "a put was acknowledged, and the key is absent ({weather:?})");
            }
            Ok(other) => {
                return Err(Stop::Broken(format!("a put of anything answers {other:?}")));
            }
            Err(Failure::Error(error)) => ensure!(
                !(stored && error.effect == Effect::None),
                "a put failed with effect none ({weather:?}), and the key is there: `{}`, {}",
                error.code,
                error.message
            ),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(())
}

async fn error_secret(trial: &mut Trial) -> Outcome {
    const MARK: &str = "s3cr3t-0f-th3-su1t3";
    let schema: serde_json::Value =
        serde_json::from_str(&trial.subject.plugin().settings_schema).unwrap_or_default();
    let properties = schema.get("properties").and_then(|it| it.as_object()).cloned();
    let secret = |property: &serde_json::Value| property.get("writeOnly") == Some(&true.into());
    let secrets: Vec<String> = properties
        .into_iter()
        .flatten()
        .filter_map(|(key, property)| secret(&property).then_some(key))
        .collect();
    if secrets.is_empty() {
        return Err(Stop::Skipped("it has no secret settings".to_owned()));
    }
    let mut settings = trial.subject.settings().settings.clone();
    for key in &secrets {
        settings.insert(key.clone(), MARK.into());
    }
    let hides = |error: &Error| {
        let all = format!("{} {} {:?}", error.code, error.message, error.details);
        ensure!(
            !all.contains(MARK),
            "the value of a secret of {secrets:?} stands in an error: {all}"
        );
        Outcome::Ok(())
    };
    for weather in [Weather::Clear, Weather::Cut, Weather::Blackhole] {
        let settings = Some(serde_json::Value::Object(settings.clone()).to_string());
        let start = Start { settings, ..Start::default() };
        start.faults.set(weather);
        let owner = match trial.try_owner("secret", start).await {
            Ok(owner) => owner,
            Err(Failure::Error(error)) => {
                hides(&error)?;
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        let key = trial.key("secret");
        let limit = Duration::from_millis(1_500);
        if let Err(Failure::Error(error)) = use_server(&owner, &key, limit).await {
            hides(&error)?;
        }
        if owner.offers(Capability::Config) {
            let put = owner.raw.config_put(Call::within(limit), write(&key, "x")).await;
            if let Err(Failure::Error(error)) = put {
                hides(&error)?;
            }
        }
        let report = owner.raw.health(call()).await?;
        let all = format!("{} {:?}", report.message, report.details);
        ensure!(!all.contains(MARK), "the value of a secret stands in its health: {all}");
        owner.kill().await;
    }
    Ok(())
}

async fn consistency(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("own");
    for round in 0..30 {
        let value = round.to_string();
        owner.put(&key, value.as_str()).await?;
        let options = read(Consistency::Sequential);
        let found = owner.raw.config_get(call(), key.clone(), options).await?;
        let seen = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        ensure!(
            seen.as_deref() == Some(value.as_str()),
            "the plugin itself wrote {value}, and its sequential read answers {seen:?}"
        );
        let listed = owner.list(&trial.prefix(), 10).await?.into_iter().next();
        let seen = listed.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        ensure!(
            seen.as_deref() == Some(value.as_str()),
            "the plugin itself wrote {value}, and its listing shows {seen:?}"
        );
    }
    owner.raw.config_get(call(), key, read(Consistency::Any)).await?;
    Ok(())
}
