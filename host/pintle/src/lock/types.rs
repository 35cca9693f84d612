//! What lock calls take and give.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Orders the holders of an exclusive lock within one epoch.
///
/// A resource that remembers the highest value it has seen refuses a late write of an earlier
/// holder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// Identity of the cluster that counts; tokens of different epochs do not compare.
    pub epoch: Arc<str>,
    /// Higher for a later holder.
    pub value: u64,
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By one.
    Exclusive,
    /// With other shared holders (feature `lock.shared`).
    Shared,
    /// One of this many permits (feature `lock.permits`).
    Permit(u32),
}

/// What to acquire.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// Name of the lock, in the form of a configuration key.
    pub name: String,
    /// How.
    pub mode: Mode,
    /// How long the backend keeps the lease after the last renewal; 2 s to 1 h.
    pub ttl: Duration,
    /// How long to wait for it; zero tries once.
    pub wait: Duration,
    /// Who asks, shown to others.
    pub owner: String,
}

impl LockRequest {
    /// Asks once for an exclusive lease of 15 seconds.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mode: Mode::Exclusive,
            ttl: Duration::from_secs(15),
            wait: Duration::ZERO,
            owner: String::new(),
        }
    }

    /// Waits up to `wait` for the lock to become free.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets how long the lease outlives its holder's death.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how the lock is held.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets who asks.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }
}

/// A holder of a lock, or one who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub owner: String,
    /// How.
    pub mode: Mode,
    /// Present for exclusive holders.
    pub token: Option<Token>,
    /// Names this claim to [`crate::Lock::force_release`].
    pub claim_id: String,
    /// Since when, where the backend knows.
    pub since: Option<SystemTime>,
}

/// Who holds a lock, and who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockState {
    /// Its name.
    pub name: String,
    /// Who has it.
    pub holders: Vec<Claim>,
    /// Who waits, in the order in which they will get it where the backend keeps one.
    pub waiters: Vec<Claim>,
}

/// One page of the names of locks that somebody holds or waits for.
#[derive(Debug, Clone)]
pub struct LocksPage {
    /// The names.
    pub names: Vec<String>,
    /// Present when there may be more.
    pub next: Option<String>,
}

/// How a lease stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseStatus {
    /// It is held, and renewed.
    Held,
    /// It is held, but renewal is in doubt, and why.
    Suspect(Arc<str>),
    /// It is not held any more, and why. Final.
    Lost(Arc<str>),
    /// It was released by its holder. Final.
    Released,
}

/// Names a lease in a precondition of the same backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRef {
    pub(crate) backend: Arc<str>,
    pub(crate) id: u64,
}
