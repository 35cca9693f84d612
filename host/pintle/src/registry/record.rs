//! One registration as the host keeps it, over all incarnations of the plugin.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::types::{Instance, InstanceState, RegistrationStatus};
use crate::plugin::Made;

/// The state behind a [`super::Registration`].
pub(crate) struct RegistrationRecord {
    pub(crate) id: u64,
    pub(crate) ttl: Duration,
    pub(crate) made: Made,
    /// Number of the incarnation that registered it last; 0 while none has.
    keeper: AtomicU64,
    is_abandoned: AtomicBool,
    instance: Mutex<Instance>,
    status: watch::Sender<RegistrationStatus>,
}

impl RegistrationRecord {
    pub(crate) fn new(id: u64, ttl: Duration, instance: Instance) -> Self {
        let status = watch::Sender::new(RegistrationStatus::Registered);
        let instance = Mutex::new(instance);
        let (keeper, is_abandoned) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { id, ttl, made: Made::default(), keeper, is_abandoned, instance, status }
    }

    /// The incarnation with this number has registered it.
    pub(crate) fn kept_by(&self, number: u64) {
        self.keeper.store(number, Ordering::Release);
    }

    /// Whether the incarnation with this number knows it.
    pub(crate) fn is_kept_by(&self, number: u64) -> bool {
        self.keeper.load(Ordering::Acquire) == number
    }

    pub(crate) fn instance(&self) -> Instance {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_instance(&self, instance: Instance) {
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = instance;
    }

    pub(crate) fn status(&self) -> RegistrationStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<RegistrationStatus> {
        self.status.subscribe()
    }

    pub(crate) fn registered(&self) {
        self.change(RegistrationStatus::Registered);
    }

    pub(crate) fn suspect(&self, reason: Arc<str>) {
        if self.status() == RegistrationStatus::Registered {
            self.change(RegistrationStatus::Suspect(reason));
        }
    }

    pub(crate) fn lost(&self, reason: Arc<str>) {
        self.change(RegistrationStatus::Lost(reason));
    }

    pub(crate) fn taken(&self, owner: InstanceState) {
        self.change(RegistrationStatus::Taken(Arc::new(owner)));
    }

    /// Answers whether it had not ended before.
    pub(crate) fn end(&self) -> bool {
        self.change(RegistrationStatus::Ended)
    }

    /// The same for one whose caller went away before it knew that it has it.
    pub(crate) fn abandon(&self) -> bool {
        self.is_abandoned.store(true, Ordering::Release);
        self.end()
    }

    /// Whether nobody will deregister it.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    pub(crate) fn is_over(&self) -> bool {
        is_final(&self.status.borrow())
    }

    fn change(&self, next: RegistrationStatus) -> bool {
        self.status.send_if_modified(|status| {
            let changes = !is_final(status) && *status != next;
            if changes {
                *status = next;
            }
            changes
        })
    }
}

const fn is_final(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Taken(_) | RegistrationStatus::Ended)
}
