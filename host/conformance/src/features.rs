//! The features that a plugin may declare, and the smallest way to ask for each.

use futures::future::BoxFuture;
use pintle::{
    Capability,
    direct::{
        Failure,
        config::{
            DeleteRequest, Expectation, HistoryRequest, ListRequest, PutRequest, ReadOptions,
            Target, TxnOp, TxnPut, TxnRequest, WatchRequest,
        },
        lock::{AcquireRequest, Mode},
        registry::OperatorOverride,
        tracing::QueryRequest,
        types::Consistency,
    },
};

use crate::{
    check::{Outcome, Stop},
    owner::{OVERRULED, Owner, anything, asking, call, instance, read, typed, write},
};

/// A feature of the interface.
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The capability that it belongs to.
    pub capability: Capability,
    /// What an operator has of it.
    pub says: &'static str,
    /// The ways to ask for it; none where nothing can be ignored.
    pub(crate) asks: &'static [Ask],
}

/// The arguments: an owner, and a name that nobody uses.
type Ask = for<'a> fn(&'a Owner, String) -> BoxFuture<'a, Result<(), Failure>>;

macro_rules! feature {
    ($capability:ident, $name:literal, $says:literal $(, |$owner:ident, $key:ident| $ask:expr)*) => {
        Feature {
            name: $name,
            capability: Capability::$capability,
            says: $says,
            asks: &[$(|$owner, $key| Box::pin(async move { $ask.await.map(drop) })),*],
        }
    };
}

/// Every feature that the WIT packages name, in their order.
pub const FEATURES: &[Feature] = &[
    feature!(
        Config,
        "config.cas",
        "compare and set",
        |owner, key| put_if(owner, &key, Expectation::Absent),
        |owner, key| put_if(owner, &key, Expectation::Exists),
        |owner, key| put_if(owner, &key, Expectation::Version("1".into())),
        |owner, key| delete_if(owner, &key, Expectation::Exists),
        |owner, key| delete_if(owner, &key, Expectation::Version("1".into()))
    ),
    feature!(Config, "config.version-unique", "equal version means unchanged"),
    feature!(Config, "config.txn", "transactions over several keys", |owner, key| owner
        .raw
        .config_txn(call(), txn(&key, Vec::new()))),
    feature!(
        Config,
        "config.held",
        "writes guarded by a lock",
        |owner, key| {
            let request = PutRequest { held: Some(u64::MAX), ..write(&key, "x") };
            owner.raw.config_put(call(), request)
        },
        |owner, key| {
            let request = DeleteRequest { held: Some(u64::MAX), ..anything(&key) };
            owner.raw.config_delete(call(), request)
        },
        |owner, key| owner.raw.config_delete_prefix(call(), key, Some(u64::MAX)),
        |owner, key| owner.raw.config_txn(call(), txn(&key, vec![u64::MAX]))
    ),
    feature!(Config, "config.history", "earlier values of a key", |owner, key| {
        owner.raw.config_history(call(), HistoryRequest { key, limit: 10, page: None })
    }),
    feature!(
        Config,
        "config.read-at",
        "reads as of a version",
        |owner, key| owner.raw.config_get(call(), key, at("1")),
        |owner, key| owner.raw.config_get_many(call(), vec![key], at("1")),
        |owner, key| owner.raw.config_list(call(), listing(key, at("1")))
    ),
    feature!(
        Config,
        "config.linearizable",
        "linearizable reads",
        |owner, key| owner.raw.config_get(call(), key, read(Consistency::Linearizable)),
        |owner, key| {
            owner.raw.config_get_many(call(), vec![key], read(Consistency::Linearizable))
        },
        |owner, key| {
            owner.raw.config_list(call(), listing(key, read(Consistency::Linearizable)))
        }
    ),
    feature!(
        Config,
        "config.selectors",
        "gray releases",
        |owner, key| owner.raw.config_get(call(), key, selecting()),
        |owner, key| owner.raw.config_get_many(call(), vec![key], selecting()),
        |owner, key| owner.raw.config_list(call(), listing(key, selecting())),
        |owner, key| {
            let request = PutRequest { selectors: selecting().selectors, ..write(&key, "x") };
            owner.raw.config_put(call(), request)
        },
        |owner, key| {
            let request = DeleteRequest { selectors: selecting().selectors, ..anything(&key) };
            owner.raw.config_delete(call(), request)
        },
        |owner, key| {
            let request = WatchRequest { selectors: selecting().selectors, ..watching(key) };
            owner.raw.config_watch(call(), owner.id(), request)
        }
    ),
    feature!(Config, "config.content-type", "content types are kept", |owner, key| {
        owner.raw.config_put(call(), typed(&key, "x", "text/plain"))
    }),
    feature!(Config, "config.delete-prefix-atomic", "a prefix is deleted at once"),
    feature!(Config, "watch.every-change", "each write is delivered"),
    feature!(Config, "watch.from-version", "watches from a version on", |owner, key| {
        let from_version = Some("1".to_owned());
        owner.raw.config_watch(call(), owner.id(), WatchRequest { from_version, ..watching(key) })
    }),
    feature!(Config, "watch.previous", "events with the value before", |owner, key| {
        let request = WatchRequest { previous: true, ..watching(key) };
        owner.raw.config_watch(call(), owner.id(), request)
    }),
    feature!(
        Registry,
        "registry.persistent",
        "instances without a session",
        |owner, key| owner.raw.registry_add(call(), instance(&key, "x"), false),
        |owner, key| owner.raw.registry_remove(call(), key, "x".into())
    ),
    feature!(
        Registry,
        "registry.override",
        "operators overrule instances",
        |owner, key| {
            let operator = OperatorOverride { enabled: None, weight: None, note: String::new() };
            owner.raw.registry_set_override(call(), key, OVERRULED.into(), Some(operator))
        },
        |owner, key| owner.raw.registry_set_override(call(), key, OVERRULED.into(), None)
    ),
    feature!(Registry, "registry.health", "the backend probes instances"),
    feature!(Lock, "lock.shared", "shared leases", |owner, key| {
        let request = AcquireRequest { mode: Mode::Shared, ..asking(&key) };
        owner.raw.lock_acquire(call(), owner.id(), request)
    }),
    feature!(Lock, "lock.permits", "leases on one of several permits", |owner, key| {
        let request = AcquireRequest { mode: Mode::Permit(2), ..asking(&key) };
        owner.raw.lock_acquire(call(), owner.id(), request)
    }),
    feature!(Lock, "lock.waiters", "waiters are listed"),
    feature!(Lock, "lock.force-release", "operators take locks away", |owner, key| {
        owner.raw.lock_force_release(call(), key, "1".into())
    }),
    feature!(Lock, "lock.watch", "watches on locks", |owner, key| {
        owner.raw.lock_watch(call(), owner.id(), key)
    }),
    feature!(Tracing, "tracing.query", "traces are read back", |owner, key| {
        let request = QueryRequest { trace_id: None, service: Some(key), limit: 1 };
        owner.raw.tracing_query(call(), request)
    }),
];

