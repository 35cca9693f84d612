//! The life of a plugin: what it says of itself, its start, its health, its end and its successor.

use std::time::{Duration, Instant};

use futures::future::try_join;
use pintle::{
    Capability,
    direct::{Call, Failure, Start, Weather, lifecycle::State, lock::AcquireRequest, types::Error},
};

use crate::{
    check::{Check, Need, Outcome, SOON, Stop, check, ensure},
    features::{self, FEATURES, Refusal},
    owner::{Owner, asking, call, instance},
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!("plugin.describe-bare", describe, "it says what it is without any grant"),
    check!(
        "plugin.feature-honest",
        honest,
        "what it does not declare it refuses with `unsupported`"
    ),
    check!("plugin.start-refuses", start_refuses, "settings that cannot work are refused by key"),
    check!("plugin.start-lazy", start_lazy, "it starts without its server, says so, and recovers",
        needs Need::Network; slow),
    check!("plugin.health", health, "it says how it is within a second"),
    check!("plugin.health/blackhole", health_blackhole, "so it does when its server is not heard",
        needs Need::Network),
    check!("plugin.stop", stop, "after stop nothing of it is left on the server",
        needs Need::Keeps),
];

async fn describe(trial: &mut Trial) -> Outcome {
    // It was loaded, so it answered in a store without grants. What it says has to be usable.
    let plugin = trial.subject.plugin();
    let parts: Vec<&str> = plugin.version.split(['.', '-', '+']).collect();
    ensure!(
        parts.len() >= 3 && parts.iter().take(3).all(|part| part.parse::<u64>().is_ok()),
        "its version is no version as in Semantic Versioning: `{}`",
        plugin.version
    );
    ensure!(
        !plugin.summary.trim().is_empty() && !plugin.summary.contains('\n'),
        "its summary has to be one line: {:?}",
        plugin.summary
    );
    let schema: Result<serde_json::Value, _> = serde_json::from_str(&plugin.settings_schema);
    ensure!(
        schema.as_ref().is_ok_and(serde_json::Value::is_object),
        "the schema of its settings is no JSON object: {schema:?}"
    );
    let unknown: Vec<&String> =
        plugin.features.iter().filter(|name| features::find(name).is_none()).collect();
    ensure!(
        unknown.is_empty(),
        "it declares features that the interface does not name: {unknown:?}"
    );
    let offers = |capability| plugin.capabilities.contains(&capability);
    let strange: Vec<&str> = FEATURES
        .iter()
        .filter(|feature| plugin.features.contains(feature.name))
        .filter(|feature| match feature.name {
            "config.held" => !(offers(Capability::Config) && offers(Capability::Lock)),
            // Of instances as well.
            "watch.previous" => !(offers(Capability::Config) || offers(Capability::Registry)),
            _ => !offers(feature.capability),
        })
        .map(|feature| feature.name)
        .collect();
    ensure!(
        strange.is_empty(),
        "it declares {strange:?}, and does not offer the capabilities that these are about"
    );
    Ok(())
}

async fn honest(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let offered = trial.subject.plugin().capabilities.clone();
    let (mut refused, mut unasked) = (0, Vec::new());
    for feature in FEATURES {
        if trial.has(feature.name) || !offered.contains(&feature.capability) {
            continue;
        }
        match features::refusal(feature, &owner, trial.undeclared(feature.name)).await? {
            Refusal::Refused => refused += 1,
            Refusal::Unasked => unasked.push(feature.name),
            Refusal::Ignored(what) => {
                return Err(Stop::Broken(format!(
                    "`{}` is not declared, so asking for it has to answer `unsupported`: {what}",
                    feature.name
                )));
            }
        }
    }
    trial.note(format!("{refused} features were refused; there is no way to ask for {unasked:?}"));
    Ok(())
}

