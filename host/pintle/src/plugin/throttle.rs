//! Holds a plugin back that uses more processor time than its backend may.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Sleep, sleep};

use crate::settings::CpuShare;

/// How much may be used at once after a rest, in seconds of the share.
const BURST_S: u32 = 1;

/// How often a plugin that is held back is told of in the log.
const TELL_PERIOD: Duration = Duration::from_secs(60);

/// Runs `store`, the future that runs a plugin's store, so that it takes no more than `share` of one
/// core over time: while it owes, it is not polled.
///
/// A run of the guest is cut by the epoch, so what it owes at most is one tick and one host call.
/// `held_back` tells for how long it was held back.
pub(super) async fn throttle<F: Future>(
    share: CpuShare,
    backend: Arc<str>,
    held_back: Arc<HeldBack>,
    store: F,
) -> F::Output {
    // A store has one thread at a time, so it never takes more than this.
    if share >= CpuShare::WHOLE_CORE {
        return store.await;
    }
    let mut store = pin!(store);
    let mut budget = Budget::new(share, Instant::now());
    let mut pause: Option<Pin<Box<Sleep>>> = None;
    let mut told: Option<Instant> = None;
    poll_fn(move |context| {
        if let Some(sleep) = &mut pause {
            // Whatever wakes the store meanwhile finds it here again afterwards.
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            pause = None;
            held_back.end(Instant::now());
        }
        let before = thread_time();
        let polled = store.as_mut().poll(context);
        let used = thread_time().saturating_sub(before);
        let now = Instant::now();
        if let (Poll::Pending, Some(owed)) = (&polled, budget.take(used, now)) {
            if told.is_none_or(|at| now.duration_since(at) >= TELL_PERIOD) {
                told = Some(now);
                tracing::warn!(
                    backend = &*backend,
                    limit = %share,
                    "plugin is held back: it wants more processor time than `limits.cpu`"
                );
            }
            let mut sleep = Box::pin(sleep(owed));
            if sleep.as_mut().poll(context).is_pending() {
                pause = Some(sleep);
                held_back.begin(now);
            }
        }
        polled
    })
    .await
}

/// For how long a guest has run without returning to its event loop, in processor time of its thread:
/// what the machine gives to others meanwhile, or what a call to the host waits for, does not count.
#[derive(Default)]
pub(crate) struct Unyielded {
    /// Processor time of the thread at the first tick of this run, in nanoseconds; 0 before that.
    since: AtomicU64,
}

impl Unyielded {
    /// At each tick of the epoch, on the guest's thread: the time since the first one of this run.
    pub(super) fn tick(&self) -> Duration {
        self.tick_at(thread_time())
    }

    /// The guest has returned to its event loop.
    pub(super) fn reset(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn tick_at(&self, now: Duration) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => {
                let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                self.since.store(nanos.max(1), Ordering::Relaxed);
                Duration::ZERO
            }
            since => now.saturating_sub(Duration::from_nanos(since)),
        }
    }
}

/// For how long a store was held back. Who waits for it does not count that against the plugin.
#[derive(Debug, Default)]
pub(super) struct HeldBack(Mutex<Pauses>);

#[derive(Debug, Default)]
struct Pauses {
    over: Duration,
    since: Option<Instant>,
}

impl HeldBack {
    /// All pauses up to `now` together.
    pub(super) fn total(&self, now: Instant) -> Duration {
        let pauses = self.lock();
        let present = pauses.since.map(|since| now.saturating_duration_since(since));
        pauses.over + present.unwrap_or_default()
    }

    fn begin(&self, now: Instant) {
        self.lock().since = Some(now);
    }

