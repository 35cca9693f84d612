//! Time, as something that tests can set.

/// Where the store takes the time from.
pub trait Clock: Send + Sync {
    /// Nanoseconds of a clock that never goes back; leases end by it.
    fn monotonic_ns(&self) -> u64;

    /// Milliseconds of the Unix epoch, for people.
    fn unix_ms(&self) -> u64;
}

/// Nanoseconds in a millisecond.
pub(crate) const NS_PER_MS: u64 = 1_000_000;
