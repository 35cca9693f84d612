//! How often a plugin may end.

use std::time::{Duration, Instant};

/// Shortest and longest pause before a plugin is started again; the first time there is none.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How often a plugin may end before its backend is quarantined, and how fast it may again.
pub(super) const RESTARTS_MAX: u32 = 8;
const RESTART_REFILL: Duration = Duration::from_secs(30);

/// Counts ends against a budget that refills with time.
pub(super) struct RestartBudget {
    left: u32,
    refilled: Instant,
    backoff: Duration,
}

impl RestartBudget {
    pub(super) fn new() -> Self {
        Self { left: RESTARTS_MAX, refilled: Instant::now(), backoff: Duration::ZERO }
    }

    /// How long to wait before the next start; nothing when the budget is used up.
    pub(super) fn take(&mut self, now: Instant) -> Option<Duration> {
        while self.left < RESTARTS_MAX && now.duration_since(self.refilled) >= RESTART_REFILL {
            self.left += 1;
            self.refilled += RESTART_REFILL;
            self.backoff = Duration::ZERO;
        }
        if self.left == RESTARTS_MAX {
            self.refilled = now;
        }
        self.left = self.left.checked_sub(1)?;
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_a_row_back_off_and_then_quarantine() {
        let mut budget = RestartBudget::new();
        let now = Instant::now();
        let pauses: Vec<_> = (0..RESTARTS_MAX).map(|_| budget.take(now).unwrap()).collect();
        assert_eq!((pauses[0], pauses[1]), (Duration::ZERO, BACKOFF_MIN));
        assert!(pauses.is_sorted());
        assert_eq!(budget.take(now), None);
    }

    #[test]
    fn the_budget_refills_with_time() {
        let mut budget = RestartBudget::new();
        let now = Instant::now();
        while budget.take(now).is_some() {}
        assert_eq!(budget.take(now + RESTART_REFILL), Some(Duration::ZERO));
        assert_eq!(budget.take(now + RESTART_REFILL), None);
    }
}
