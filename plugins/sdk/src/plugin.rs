//! The part of a plugin that every plugin has: description, start, health, stop.

use crate::bindings::wire::lifecycle as wire;
use crate::{Context, Error};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// A plugin. Implement the capability traits beside it and name them all in
/// [`export!`](crate::export).
///
/// One incarnation has one thread: futures need not be `Send`, and state is kept in `Rc`, `Cell`
/// and `RefCell`. Never hold a borrow of a `RefCell` across an `await`.
#[allow(async_fn_in_trait, reason = "one thread, and the SDK is the only caller")]
pub trait Plugin: Sized + 'static {
    /// What the operator writes under `settings`. Derive `serde::Deserialize` with
    /// `deny_unknown_fields`, and `schemars::JsonSchema`; secrets are [`Secret`](crate::Secret)s.
    type Settings: DeserializeOwned + JsonSchema;

    /// Says what this plugin is and which features it offers. Called without any grant, before
    /// `start`: no network, no files.
    fn description() -> Description;

    /// Starts the incarnation. An unreachable server is no error: start, say so in
    /// [`health`](Self::health), and go on trying in a [`spawn`](crate::spawn)ed task.
    ///
    /// # Errors
    ///
    /// Settings that can never work: `Error::invalid(…).detail("setting", name)`.
    async fn start(cx: &Context, start: Start<Self::Settings>) -> Result<Rc<Self>, Error>;

    /// What is known now. It cannot wait, so that it answers whatever the server does.
    fn health(&self) -> Health;

    /// Leaves nothing of this incarnation on the server. Nothing is called afterwards.
    ///
    /// The SDK has released leases and registrations and closed watches before.
    ///
    /// # Errors
    ///
    /// Whatever kept the server from forgetting us.
    async fn stop(&self, cx: &Context) -> Result<(), Error>;
}

/// What a plugin gets at its start.
#[derive(Clone, Debug)]
pub struct Start<S> {
    /// The operator's settings, checked against the schema, secrets filled in.
    pub settings: S,
    /// Servers in the operator's order; empty when the backend has none.
    pub endpoints: Vec<Endpoint>,
    /// What the predecessor gave to [`checkpoint`](crate::checkpoint) last.
    pub resume: Option<Vec<u8>>,
    /// The backend's name, for texts and for telling apart the owners of what is stored.
    pub backend: String,
    /// Identity of this host.
    pub node: String,
}

/// One server that the operator named for this backend; prints as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Name or address as the operator wrote it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// True when the host wraps connections to it in TLS; the plugin still writes plain bytes.
    pub tls: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') && !host.starts_with('[') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl From<wire::Endpoint> for Endpoint {
    fn from(endpoint: wire::Endpoint) -> Self {
        Self { host: endpoint.host, port: endpoint.port, tls: endpoint.tls }
    }
}

/// What a plugin says of itself before it runs.
#[derive(Clone, Debug)]
pub struct Description {
    pub(crate) version: String,
    pub(crate) summary: String,
    pub(crate) features: Features,
    pub(crate) single_writer: bool,
    pub(crate) data_directory: bool,
}

impl Description {
    /// A description with the plugin's version (`env!("CARGO_PKG_VERSION")`) and one line for a
    /// list of plugins.
    pub fn new(version: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            summary: summary.into(),
            features: Features::default(),
            single_writer: false,
            data_directory: false,
        }
    }

    /// Offers these features. What is not offered is refused by the SDK, so that nothing is
    /// quietly ignored.
    #[must_use]
    pub fn features(mut self, features: impl IntoIterator<Item = Feature>) -> Self {
        self.features.0.extend(features.into_iter().map(|feature| (feature.name(), feature)));
        self
    }

    /// Two incarnations on the same data must never run at once.
    #[must_use]
    pub fn single_writer(mut self) -> Self {
        self.single_writer = true;
        self
    }

    /// The plugin keeps files; it finds its directory at `/data`.
    #[must_use]
    pub fn data_directory(mut self) -> Self {
        self.data_directory = true;
        self
    }
}

/// The features that a plugin offers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Features(BTreeMap<&'static str, Feature>);

impl Features {
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.0.contains_key(feature.name())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }

    /// # Errors
    ///
    /// `unsupported` when `asked` for what is not offered.
    pub(crate) fn require(&self, asked: bool, feature: Feature) -> Result<(), Error> {
        if !asked || self.has(feature) {
            return Ok(());
        }
        let name = feature.name();
        let message = format!("this plugin does not offer `{name}`");
        Err(Error::unsupported(message).detail("feature", name))
    }
}

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A finer promise inside a capability; the WIT packages say what each one means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Feature {
            $($(#[$doc])* $variant,)*
        }

        impl Feature {
            /// The name by which hosts and operators know it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

features! {
    /// Writes that expect a state.
    ConfigCas = "config.cas",
    /// An equal version means: not written since.
    ConfigVersionUnique = "config.version-unique",
    /// Atomic transactions.
    ConfigTxn = "config.txn",
    /// Writes that happen only while a lease is held.
    ConfigHeld = "config.held",
    /// Earlier revisions of a key.
    ConfigHistory = "config.history",
    /// Reads as of a version.
    ConfigReadAt = "config.read-at",
    /// Linearizable reads.
    ConfigLinearizable = "config.linearizable",
    /// Coordinates of a gray release.
    ConfigSelectors = "config.selectors",
    /// Content types are stored.
    ConfigContentType = "config.content-type",
    /// Deleting a prefix happens at once.
    ConfigDeletePrefixAtomic = "config.delete-prefix-atomic",
    /// Each write is delivered once, in order, with its value.
    WatchEveryChange = "watch.every-change",
    /// Watches that begin at a version.
    WatchFromVersion = "watch.from-version",
    /// Events carry what was there before.
    WatchPrevious = "watch.previous",
    /// Instances that no session keeps.
    RegistryPersistent = "registry.persistent",
    /// What operators say of instances.
    RegistryOverride = "registry.override",
    /// The backend probes instances itself.
    RegistryHealth = "registry.health",
    /// Shared leases.
    LockShared = "lock.shared",
    /// Leases on one of several permits.
    LockPermits = "lock.permits",
    /// Waiters are listed.
    LockWaiters = "lock.waiters",
    /// Claims can be taken away.
    LockForceRelease = "lock.force-release",
    /// Watches on locks.
    LockWatch = "lock.watch",
    /// Traces can be read back.
    TracingQuery = "tracing.query",
}

/// How a plugin is.
#[derive(Clone, Debug)]
pub struct Health {
    pub(crate) report: wire::HealthReport,
}

impl Health {
    /// Calls are expected to succeed.
    pub fn serving(message: impl Into<String>) -> Self {
        Self::new(wire::State::Serving, message)
    }

    /// Some calls fail or are slow; leases may be in doubt.
    pub fn degraded(message: impl Into<String>) -> Self {
        Self::new(wire::State::Degraded, message)
    }

    /// Calls are expected to fail.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(wire::State::Unavailable, message)
    }

    fn new(state: wire::State, message: impl Into<String>) -> Self {
        let (details, counters) = (Vec::new(), Vec::new());
        Self { report: wire::HealthReport { state, message: message.into(), details, counters } }
    }

    /// Adds a fact: `endpoint`, `server-version`, `session` …
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.report.details.push((name.into(), value.into()));
        self
    }

    /// Adds a counter that only grows; at most 64 are reported.
    #[must_use]
    pub fn counter(mut self, name: impl Into<String>, value: u64) -> Self {
        self.report.counters.push((name.into(), value));
        self
    }
}
