//! Clock and timers: the WASI monotonic clock in a guest, a virtual clock in native tests.

use crate::runtime;
use futures::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A reading of the monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The present.
    pub fn now() -> Self {
        Self(clock::now())
    }

    /// What `validity.sent-at` holds.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since this reading; zero if it lies ahead.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Time from `earlier` to this reading; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long until this reading; zero if it has passed.
    pub fn remaining(self) -> Duration {
        self.since(Self::now())
    }

    /// This reading later by `span`; the end of time if that cannot be expressed.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This reading earlier by `span`; the beginning of time if that cannot be expressed.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Waits for `span`.
pub fn sleep(span: Duration) -> Sleep {
    sleep_until(Instant::now().after(span))
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None }
}

/// The future of [`sleep`]. It costs the host nothing until it is polled.
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    key: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The driver fires what is due; asking the host for the time at every poll would cost a call.
        if let Some(key) = self.key {
            let waits = runtime::with_timers(|timers| timers.still_waits(key, cx.waker()));
            return if waits { Poll::Pending } else { Poll::Ready(()) };
        }
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        self.key = Some(runtime::with_timers(|timers| timers.set(deadline, cx.waker())));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            runtime::with_timers(|timers| timers.remove(key));
        }
    }
}

/// The time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Runs `future` for at most `span`.
///
/// # Errors
///
/// [`Elapsed`] when it did not end in time.
///
/// # Cancellation
///
/// The future is dropped when the time runs out.
pub async fn timeout<F: Future>(span: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(Instant::now().after(span), future).await
}

/// Runs `future` until `deadline` at most; as [`timeout`].
///
/// # Errors
///
/// [`Elapsed`] when it did not end in time.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    use futures::future::{Either, select};
    let future = std::pin::pin!(future);
    match select(future, sleep_until(deadline)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(Elapsed),
    }
}

/// Ticks every `period`, first after one period; ticks that were missed are not made up for.
pub fn interval(period: Duration) -> Interval {
    Interval { period, next: Instant::now().after(period) }
}

/// See [`interval`].
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    next: Instant,
}

impl Interval {
    /// Waits for the next tick.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = self.next.max(Instant::now()).after(self.period);
    }
}

type TimerKey = (Instant, u64);

/// All pending timers. The host is asked to wake us for the earliest only, and a timer that was
/// removed meanwhile costs one needless wake-up at most: most deadlines of calls never pass.
#[derive(Default)]
pub(crate) struct Timers {
    pending: RefCell<BTreeMap<TimerKey, Waker>>,
    armed: RefCell<Option<(Instant, LocalBoxFuture<'static, ()>)>>,
    last_number: Cell<u64>,
}

impl Timers {
    fn set(&self, deadline: Instant, waker: &Waker) -> TimerKey {
        let number = self.last_number.get().wrapping_add(1);
        self.last_number.set(number);
        let key = (deadline, number);
        let armed = self.armed.borrow().as_ref().is_some_and(|(at, _)| *at <= deadline);
        self.pending.borrow_mut().insert(key, waker.clone());
        if !armed {
            runtime::wake_driver();
        }
        key
    }

    /// Whether a timer has not fired yet; then it will wake `waker`.
    fn still_waits(&self, key: TimerKey, waker: &Waker) -> bool {
        self.pending.borrow_mut().get_mut(&key).is_some_and(|waiting| {
            waiting.clone_from(waker);
            true
        })
    }

    fn remove(&self, key: TimerKey) {
        self.pending.borrow_mut().remove(&key);
    }

    fn earliest(&self) -> Option<Instant> {
        self.pending.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// When the driver will be woken next, as it has asked for: the test harness wakes it then and not
    /// for any other timer, as a host would.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn alarm(&self) -> Option<Instant> {
        self.armed.borrow().as_ref().map(|(at, _)| *at)
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn clear(&self) {
        self.pending.borrow_mut().clear();
        *self.armed.borrow_mut() = None;
    }

    /// Fires what is due and asks to be woken for the next; answers whether anything fired.
    pub(crate) fn turn(&self, mut now: Instant, cx: &mut Context<'_>) -> bool {
        let mut fired = false;
        while let Some(earliest) = self.earliest() {
            let mut armed = self.armed.borrow_mut();
            if earliest <= now {
                // Its alarm has rung, or is late: whoever counted on it later would wait for ever.
                armed.take_if(|(at, _)| *at <= earliest);
                drop(armed);
                self.fire(earliest);
                fired = true;
                continue;
            }
            if armed.as_ref().is_none_or(|(at, _)| *at > earliest) {
                *armed = Some((earliest, clock::wait_until(earliest)));
            }
            let Some((at, wait)) = armed.as_mut() else { return fired };
            if wait.as_mut().poll(cx).is_pending() {
                return fired;
            }
            // It rings when its time has come, whatever the time was before.
            now = now.max(*at);
            *armed = None;
        }
        // Nobody waits. An alarm that rings now is over, or who comes later would count on it.
        self.armed.borrow_mut().take_if(|(_, wait)| wait.as_mut().poll(cx).is_ready());
        fired
    }

    fn fire(&self, due: Instant) {
        let mut pending = self.pending.borrow_mut();
        let mut later = pending.split_off(&(due, u64::MAX));
        std::mem::swap(&mut *pending, &mut later);
        drop(pending);
        for (_, waker) in later {
            waker.wake();
        }
    }
}

#[cfg(target_family = "wasm")]
mod clock {
    use super::{Instant, LocalBoxFuture};
    use wasip3::clocks::monotonic_clock;

