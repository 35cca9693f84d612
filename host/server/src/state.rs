//! What all routes share.

use std::{path::PathBuf, sync::Arc};

use axum::{Extension, Router};
use pintle::{Pintle, settings::SettingsError};
use tokio::sync::watch;

use crate::{
    access::{Gate, Tokens, TokensError, Trusted},
    audit::{Audit, AuditError},
    calls::Calls,
    leases::Leases,
    metrics::Metrics,
    registrations::Registrations,
    routes,
};

/// The API over one host, with the leases and registrations that its clients keep. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) state: Arc<State>,
}

pub(crate) struct State {
    pub(crate) pintle: Pintle,
    pub(crate) leases: Leases,
    pub(crate) registrations: Registrations,
    pub(crate) stopping: Stopping,
    pub(crate) gate: Gate,
    pub(crate) audit: Audit,
    pub(crate) calls: Calls,
    pub(crate) metrics: Metrics,
    pub(crate) log: Option<Box<dyn LogControl>>,
}

/// Sets what is logged while the server runs.
pub trait LogControl: Send + Sync {
    /// What is logged.
    fn filter(&self) -> String;

    /// Logs this from now on.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the filter.
    fn set_filter(&self, filter: &str) -> Result<(), String>;
}

/// Why an API cannot use its data folder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no place for it.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The access tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The audit trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl Api {
    /// The API over a host, for whoever reaches it: without access tokens and without an audit trail.
    pub fn new(pintle: Pintle) -> Self {
        Self::with(pintle, Tokens::none(), Audit::none(), None)
    }

    /// The API over a host, with the access tokens and the audit trail of its data folder. As soon
    /// as the first token was made, callers are asked for one.
    ///
    /// # Errors
    ///
    /// The tokens cannot be read, or the audit trail cannot be written: nobody is let in then.
    pub fn open(pintle: Pintle, log: Option<Box<dyn LogControl>>) -> Result<Self, OpenError> {
        let root = pintle.settings().data_root()?;
        let tokens = Tokens::open(tokens_file(root.clone()))?;
        let audit = Audit::open(root.join("audit"))?;
        Ok(Self::with(pintle, tokens, audit, log))
    }

    fn with(
        pintle: Pintle,
        tokens: Tokens,
        audit: Audit,
        log: Option<Box<dyn LogControl>>,
    ) -> Self {
        let stopping = Stopping::default();
        let server = &pintle.settings().server;
        let state = State {
            leases: Leases::new(stopping.clone()),
            registrations: Registrations::default(),
            stopping,
            gate: Gate::new(tokens, server.hosts.clone(), server.read_only),
            audit,
            calls: Calls::new(server.limits.clone()),
            metrics: Metrics::new(&pintle),
            log,
            pintle,
        };
        Self { state: Arc::new(state) }
    }

    /// Its routes, for callers who have to show who they are.
    pub fn router(&self) -> Router {
        routes::all(self.state.clone())
    }

    /// Its routes, for whoever owns the host: nobody else may reach them.
    pub fn router_of_owner(&self) -> Router {
        self.router().layer(Extension(Trusted))
    }

    /// Makes a secret that is good for everything while this API lives, for whoever may read the
    /// data folder. The one before is no good any more.
    pub fn issue_owner_secret(&self) -> String {
        self.state.gate.tokens.issue_owner_secret()
    }

    /// Whether there is an access token with which somebody could come.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.state.gate.tokens.exist()
    }

    /// Ends streams, refuses new leases, and gives up those that there are: each when its client has
    /// released it or when the time has passed that the client was promised, 30 seconds at most.
    pub async fn drain(&self) {
        self.state.stopping.begin();
        self.state.leases.drained().await;
    }
}

/// Whether there is an access token in the data folder of a host with these settings.
///
/// # Errors
///
/// As [`Api::open`].
pub fn has_tokens(settings: &pintle::settings::Settings) -> Result<bool, OpenError> {
    Ok(Tokens::open(tokens_file(settings.data_root()?))?.exist())
}

fn tokens_file(data_root: PathBuf) -> PathBuf {
    data_root.join("access/tokens.json")
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// Whether the API is about to end.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(Arc<watch::Sender<bool>>);

impl Default for Stopping {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stopping {
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn begun(&self) {
        // Fails only when the sender is gone, which `self` has.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}
