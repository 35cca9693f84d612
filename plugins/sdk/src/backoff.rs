//! Waiting longer after each failure, and never all at once.

use crate::random::random_below;
use crate::time::sleep;
use std::time::Duration;

/// Growing pauses between attempts: each is random between half and the whole of a step that
/// doubles up to a ceiling.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Steps from `first` to `ceiling`.
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, failures: 0 }
    }

    /// The pause after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(30)).min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        step.saturating_sub(Duration::from_nanos(random_below(spread)))
    }

    /// Waits after one more failure.
    pub async fn wait(&mut self) {
        let pause = self.next_pause();
        sleep(pause).await;
    }

    /// Begins again with the first step, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling_within_their_bounds() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for step_ms in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
            let pause = backoff.next_pause();
            let step = Duration::from_millis(step_ms);
            assert!(pause > step / 2 && pause <= step, "{pause:?} for a step of {step:?}");
        }
    }

    #[test]
    fn two_that_fail_together_do_not_come_back_together() {
        let (mut one, mut other) = (Backoff::default(), Backoff::default());
        let pauses = (0..5).map(|_| (one.next_pause(), other.next_pause()));
        assert!(pauses.filter(|(one, other)| one == other).count() < 2);
    }

    #[test]
    fn success_begins_again_and_failing_for_ever_does_not_overflow() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.next_pause() <= Duration::from_secs(10));
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(100));
    }
}
