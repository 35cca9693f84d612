//! How often an address may come with a token that nobody has.
//!
//! A token cannot be guessed, so who has one is never kept out because of others behind the same
//! address; what is bounded is the work and the audit trail that wrong ones cost.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Attempts that may come at once.
const BURST: u32 = 10;
/// After this time there may be one more.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 4_096;

/// The failed attempts of each address.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it is full again.
    full: Instant,
}

impl Attempts {
    /// Counts a failed attempt.
    ///
    /// # Errors
    ///
    /// How long the address has to wait, when there were too many.
    pub(super) fn count(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES_MAX {
            buckets.retain(|_, bucket| bucket.full > now);
            if buckets.len() >= ADDRESSES_MAX {
                // So many at once are no neighbours of anybody's: start over.
                buckets.clear();
            }
        }
        let bucket = buckets.entry(network(address)).or_insert(Bucket { full: now });
        let full = bucket.full.max(now) + REFILL;
        let excess = full.saturating_duration_since(now).saturating_sub(REFILL * BURST);
        if excess > Duration::ZERO {
            return Err(excess);
        }
        bucket.full = full;
        Ok(())
    }
}

/// Who has one address of version 6 has the other 2^64 of its network, too.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_some_attempts_and_then_one_from_time_to_time() {
        let attempts = Attempts::default();
        let (address, other) = ("192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap());
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(attempts.count(address, now), Ok(()));
        }
        assert_eq!(attempts.count(address, now), Err(REFILL));
        assert_eq!(attempts.count(other, now), Ok(()));
        assert_eq!(attempts.count(address, now + REFILL), Ok(()));
        assert!(attempts.count(address, now + REFILL).is_err());
        assert_eq!(attempts.count(address, now + REFILL * 20), Ok(()));
    }

    #[test]
    fn the_addresses_of_one_network_count_together() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..BURST {
            let address = format!("2001:db8::{number}").parse().unwrap();
            assert_eq!(attempts.count(address, now), Ok(()));
        }
        assert!(attempts.count("2001:db8::ff".parse().unwrap(), now).is_err());
        assert!(attempts.count("2001:db8:0:1::".parse().unwrap(), now).is_ok());
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_come() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            let _ = attempts.count(IpAddr::V4(number.into()), now);
        }
        assert!(attempts.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
