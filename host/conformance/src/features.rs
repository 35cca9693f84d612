//! The features that a plugin may declare, and the smallest way to ask for each.

use futures::future::BoxFuture;
use pintle::{
    Capability,
    direct::{
        Failure,
        config::{
            Expectation, HistoryRequest, PutRequest, ReadOptions, Target, TxnRequest, WatchRequest,
        },
        lock::{AcquireRequest, Mode},
        registry::OperatorOverride,
        tracing::QueryRequest,
        types::Consistency,
    },
};

use crate::owner::{Owner, asking, call, instance, read, typed, write};

/// A feature of the interface.
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The capability that it belongs to.
    pub capability: Capability,
    /// What an operator has of it.
    pub says: &'static str,
    /// Asks for it; nothing where there is no way to ask, so that nothing can be ignored.
    pub(crate) ask: Option<Ask>,
}

/// The arguments: an owner, and a name that nobody uses.
type Ask = for<'a> fn(&'a Owner, String) -> BoxFuture<'a, Result<(), Failure>>;

macro_rules! feature {
    ($capability:ident, $name:literal, $says:literal) => {
        Feature { name: $name, capability: Capability::$capability, says: $says, ask: None }
    };
    ($capability:ident, $name:literal, $says:literal, |$owner:ident, $key:ident| $ask:expr) => {
        Feature {
            name: $name,
            capability: Capability::$capability,
            says: $says,
            ask: Some(|$owner, $key| Box::pin(async move { $ask.await.map(drop) })),
        }
    };
}

/// Every feature that the WIT packages name, in their order.
pub const FEATURES: &[Feature] = &[
    feature!(Config, "config.cas", "compare and set", |owner, key| {
        let request = PutRequest { expect: Expectation::Absent, ..write(&key, "x") };
        owner.raw.config_put(call(), request)
    }),
    feature!(Config, "config.version-unique", "equal version means unchanged"),
    feature!(Config, "config.txn", "transactions over several keys", |owner, key| {
        let put = pintle::direct::config::TxnPut { key, value: Vec::new(), content_type: None };
        let ops = vec![pintle::direct::config::TxnOp::Put(put)];
        owner.raw.config_txn(call(), TxnRequest { conditions: Vec::new(), held: Vec::new(), ops })
    }),
    feature!(Config, "config.held", "writes guarded by a lock", |owner, key| {
        owner.raw.config_put(call(), PutRequest { held: Some(u64::MAX), ..write(&key, "x") })
    }),
    feature!(Config, "config.history", "earlier values of a key", |owner, key| {
        owner.raw.config_history(call(), HistoryRequest { key, limit: 10, page: None })
    }),
    feature!(Config, "config.read-at", "reads as of a version", |owner, key| {
        let options = ReadOptions { at: Some("1".into()), ..read(Consistency::Sequential) };
        owner.raw.config_get(call(), key, options)
    }),
    feature!(Config, "config.linearizable", "linearizable reads", |owner, key| {
        owner.raw.config_get(call(), key, read(Consistency::Linearizable))
    }),
    feature!(Config, "config.selectors", "gray releases", |owner, key| {
        let selectors = vec![("ip".to_owned(), "10.0.0.1".to_owned())];
        owner.raw.config_get(call(), key, ReadOptions { selectors, ..read(Consistency::Any) })
    }),
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
    feature!(Registry, "registry.persistent", "instances without a session", |owner, key| {
        owner.raw.registry_add(call(), instance(&key, "x"), false)
    }),
    feature!(Registry, "registry.override", "operators overrule instances", |owner, key| {
        let operator = OperatorOverride { enabled: None, weight: None, note: String::new() };
        owner.raw.registry_set_override(call(), key, "x".into(), Some(operator))
    }),
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
pub(crate) async fn refusal(feature: &Feature, owner: &Owner, key: String) -> Refusal {
    let Some(ask) = feature.ask else { return Refusal::Unasked };
    match ask(owner, key).await {
        Err(Failure::Error(error)) if error.code == "unsupported" => Refusal::Refused,
        Err(failure) => Refusal::Ignored(format!("it answers {failure}")),
        Ok(()) => Refusal::Ignored("it is accepted".to_owned()),
    }
}

fn watching(key: String) -> WatchRequest {
    let target = Target::Key(key);
    WatchRequest { target, from_version: None, previous: false, selectors: Vec::new() }
}
