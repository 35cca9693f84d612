//! The manners of calls: their time, their cancellation, their errors, how fresh their answers are.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

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

use super::plugin::{use_server, use_server_by};
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
    check!("plugin.consistency/never-back", never_back, "sequential reads never go back in time",
        needs Need::Capability(Capability::Config)),
];

/// How much later than it was told a call may return: what the host needs to carry the answer.
pub(super) const MARGIN: Duration = Duration::from_millis(400);

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
    cancelled_in_time(&owner, attempt, use_server_by(&owner, &key, attempt)).await
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
    owner.lost_replies().map(drop)
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
    let other = trial.owner("a").await?;
    if other.offers(Capability::Config) {
        // What is above a key belongs to who made it: with secrets that some servers take, whatever they
        // are, everybody else would be shut out.
        other.put(&trial.key("not-secret"), "x").await?;
    }
    let mut settings = trial.subject.settings().settings.clone();
    for key in &secrets {
        settings.insert(key.clone(), MARK.into());
    }
    let seen = AtomicU32::new(0);
    let hides = |error: &Error| {
        seen.fetch_add(1, Ordering::Relaxed);
        let all = format!("{} {} {:?}", error.code, error.message, error.details);
        ensure!(
            !all.contains(MARK),
            "the value of a secret of {secrets:?} stands in an error: {all}"
        );
        Outcome::Ok(())
    };
    for weather in [Weather::Clear, Weather::Cut, Weather::Blackhole] {
        let Some(owner) = start_with_secrets(trial, &mut settings, weather, &hides).await? else {
            continue;
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
    if seen.into_inner() == 0 {
        return Err(Stop::Skipped(format!("with wrong {secrets:?} no error came to look at")));
    }
    Ok(())
}

/// Starts with wrong secrets. A setting that is refused for being missing beside a secret is given, so
/// that errors of the server's come as well as those of the start.
async fn start_with_secrets(
    trial: &mut Trial,
    settings: &mut serde_json::Map<String, serde_json::Value>,
    weather: Weather,
    hides: &(impl Fn(&Error) -> Outcome + Sync),
) -> Outcome<Option<Arc<Owner>>> {
    loop {
        let start = Start {
            settings: Some(serde_json::Value::Object(settings.clone()).to_string()),
            ..Start::default()
        };
        start.faults.set(weather);
        let error = match trial.try_owner("secret", start).await {
            Ok(owner) => return Ok(Some(owner)),
            Err(Failure::Error(error)) => error,
            Err(failure) => return Err(failure.into()),
        };
        hides(&error)?;
        let named = error.details.into_iter().find(|(name, _)| name == "setting");
        match named {
            Some((_, setting)) if !settings.contains_key(&setting) => {
                settings.insert(setting, "pintle-conformance".into());
            }
            _ => return Ok(None),
        }
    }
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

async fn never_back(trial: &mut Trial) -> Outcome {
    const LAST: u32 = 200;
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let key = trial.key("counter");
    owner.put(&key, "0").await?;
    let counted = OnceLock::new();
    let counting = async {
        for number in 1..=LAST {
            other.put(&key, number.to_string()).await?;
        }
        Outcome::Ok(counted.get_or_init(Instant::now))
    };
    let reading = async {
        let mut newest = 0;
        while newest < LAST {
            let options = read(Consistency::Sequential);
            let found = owner.raw.config_get(call(), key.clone(), options).await?;
            let seen = found.and_then(|entry| String::from_utf8(entry.value).ok()?.parse().ok());
            let Some(seen) = seen.filter(|seen| *seen >= newest) else {
                return Err(Stop::Broken(format!(
                    "{key} counts up, and a sequential read after {newest} was seen answers {seen:?}"
                )));
            };
            newest = seen;
            // It may be late, but not for ever.
            let late = counted.get().is_some_and(|counted| counted.elapsed() > SOON);
            ensure!(!late, "{key} has counted to {LAST}, and reads still show {newest}");
        }
        Outcome::Ok(())
    };
    try_join(counting, reading).await?;
    Ok(())
}
