//! An instance that is kept registered.

use std::{fmt, sync::Arc};

use super::{
    record::RegistrationRecord,
    types::{Instance, RegistrationStatus},
};
use crate::{
    error::{Error, Refusal},
    plugin::Backend,
};

/// Keeps an instance registered until it is deregistered or dropped.
///
/// After a lost session or a restart of the plugin the instance is registered again; each loss and
/// recovery shows in [`Registration::changed`]. Dropping it deregisters in the background;
/// [`Registration::deregister`] tells how that went.
pub struct Registration {
    backend: Arc<Backend>,
    record: Arc<RegistrationRecord>,
}

/// A registration that is being asked for. Dropped before that has succeeded, nothing asks for it any
/// more: neither the caller nor what repeats requests after a plugin has started.
pub(super) struct Asking {
    backend: Arc<Backend>,
    record: Arc<RegistrationRecord>,
    succeeded: bool,
}

impl Asking {
    /// From now on it is known to those to whom the plugin's events go.
    pub(super) fn begin(backend: Arc<Backend>, record: Arc<RegistrationRecord>) -> Self {
        backend.routes.registrations.insert(record.id, &record);
        Self { backend, record, succeeded: false }
    }

    pub(super) fn succeeded(mut self) -> Registration {
        self.succeeded = true;
        let (backend, record) = (Arc::clone(&self.backend), Arc::clone(&self.record));
        Registration { backend, record }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.succeeded {
            return;
        }
        self.backend.routes.registrations.remove(self.record.id);
        if self.record.abandon() {
            // Whoever asked the plugin for it, this call or a repetition: it takes it back.
            self.backend.registry_close(self.record.id);
        }
    }
}

impl Registration {
    /// What it says of itself now.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.record.instance()
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> RegistrationStatus {
        self.record.status()
    }

    /// Waits for the status to change from what it is now, and answers the new one. For ever once it is
    /// final. For a status that may be there already, [`Registration::wait_for`].
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn changed(&self) -> RegistrationStatus {
        let before = self.record.status();
        self.wait_for(|status| *status != before).await
    }

    /// Waits until the instance is not listed, and says why: `Lost`, or for good `Taken`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn lost(&self) -> RegistrationStatus {
        let is_lost = |status: &RegistrationStatus| {
            matches!(status, RegistrationStatus::Lost(_) | RegistrationStatus::Taken(_))
        };
        self.wait_for(is_lost).await
    }

    /// Waits for a status of which `wanted` is true, the present one too, and answers it; for ever if
    /// none comes.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_for(
        &self,
        wanted: impl FnMut(&RegistrationStatus) -> bool,
    ) -> RegistrationStatus {
        let mut status = self.record.subscribe();
        // Nothing borrowed may live on while this waits, or it could not move between threads.
        let found = status.wait_for(wanted).await.ok().map(|found| found.clone());
        match found {
            Some(status) => status,
            None => std::future::pending().await,
        }
    }

    /// Replaces what the instance says of itself; service and id stay.
    ///
    /// # Errors
    ///
    /// `invalid` when the name changes; else as any write. After an error of unknown effect the new
    /// record is used for registering again.
    pub async fn update(&self, instance: Instance) -> Result<(), Error> {
        super::check_instance(&instance)?;
        let now = self.record.instance();
        if (&instance.service, &instance.id) != (&now.service, &now.id) {
            let problem = format!(
                "{}/{} cannot become {}/{}; register that instead",
                now.service, now.id, instance.service, instance.id
            );
            return Err(Refusal::Invalid { argument: "instance", problem }.into());
        }
        self.record.set_instance(instance.clone());
        self.backend.registry_update(self.record.id, instance).await
    }

    /// Takes the instance out of the registry.
    ///
    /// # Errors
    ///
    /// When the backend could not be told; the instance is then gone after its TTL.
    pub async fn deregister(self) -> Result<(), Error> {
        if !self.record.end() {
            return Ok(());
        }
        let (backend, record) = (Arc::clone(&self.backend), Arc::clone(&self.record));
        let leaving = self
            .backend
            .shared
            .engine
            .host_runtime()
            .spawn(async move { backend.registry_deregister(&record).await });
        match leaving.await {
            Ok(left) => left,
            // The host's runtime is gone, and every plugin with it.
            Err(_) => Err(Refusal::ShuttingDown.into()),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.backend.routes.registrations.remove(self.record.id);
        // A host that stops takes everything back itself, or keeps it.
        if !self.record.end() || *self.backend.stop_requested().borrow() {
            return;
        }
        let (backend, record) = (Arc::clone(&self.backend), Arc::clone(&self.record));
        self.backend.shared.engine.host_runtime().spawn(async move {
            if let Err(error) = backend.registry_deregister(&record).await {
                tracing::warn!(%error, "an instance could not be deregistered; it is gone after its TTL");
            }
        });
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("backend", &self.backend.name)
            .field("instance", &self.record.instance())
            .field("status", &self.record.status())
            .finish_non_exhaustive()
    }
}
