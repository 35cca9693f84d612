//! What all routes share.

use std::sync::Arc;

use axum::Router;
use pintle::Pintle;
use tokio::sync::watch;

use crate::{leases::Leases, registrations::Registrations, routes};

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
}

impl Api {
    /// The API over a host.
    pub fn new(pintle: Pintle) -> Self {
        let stopping = Stopping::default();
        let state = State {
            pintle,
            leases: Leases::new(stopping.clone()),
            registrations: Registrations::default(),
            stopping,
        };
        Self { state: Arc::new(state) }
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        routes::all(self.state.clone())
    }

    /// Ends streams, refuses new leases, and gives up those that there are: each when its client has
    /// released it or when the time has passed that the client was promised, 30 seconds at most.
    pub async fn drain(&self) {
        self.state.stopping.begin();
        self.state.leases.drained().await;
    }
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