    fn end(&self, now: Instant) {
        let mut pauses = self.lock();
        if let Some(since) = pauses.since.take() {
            pauses.over += now.saturating_duration_since(since);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pauses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bucket of processor time that fills at the rate of the share.
struct Budget {
    per_second: Duration,
    left: Duration,
    owed: Duration,
    filled: Instant,
}

impl Budget {
    fn new(share: CpuShare, now: Instant) -> Self {
        let per_second = share.per_second();
        Self { per_second, left: per_second * BURST_S, owed: Duration::ZERO, filled: now }
    }

    /// Takes what was used. With debts: how long to wait until they are paid.
    fn take(&mut self, used: Duration, now: Instant) -> Option<Duration> {
        let gained = now.duration_since(self.filled).mul_f64(self.per_second.as_secs_f64());
        self.filled = now;
        let paid = gained.min(self.owed);
        self.owed -= paid;
        self.left = (self.left + (gained - paid)).min(self.per_second * BURST_S);
        let covered = used.min(self.left);
        self.left -= covered;
        self.owed += used - covered;
        let wait = self.owed.div_f64(self.per_second.as_secs_f64());
        (!wait.is_zero()).then_some(wait)
    }
}

/// Processor time that this thread has used.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: CpuShare = CpuShare::from_millis_per_second(250);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_run_is_measured_from_its_first_tick_in_processor_time() {
        let run = Unyielded::default();
        assert_eq!(run.tick_at(ms(100)), ms(0));
        assert_eq!(run.tick_at(ms(103)), ms(3));
        run.reset();
        assert_eq!(run.tick_at(ms(110)), ms(0));
        assert_eq!(run.tick_at(ms(111)), ms(1));
    }

    #[test]
    fn a_run_that_waits_takes_no_time() {
        let run = Unyielded::default();
        run.tick();
        let (_tell, told) = std::sync::mpsc::channel::<()>();
        told.recv_timeout(ms(100)).unwrap_err();
        assert!(run.tick() < ms(50), "{:?}", run.tick());
    }

    #[test]
    fn after_a_rest_a_burst_is_free_and_what_is_over_is_waited_for() {
        let start = Instant::now();
        let mut budget = Budget::new(QUARTER, start);
        assert_eq!(budget.take(ms(250), start), None);
        assert_eq!(budget.take(ms(5), start), Some(ms(20)));
        // Half of the debt is paid after half of the time.
        assert_eq!(budget.take(ms(0), start + ms(10)), Some(ms(10)));
        assert_eq!(budget.take(ms(0), start + ms(20)), None);
        // A long rest fills no more than one burst.
        let later = start + Duration::from_secs(3600);
        assert_eq!(budget.take(ms(250), later), None);
        assert!(budget.take(ms(1), later).is_some());
    }

    #[test]
    fn over_time_a_greedy_plugin_gets_its_share_and_no_more() {
        let start = Instant::now();
        let mut now = start;
        let mut budget = Budget::new(QUARTER, start);
        let mut used = Duration::ZERO;
        while now < start + Duration::from_secs(100) {
            used += ms(5);
            now += ms(5);
            now += budget.take(ms(5), now).unwrap_or_default();
        }
        // The burst of the beginning, and a quarter of a hundred seconds.
        assert!(used >= ms(25_000) && used <= ms(25_300), "{used:?}");
    }

    #[tokio::test]
    async fn a_greedy_future_is_polled_only_as_often_as_it_may_and_a_quiet_one_is_not_delayed() {
        let share = CpuShare::from_millis_per_second(20);
        let begin = Instant::now();
        let held = Arc::new(HeldBack::default());
        let greedy = throttle(share, "greedy".into(), Arc::clone(&held), async {
            for _ in 0..40 {
                let begun = thread_time();
                while thread_time() - begun < ms(1) {}
                tokio::task::yield_now().await;
            }
        });
        greedy.await;
        // 20 ms are free, the rest takes a second.
        assert!(begin.elapsed() >= ms(900), "{:?}", begin.elapsed());
        let total = held.total(Instant::now());
        assert!(total >= ms(800) && total <= begin.elapsed(), "{total:?}");
        let woken = async {
            let (tell, told) = tokio::sync::oneshot::channel();
            tokio::spawn(async move { tell.send(7) });
            told.await
        };
        assert_eq!(throttle(share, "quiet".into(), Arc::default(), woken).await, Ok(7));
    }
}
