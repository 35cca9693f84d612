//! What a backend's network did so far.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::plugin::grants::Denial;

/// Different denials that are logged for one backend; later ones are only counted.
const LOGGED_DENIALS_MAX: usize = 256;

/// Counters of one backend's network, shared by all its incarnations.
#[derive(Debug, Default)]
pub(crate) struct NetworkCounters {
    connections_open: AtomicU64,
    connections_total: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    requests_open: AtomicU64,
    requests_total: AtomicU64,
    denials: AtomicU64,
    failures: AtomicU64,
    texts: Mutex<Texts>,
}

#[derive(Debug, Default)]
struct Texts {
    logged: BTreeSet<String>,
    last_denial: Option<String>,
    last_failure: Option<String>,
}

/// One reading of [`NetworkCounters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSnapshot {
    /// Connections that are open now.
    pub connections_open: u64,
    /// Connections that were opened.
    pub connections_total: u64,
    /// Bytes read from connections, as on the wire (TLS included).
    pub bytes_received: u64,
    /// Bytes written to connections, as on the wire (TLS included).
    pub bytes_sent: u64,
    /// HTTP requests whose response has not ended.
    pub requests_open: u64,
    /// HTTP requests that were sent.
    pub requests_total: u64,
    /// Look-ups, connections and other uses of the network that were denied.
    pub denials: u64,
    /// Connections that could not be made, or whose TLS failed.
    pub failures: u64,
    /// The last denial, with the line to add.
    pub last_denial: Option<String>,
    /// The last failure.
    pub last_failure: Option<String>,
}

impl NetworkCounters {
    /// Reads all counters.
    pub(crate) fn snapshot(&self) -> NetworkSnapshot {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        NetworkSnapshot {
            connections_open: self.connections_open.load(Relaxed),
            connections_total: self.connections_total.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            requests_open: self.requests_open.load(Relaxed),
            requests_total: self.requests_total.load(Relaxed),
            denials: self.denials.load(Relaxed),
            failures: self.failures.load(Relaxed),
            last_denial: texts.last_denial.clone(),
            last_failure: texts.last_failure.clone(),
        }
    }

    /// Counts a denial, and logs it unless an equal one was logged before.
    pub(crate) fn denied(&self, backend: &str, denial: &Denial) {
        self.refused(backend, denial.attempt(), denial.to_string());
    }

    /// Counts a use of the network that no grant opens, and logs the first of its kind.
    pub(crate) fn refused(&self, backend: &str, kind: &str, sentence: String) {
        self.denials.fetch_add(1, Relaxed);
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.logged.len() < LOGGED_DENIALS_MAX && texts.logged.insert(kind.to_owned()) {
            tracing::warn!(backend, "{sentence}");
        }
        texts.last_denial = Some(sentence);
    }

    /// Counts a failure. It is logged quietly: the guest reports it with more context.
    pub(crate) fn failed(&self, backend: &str, failure: &impl ToString) {
        self.failures.fetch_add(1, Relaxed);
        let sentence = failure.to_string();
        tracing::debug!(backend, "{sentence}");
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).last_failure = Some(sentence);
    }

    pub(crate) fn connection_opened(&self) {
        self.connections_open.fetch_add(1, Relaxed);
        self.connections_total.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections_open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn request_started(&self) {
        self.requests_open.fetch_add(1, Relaxed);
        self.requests_total.fetch_add(1, Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.requests_open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }
}
