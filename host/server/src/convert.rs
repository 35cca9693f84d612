//! From the host's types to those of the API, and back.

pub(crate) mod config;
pub(crate) mod host;
pub(crate) mod lock;
pub(crate) mod registry;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds of the Unix epoch; what lies before it counts as its beginning.
pub(crate) fn epoch_ms(time: SystemTime) -> u64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
