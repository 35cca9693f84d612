//! Leases: what ends by itself when nobody renews it.

use super::clock::NS_PER_MS;
use super::{Result, StoreError};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// Shortest lease, in milliseconds.
pub const TTL_MS_MIN: u32 = 2_000;
/// Longest lease, in milliseconds.
pub const TTL_MS_MAX: u32 = 3_600_000;

/// Until when something is kept for its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Milliseconds since [`Self::sent_at_ns`].
    pub valid_for_ms: u32,
    /// Reading of the store's monotonic clock.
    pub sent_at_ns: u64,
}

/// What a lease keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A claim on the lock of this name.
    Claim(Arc<str>),
    /// An instance: service and id.
    Instance(Arc<str>, Arc<str>),
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl_ms: u32,
    pub(crate) deadline_ns: u64,
    pub(crate) kept: Kept,
}

/// All leases, by number and by deadline. Numbers are unique over restarts: the incarnation that
/// made the lease stands in the upper half.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    by_number: OrdMap<u64, Lease>,
    by_deadline: OrdSet<(u64, u64)>,
}

impl Leases {
    pub(crate) fn insert(&mut self, number: u64, ttl_ms: u32, now_ns: u64, kept: Kept) -> Validity {
        let deadline_ns = deadline(now_ns, ttl_ms);
        self.remove(number);
        self.by_deadline.insert((deadline_ns, number));
        self.by_number.insert(number, Lease { ttl_ms, deadline_ns, kept });
        Validity { valid_for_ms: ttl_ms, sent_at_ns: now_ns }
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Lease> {
        let lease = self.by_number.remove(&number)?;
        self.by_deadline.remove(&(lease.deadline_ns, number));
        Some(lease)
    }

    pub(crate) fn lease(&self, number: u64) -> Option<&Lease> {
        self.by_number.get(&number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Lease)> {
        self.by_number.iter().map(|(number, lease)| (*number, lease))
    }

    pub(crate) fn is_valid(&self, number: u64, now_ns: u64) -> bool {
        self.lease(number).is_some_and(|lease| now_ns < lease.deadline_ns)
    }

    /// Starts the lease's time again, unless it has run out.
    pub(crate) fn renew(&mut self, number: u64, now_ns: u64) -> Option<Validity> {
        let lease = self.by_number.get(&number).filter(|lease| now_ns < lease.deadline_ns)?.clone();
        Some(self.insert(number, lease.ttl_ms, now_ns, lease.kept))
    }

    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.by_deadline.get_min().map(|(deadline_ns, _)| *deadline_ns)
    }

    /// Leases whose time is over.
    pub(crate) fn expired(&self, now_ns: u64) -> Vec<u64> {
        self.by_deadline
            .iter()
            .take_while(|(deadline_ns, _)| *deadline_ns <= now_ns)
            .map(|(_, number)| *number)
            .collect()
    }
}

/// The incarnation that made a lease.
pub(crate) fn incarnation_of(lease: u64) -> u64 {
    lease >> 32
}

/// The number of the `count`th lease of an incarnation.
pub(crate) fn lease_number(incarnation: u64, count: u32) -> u64 {
    incarnation << 32 | u64::from(count)
}

/// Refuses a TTL outside the bounds.
pub(crate) fn check_ttl(ttl_ms: u32) -> Result<()> {
    if (TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) {
        return Ok(());
    }
    Err(StoreError::invalid(format!(
        "a TTL of {ttl_ms} ms is out of bounds: it takes {TTL_MS_MIN} to {TTL_MS_MAX} ms"
    )))
}

fn deadline(now_ns: u64, ttl_ms: u32) -> u64 {
    now_ns.saturating_add(u64::from(ttl_ms) * NS_PER_MS)
}