async fn start_refuses(trial: &mut Trial) -> Outcome {
    let plugin = trial.subject.plugin();
    let schema: serde_json::Value =
        serde_json::from_str(&plugin.settings_schema).unwrap_or_default();
    let properties = schema.get("properties").and_then(|it| it.as_object()).cloned();
    let settings = trial.subject.settings().settings.clone();
    // Nothing that a setting could mean, whatever its type; and a key that no setting has.
    let nonsense = serde_json::json!({ "pintle-conformance": [null] });
    let keys = properties.unwrap_or_default().into_iter().map(|(key, _)| key);
    for key in keys.chain(["no-such-setting".to_owned()]) {
        let mut wrong = settings.clone();
        wrong.insert(key.clone(), nonsense.clone());
        let start = Start {
            settings: Some(serde_json::Value::Object(wrong).to_string()),
            ..Start::default()
        };
        let error = match trial.try_owner("wrong", start).await {
            Err(Failure::Error(error)) => error,
            Err(failure) => {
                return Err(Stop::Broken(format!("with a wrong `{key}` its start: {failure}")));
            }
            Ok(owner) if key == "no-such-setting" => {
                owner.kill().await;
                let allowed = schema.get("additionalProperties") != Some(&false.into());
                ensure!(allowed, "its schema allows no further settings, and it starts with one");
                continue;
            }
            Ok(_) => {
                return Err(Stop::Broken(format!("it starts with `{key}` set to {nonsense}")));
            }
        };
        let named = error.details.iter().find(|(name, _)| name == "setting");
        let names_key = named.is_some_and(|(_, value)| value.split(['.', '[']).any(|it| it == key))
            // The parser may stop at the object itself for a key that it does not know.
            || (key == "no-such-setting" && named.is_some());
        ensure!(
            error.code == "invalid" && names_key,
            "a wrong `{key}` is refused as `invalid` with its name in `details.setting`; it answers \
             {} with details {:?}",
            Failure::Error(Error { details: Vec::new(), ..error.clone() }),
            error.details
        );
    }
    Ok(())
}

/// Does something that needs the server.
pub(super) async fn use_server(owner: &Owner, name: &str, within: Duration) -> Result<(), Failure> {
    use_server_by(owner, name, Call::within(within)).await
}

/// The same by a call that may be cancelled.
pub(super) async fn use_server_by(owner: &Owner, name: &str, call: Call) -> Result<(), Failure> {
    if owner.offers(Capability::Config) {
        owner.raw.config_get(call, name.to_owned(), owner.fresh()).await.map(drop)
    } else if owner.offers(Capability::Registry) {
        owner.raw.registry_services(call, None, 1).await.map(drop)
    } else if owner.offers(Capability::Lock) {
        owner.raw.lock_inspect(call, name.to_owned()).await.map(drop)
    } else {
        owner.raw.tracing_export(call, super::tracing::batch(1)).await.map(drop)
    }
}

async fn start_lazy(trial: &mut Trial) -> Outcome {
    for weather in [Weather::Cut, Weather::Blackhole] {
        let start = Start::default();
        start.faults.set(weather);
        trial.note(format!("the network is {weather:?} from the start"));
        let began = Instant::now();
        let owner = trial.try_owner("early", start).await.map_err(|failure| {
            Stop::Broken(format!("no server is reached ({weather:?}), and its start: {failure}"))
        })?;
        ensure!(
            began.elapsed() < Duration::from_secs(3),
            "no server is reached, and its start took {} ms",
            began.elapsed().as_millis()
        );
        // It may need to be asked for something before it knows.
        let _ = use_server(&owner, &trial.key("early"), Duration::from_secs(1)).await;
        eventually("it says that its server is not reached", SOON, || async {
            let state = owner.raw.health(call()).await?.state;
            Ok((state != State::Serving).then_some(()))
        })
        .await?;
        owner.faults.set(Weather::Clear);
        eventually("it works when its server is there", Duration::from_secs(20), || async {
            let used = use_server(&owner, &trial.key("early"), Duration::from_secs(2)).await;
            Ok(used.is_ok().then_some(()))
        })
        .await?;
        owner.kill().await;
    }
    Ok(())
}