    pub(super) fn now() -> u64 {
        monotonic_clock::now()
    }

    pub(super) fn wait_until(deadline: Instant) -> LocalBoxFuture<'static, ()> {
        Box::pin(monotonic_clock::wait_until(deadline.0))
    }
}

#[cfg(not(target_family = "wasm"))]
pub(crate) mod clock {
    use super::{Instant, LocalBoxFuture};
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1_000_000_000) };
        static REAL: Cell<Option<(std::time::Instant, u64)>> = const { Cell::new(None) };
    }

    pub(super) fn now() -> u64 {
        match REAL.get() {
            None => NOW.get(),
            Some((begun, at)) => {
                at.saturating_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
            }
        }
    }

    /// Moves the virtual clock on; it never goes back.
    pub(crate) fn advance_to(instant: Instant) {
        NOW.set(NOW.get().max(instant.0));
    }

    /// While this lives the clock of this thread is the real one.
    pub(crate) struct RealTime(());

    impl RealTime {
        pub(crate) fn begin() -> Self {
            REAL.set(Some((std::time::Instant::now(), NOW.get())));
            Self(())
        }
    }

    impl Drop for RealTime {
        fn drop(&mut self) {
            NOW.set(now());
            REAL.set(None);
        }
    }

    /// Nothing is woken by this: the test harness moves the clock and wakes the driver.
    pub(super) fn wait_until(deadline: Instant) -> LocalBoxFuture<'static, ()> {
        Box::pin(futures::future::poll_fn(move |_| match now() >= deadline.0 {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spawn;
    use crate::testing::run;
    use futures::future::join_all;
    use std::rc::Rc;

    #[test]
    fn timers_fire_in_order_and_not_early() {
        run(async {
            let begun = Instant::now();
            let order = RefCell::new(Vec::new());
            let sleeps = [30, 10, 20, 10].map(|ms| {
                let order = &order;
                async move {
                    sleep(Duration::from_millis(ms)).await;
                    assert_eq!(begun.elapsed(), Duration::from_millis(ms));
                    order.borrow_mut().push(ms);
                }
            });
            join_all(sleeps).await;
            assert_eq!(*order.borrow(), [10, 10, 20, 30]);
        });
    }

    #[test]
    fn nobody_counts_on_an_alarm_that_rang_for_nobody() {
        let timers = Timers::default();
        let mut cx = Context::from_waker(Waker::noop());
        let [first, second] = [10, 20].map(|ms| Instant::now().after(Duration::from_millis(ms)));
        let dropped = timers.set(first, Waker::noop());
        timers.turn(Instant::now(), &mut cx);
        timers.remove(dropped);
        clock::advance_to(first);
        timers.turn(Instant::now(), &mut cx);
        timers.set(second, Waker::noop());
        assert_eq!(timers.alarm(), None, "so the driver is woken and asks for another");
        timers.turn(Instant::now(), &mut cx);
        assert_eq!(timers.alarm(), Some(second));
    }

    #[test]
    fn an_alarm_that_rings_within_a_turn_fires_its_timer() {
        let timers = Timers::default();
        let mut cx = Context::from_waker(Waker::noop());
        let begun = Instant::now();
        let due = begun.after(Duration::from_millis(10));
        timers.set(due, Waker::noop());
        assert!(!timers.turn(begun, &mut cx));
        clock::advance_to(due);
        assert!(timers.turn(begun, &mut cx));
        assert_eq!((timers.earliest(), timers.alarm()), (None, None));
    }

    #[test]
    fn a_timer_that_is_dropped_is_forgotten() {
        run(async {
            assert_eq!(timeout(Duration::from_secs(1), async { 7 }).await, Ok(7));
            assert_eq!(timeout(Duration::ZERO, sleep(Duration::from_secs(9))).await, Err(Elapsed));
            assert_eq!(runtime::with_timers(Timers::earliest), None);
        });
    }

    #[test]
    fn a_timer_that_is_set_after_all_others_have_fired_fires_too() {
        run(async {
            let begun = Instant::now();
            sleep(Duration::from_secs(1)).await;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(2));
        });
    }

    #[test]
    fn a_late_interval_does_not_catch_up() {
        run(async {
            let begun = Instant::now();
            let mut interval = interval(Duration::from_secs(1));
            interval.tick().await;
            sleep(Duration::from_secs(10)).await;
            interval.tick().await;
            interval.tick().await;
            assert_eq!(begun.elapsed(), Duration::from_secs(12));
        });
    }

    #[test]
    fn a_task_in_the_background_outlives_who_spawned_it_until_it_is_stopped() {
        run(async {
            let ticks = Rc::new(Cell::new(0));
            let counting = Rc::clone(&ticks);
            let spawned = async {
                spawn(async move {
                    loop {
                        sleep(Duration::from_secs(1)).await;
                        counting.set(counting.get() + 1);
                    }
                })
            };
            let task = spawned.await.stop_on_drop();
            sleep(Duration::from_millis(3_500)).await;
            assert_eq!(ticks.get(), 3);
            drop(task);
            sleep(Duration::from_secs(5)).await;
            assert_eq!(ticks.get(), 3);
            assert_eq!(Rc::strong_count(&ticks), 1, "its future was dropped");
        });
    }
}
