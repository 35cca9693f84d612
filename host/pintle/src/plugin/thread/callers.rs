//! How many wait for an answer of a plugin.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Those who wait for an answer that comes as soon as it can.
#[derive(Debug, Clone, Default)]
pub(crate) struct Callers(Arc<AtomicUsize>);

/// One of them, as long as this lives.
#[derive(Debug)]
pub(crate) struct Caller(Callers);

impl Callers {
    /// One more waits.
    pub(crate) fn join(&self) -> Caller {
        self.0.fetch_add(1, Ordering::Relaxed);
        Caller(self.clone())
    }

    /// Whether nobody else waits than who asks.
    pub(super) fn is_alone(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 1
    }

    /// Whether somebody waits.
    pub(super) fn are_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
