//! A held lock.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    clock::Expires,
    record::LeaseRecord,
    types::{LeaseRef, LeaseStatus, Token},
};
use crate::{clock::BootTime, error::Error, plugin::Backend};

/// A lock that is held, until it is released, dropped, or lost.
///
/// The host renews it and watches its time: whatever happens to the plugin or the network,
/// [`Lease::lost`] completes before the backend may give the lock to another. Work that must not
/// overlap either stops then, or carries [`Lease::token`] to a resource that checks it, or writes
/// with [`crate::config::Put::held`].
///
/// Dropping it releases the lock in the background; [`Lease::release`] tells how that went.
pub struct Lease {
    backend: Arc<Backend>,
    record: Arc<LeaseRecord>,
    /// Keeps it in the lease clock.
    timed: Arc<dyn Expires>,
    name: Arc<str>,
    token: Option<Token>,
}

impl Lease {
    pub(super) fn new(
        backend: Arc<Backend>,
        record: Arc<LeaseRecord>,
        name: String,
        token: Option<Token>,
    ) -> Self {
        let timed: Arc<dyn Expires> =
            Arc::new(Timed { record: Arc::clone(&record), backend: Arc::downgrade(&backend) });
        backend.shared.lease_clock.watch(&timed);
        Self { backend, record, timed, name: name.into(), token }
    }

    /// Name of the lock.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Orders the holders; present for exclusive leases.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Names this lease in a precondition of the same backend.
    #[must_use]
    pub fn reference(&self) -> LeaseRef {
        LeaseRef { backend: Arc::clone(&self.backend.name), id: self.record.id }
    }

    /// How long it is still safe to believe that the lock is held, if no renewal comes.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.is_held() { self.record.remaining() } else { Duration::ZERO }
    }

    /// Whether the lock is held, by the clock as well.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.status(), LeaseStatus::Held | LeaseStatus::Suspect(_))
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> LeaseStatus {
        if self.record.remaining().is_zero() {
            self.timed.expire();
        }
        self.record.status()
    }

    /// Waits for the status to change, and answers the new one. For ever once it is final.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn changed(&self) -> LeaseStatus {
        let before = self.record.status();
        let mut status = self.record.subscribe();
        // Nothing borrowed may live on while this waits, or it could not move between threads.
        let after = status.wait_for(|status| *status != before).await.ok().map(|now| now.clone());
        match after {
            Some(status) => status,
            None => std::future::pending().await,
        }
    }

    /// Waits until the lease is lost, and says why. For ever if it is released first.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn lost(&self) -> Arc<str> {
        let mut status = self.record.subscribe();
        let lost = status.wait_for(|status| matches!(status, LeaseStatus::Lost(_)));
        let last = lost.await.ok().map(|last| last.clone());
        match last {
            Some(LeaseStatus::Lost(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Releases the lock; answers false when it had been lost.
    ///
    /// # Errors
    ///
    /// When the backend could not be told; the lock is then free after its TTL.
    ///
    /// # Cancellation
    ///
    /// The release goes on in the background.
    pub async fn release(self) -> Result<bool, Error> {
        let under_way = self.backend.routes.releases.begin();
        if !self.record.release() {
            return Ok(false);
        }
        let (backend, record) = (Arc::clone(&self.backend), Arc::clone(&self.record));
        let releasing = backend.shared.engine.host_runtime().spawn({
            let backend = Arc::clone(&backend);
            async move {
                let released = backend.lock_release_held(&record).await;
                drop(under_way);
                released
            }
        });
        match releasing.await {
            Ok(released) => released,
            // The host's runtime is gone, and every plugin with it.
            Err(_) => Err(crate::error::Refusal::ShuttingDown.into()),
        }
    }
}

/// A lease in the lease clock.
struct Timed {
    record: Arc<LeaseRecord>,
    backend: Weak<Backend>,
}

impl Expires for Timed {
    fn deadline(&self) -> Option<BootTime> {
        self.record.deadline()
    }

    /// The plugin must not go on renewing what its holder does not believe in any more.
    fn expire(&self) {
        if self.record.expire()
            && let Some(backend) = self.backend.upgrade()
        {
            backend.lock_close(self.record.id);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let under_way = self.backend.routes.releases.begin();
        self.backend.routes.leases.remove(self.record.id);
        if !self.record.release() {
            // Released already, or lost by the clock alone: closing again does no harm.
            self.backend.lock_close(self.record.id);
            return;
        }
        let (backend, id) = (Arc::clone(&self.backend), self.record.id);
        self.backend.shared.engine.host_runtime().spawn(async move {
            if let Err(error) = backend.lock_release(id).await {
                tracing::warn!(%error, "a lock that was let go could not be released; it is free after its TTL");
            }
            drop(under_way);
        });
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("backend", &self.backend.name)
            .field("name", &self.name)
            .field("token", &self.token)
            .field("status", &self.record.status())
            .finish_non_exhaustive()
    }
}