/// The feature of this name.
pub(crate) fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

/// What became of asking for a feature that is not declared.
pub(crate) enum Refusal {
    /// It was refused as it should be.
    Refused,
    /// There is no way to ask.
    Unasked,
    /// It was not, and what came instead.
    Ignored(String),
}

/// Asks for `feature`, which the plugin does not declare.
///
/// # Errors
///
/// Unclear when its server was away, which may be noticed before what was asked.
pub(crate) async fn refusal(feature: &Feature, owner: &Owner, key: String) -> Outcome<Refusal> {
    for (way, ask) in (1..).zip(feature.asks) {
        if let Some(instead) = ignored(ask(owner, key.clone()).await)? {
            let ways = feature.asks.len();
            return Ok(Refusal::Ignored(format!("way {way} of {ways} to ask for it {instead}")));
        }
    }
    Ok(if feature.asks.is_empty() { Refusal::Unasked } else { Refusal::Refused })
}

/// What came instead of a refusal.
fn ignored(answer: Result<(), Failure>) -> Outcome<Option<String>> {
    match answer {
        Ok(()) => Ok(Some("is accepted".to_owned())),
        Err(Failure::Error(error)) if error.code == "unsupported" => Ok(None),
        Err(failure) => match Stop::from(failure) {
            Stop::Broken(text) => Ok(Some(format!("answers {text}"))),
            stop => Err(stop),
        },
    }
}

async fn put_if(owner: &Owner, key: &str, expect: Expectation) -> Result<(), Failure> {
    owner.raw.config_put(call(), PutRequest { expect, ..write(key, "x") }).await.map(drop)
}

async fn delete_if(owner: &Owner, key: &str, expect: Expectation) -> Result<(), Failure> {
    owner.raw.config_delete(call(), DeleteRequest { expect, ..anything(key) }).await.map(drop)
}

fn txn(key: &str, held: Vec<u64>) -> TxnRequest {
    let put = TxnPut { key: key.to_owned(), value: Vec::new(), content_type: None };
    TxnRequest { conditions: Vec::new(), held, ops: vec![TxnOp::Put(put)] }
}

fn at(version: &str) -> ReadOptions {
    ReadOptions { at: Some(version.to_owned()), ..read(Consistency::Sequential) }
}

fn selecting() -> ReadOptions {
    let selectors = vec![("ip".to_owned(), "10.0.0.1".to_owned())];
    ReadOptions { selectors, ..read(Consistency::Any) }
}

fn listing(prefix: String, options: ReadOptions) -> ListRequest {
    ListRequest { prefix, page: None, limit: 1, keys_only: true, options }
}

fn watching(key: String) -> WatchRequest {
    let target = Target::Key(key);
    WatchRequest { target, from_version: None, previous: false, selectors: Vec::new() }
}

#[cfg(test)]
mod tests {
    use pintle::direct::types::{Effect, Error};

    use super::*;

    fn refused(code: &str) -> Result<(), Failure> {
        Err(Failure::Error(Error {
            code: code.to_owned(),
            effect: Effect::None,
            retry_after_ms: None,
            message: String::new(),
            details: Vec::new(),
        }))
    }

    #[test]
    fn a_server_that_is_away_says_nothing_of_whether_a_feature_is_refused() {
        assert!(matches!(ignored(refused("unsupported")), Ok(None)));
        for answer in [Ok(()), refused("invalid"), Err(Failure::Ended("a trap".to_owned()))] {
            assert!(matches!(ignored(answer.clone()), Ok(Some(_))), "{answer:?}");
        }
        for code in ["unavailable", "timeout", "exhausted"] {
            assert!(matches!(ignored(refused(code)), Err(Stop::Unclear(_))), "{code}");
        }
    }
}
