//! So many times a second, and no faster.

use std::time::{Duration, Instant};

/// Spaces what is done so that over time it is not done more often than so many times a second.
/// After a rest as many may follow each other at once.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    burst: Duration,
    /// When everything done so far is paid for.
    paid_at: Option<Instant>,
}

impl Pace {
    pub(crate) fn per_second(times: u32) -> Self {
        let interval = Duration::from_secs(1) / times.max(1);
        Self { interval, burst: Duration::from_secs(1), paid_at: None }
    }

    /// Takes one turn, and answers how long to wait for it.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        let paid_at = self.paid_at.map_or(now, |at| at.max(now));
        self.paid_at = Some(paid_at + self.interval);
        (paid_at - now).saturating_sub(self.burst - self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_rest_a_second_of_turns_is_free_and_then_each_has_its_time() {
        let now = Instant::now();
        let mut pace = Pace::per_second(10);
        for _ in 0..10 {
            assert_eq!(pace.take(now), Duration::ZERO);
        }
        assert_eq!(pace.take(now), Duration::from_millis(100));
        assert_eq!(pace.take(now), Duration::from_millis(200));
        let later = now + Duration::from_secs(3600);
        assert_eq!(pace.take(later), Duration::ZERO);
    }
}