async fn prompt_health(owner: &Owner) -> Outcome {
    let asked = Instant::now();
    let report = owner.raw.health(call()).await?;
    let took = asked.elapsed();
    ensure!(
        took < Duration::from_millis(1_200),
        "health is answered within a second, and took {} ms",
        took.as_millis()
    );
    ensure!(
        report.counters.len() <= 64 && !report.message.contains('\n'),
        "a report has one sentence and at most 64 counters: {report:?}"
    );
    Ok(())
}

async fn health(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    prompt_health(&owner).await?;
    let used = use_server(&owner, &trial.key("health"), Duration::from_secs(5)).await;
    used?;
    let before = owner.raw.health(call()).await?;
    for _ in 0..5 {
        use_server(&owner, &trial.key("health"), Duration::from_secs(5)).await?;
    }
    let after = owner.raw.health(call()).await?;
    for (name, value) in &before.counters {
        let now = after.counters.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
        ensure!(
            now.is_some_and(|now| now >= *value),
            "counters only grow, and `{name}` went from {value} to {now:?}"
        );
    }
    Ok(())
}

async fn health_blackhole(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    use_server(&owner, &trial.key("health"), Duration::from_secs(5)).await?;
    owner.faults.set(Weather::Blackhole);
    let key = trial.key("health");
    let using = async {
        let _ = use_server(&owner, &key, Duration::from_secs(1)).await;
        Outcome::Ok(())
    };
    let asking = async {
        for _ in 0..4 {
            prompt_health(&owner).await?;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Outcome::Ok(())
    };
    try_join(using, asking).await?;
    Ok(())
}

/// Long: what stops or is found again must not depend on its end.
pub(super) const LONG_TTL_MS: u32 = 60_000;

/// Waits until the lock can be had, and gives it back.
pub(super) async fn free_within(owner: &Owner, name: &str, wait_ms: u32, why: &str) -> Outcome {
    match owner.acquire(AcquireRequest { wait_ms, ..asking(name) }).await? {
        Ok(grant) => {
            owner.release(&grant).await?;
            Ok(())
        }
        Err(claims) => Err(Stop::Broken(format!(
            "{why}, and after {wait_ms} ms the lock is still held: {claims:?}"
        ))),
    }
}

/// What a plugin may hold on a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holdings {
    pub(super) locks: bool,
    pub(super) registry: bool,
}

impl Holdings {
    /// # Errors
    ///
    /// Skipped when it holds neither: then there is nothing that could be left behind.
    pub(super) fn of(trial: &Trial) -> Outcome<Self> {
        let offers = |capability| trial.subject.plugin().capabilities.contains(&capability);
        let (locks, registry) = (offers(Capability::Lock), offers(Capability::Registry));
        if !locks && !registry {
            return Err(Stop::Skipped("it holds nothing on a server".to_owned()));
        }
        Ok(Self { locks, registry })
    }
}

async fn stop(trial: &mut Trial) -> Outcome {
    let Holdings { locks, registry } = Holdings::of(trial)?;
    let owner = trial.owner("a").await?;
    let (lock, service) = (trial.key("stop"), trial.service("stop"));
    if locks {
        owner.hold(AcquireRequest { ttl_ms: LONG_TTL_MS, ..asking(&lock) }).await?;
    }
    if registry {
        owner.register(instance(&service, "x"), LONG_TTL_MS).await?;
    }
    owner.stop().await?;
    let later = trial.owner("later").await?;
    if locks {
        free_within(&later, &lock, 1_000, "its holder was stopped").await?;
    }
    if registry {
        let left = later.find(&service, "x").await?;
        ensure!(left.is_none(), "its owner was stopped, and it is listed: {left:?}");
    }
    Ok(())
}
