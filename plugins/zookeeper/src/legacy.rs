//! What a checkpoint says: the sessions that a successor has to take over.

use crate::session::SessionKey;
use pintle_plugin_sdk::checkpoint;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most sessions of earlier incarnations to name, when several end one after the other.
const SESSIONS_MAX: usize = 64;

/// The sessions that the server keeps for an incarnation.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Legacy {
    /// The node below which it has all. Incarnations of earlier versions did not say.
    root: Option<String>,
    /// Of registrations: to be adopted.
    registry: Vec<KeyForm>,
    /// Of locks, and of what else its predecessors left: to be closed.
    locks: Vec<KeyForm>,
}

#[derive(Clone, Deserialize, Serialize)]
struct KeyForm {
    id: i64,
    password: Vec<u8>,
    timeout_ms: u64,
}

impl From<&SessionKey> for KeyForm {
    fn from(key: &SessionKey) -> Self {
        let timeout_ms = u64::try_from(key.timeout.as_millis()).unwrap_or(u64::MAX);
        Self { id: key.id, password: key.password.clone(), timeout_ms }
    }
}

impl From<KeyForm> for SessionKey {
    fn from(form: KeyForm) -> Self {
        let timeout = Duration::from_millis(form.timeout_ms);
        Self { id: form.id, password: form.password, timeout }
    }
}

impl Legacy {
    /// The newest first: those beyond the limit are left out.
    pub(crate) fn new(root: &str, registry: &[SessionKey], locks: &[SessionKey]) -> Self {
        let forms = |keys: &[SessionKey]| {
            let left_out = keys.len().saturating_sub(SESSIONS_MAX);
            if left_out > 0 {
                tracing::warn!(left_out, "the oldest sessions end with their TTL if this one ends");
            }
            keys.iter().take(SESSIONS_MAX).map(KeyForm::from).collect()
        };
        Self { root: Some(root.to_owned()), registry: forms(registry), locks: forms(locks) }
    }

    /// What the predecessor left, if it can be read.
    pub(crate) fn resumed(resume: Option<&[u8]>) -> Self {
        let found = resume.map(serde_json::from_slice).transpose();
        found.map(Option::unwrap_or_default).unwrap_or_else(|error| {
            tracing::warn!(%error, "the predecessor's checkpoint cannot be read");
            Self::default()
        })
    }

    /// What a successor below `root` adopts, and what it closes: below another, nobody would look for
    /// the instances again.
    pub(crate) fn into_keys(self, root: &str) -> (Vec<SessionKey>, Vec<SessionKey>) {
        let keys = |forms: Vec<KeyForm>| forms.into_iter().map(SessionKey::from).collect();
        let (registry, mut locks): (Vec<_>, Vec<_>) = (keys(self.registry), keys(self.locks));
        if self.root.is_none_or(|before| before == root) {
            return (registry, locks);
        }
        locks.extend(registry);
        (Vec::new(), locks)
    }

    /// Hands it to the host.
    pub(crate) fn checkpoint(&self) {
        match serde_json::to_vec(self) {
            Ok(state) => checkpoint(&state),
            Err(error) => tracing::error!(%error, "a checkpoint cannot be written"),
        }
    }
}
