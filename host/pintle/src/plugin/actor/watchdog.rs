//! Calls under way: which have begun, which are late, and which do not come to their end.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    task::AbortHandle,
};

use super::{Job, Operation, posted};
use crate::plugin::throttle::HeldBack;

/// How often deadlines are looked at. Calls are late by at most this much.
const WATCHDOG_TICK: Duration = Duration::from_millis(50);

/// The shortest time that a guest is told it has.
const TIME_MIN: Duration = Duration::from_millis(1);

/// Calls of one incarnation, those that wait for their turn among them.
pub(super) struct Calls {
    under_way: Mutex<HashMap<u64, UnderWay>>,
    next_id: AtomicU64,
    ended: watch::Sender<Option<Arc<str>>>,
    /// For how long the store was held back.
    held_back: Arc<HeldBack>,
    task: AbortHandle,
    urgent: mpsc::WeakSender<Job>,
}

struct UnderWay {
    operation: Operation,
    timeout: Duration,
    deadline: Instant,
    /// Whether the guest knows of it. Only then can it be blamed for being late.
    begun: Arc<AtomicBool>,
    /// Its place among those that wait. One that is given up leaves it at once.
    place: Option<OwnedSemaphorePermit>,
    /// For how long the store had been held back when the call was made.
    held_before: Duration,
    /// The same when it was cancelled, if it was.
    cancelled: Option<Duration>,
}

impl UnderWay {
    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether the guest is to be asked to end it. `held` is how long the store was held back.
    fn is_late(&self, now: Instant, held: Duration) -> bool {
        // A plugin that cannot even start as slowly as it is let would never serve.
        let held_back = if self.operation.is_start() {
            held.saturating_sub(self.held_before)
        } else {
            Duration::ZERO
        };
        now >= self.deadline + held_back
    }

    /// Whether the guest had `grace` to end it after that. It cannot while it is held back.
    fn is_stuck(&self, now: Instant, held: Duration, grace: Duration) -> bool {
        let Some(held_then) = self.cancelled else { return false };
        let held_since = if self.operation.is_start() { self.held_before } else { held_then };
        now >= self.deadline + grace + held.saturating_sub(held_since)
    }
}

impl Calls {
    pub(super) fn new(
        ended: watch::Sender<Option<Arc<str>>>,
        held_back: Arc<HeldBack>,
        task: AbortHandle,
        urgent: mpsc::WeakSender<Job>,
    ) -> Self {
        let (under_way, next_id) = (Mutex::default(), AtomicU64::new(1));
        Self { under_way, next_id, ended, held_back, task, urgent }
    }

    /// Adds a call that waits for its turn, at its place where it needs one.
    pub(super) fn begin(
        self: &Arc<Self>,
        operation: Operation,
        timeout: Duration,
        place: Option<OwnedSemaphorePermit>,
    ) -> CallGuard {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        // A start waits for nothing but its own plugin, whose time has begun already.
        let begun = Arc::new(AtomicBool::new(operation.is_start()));
        let call = UnderWay {
            operation,
            timeout,
            deadline: now + timeout,
            begun: Arc::clone(&begun),
            place,
            held_before: self.held_back.total(now),
            cancelled: None,
        };
        self.lock().insert(id, call);
        CallGuard { id, begun, calls: Arc::clone(self), finished: false }
    }

    /// It is the turn of call `id`: how much time it has left, and its place, which it keeps as long as
    /// it runs. Nothing when it was given up.
    pub(super) fn start(&self, id: u64) -> Option<(Duration, Option<OwnedSemaphorePermit>)> {
        let mut under_way = self.lock();
        let call = under_way.get_mut(&id)?;
        call.begun.store(true, Ordering::Release);
        let left = if call.operation.is_start() {
            call.timeout
        } else {
            call.deadline.saturating_duration_since(Instant::now()).max(TIME_MIN)
        };
        Some((left, call.place.take()))
    }

    /// Call `id` has come to its end.
    pub(super) fn finish(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// How many calls wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.lock().values().filter(|call| !call.has_begun()).count()
    }

    /// Whether all calls, those that wait among them, are of this kind.
    pub(super) fn all(&self, kind: impl Fn(Operation) -> bool) -> bool {
        self.lock().values().all(|call| kind(call.operation))
    }

    /// Ends the incarnation. The first reason wins.
    pub(super) fn end(&self, reason: &str) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(reason.into());
            }
            first
        });
        self.task.abort();
    }

    /// Asks the guest to end call `id`. When that does not get through, the call stays here and the
    /// watchdog ends the incarnation.
    fn cancel(&self, id: u64) {
        let Some(urgent) = self.urgent.upgrade() else { return };
        let cancel = posted(move |accessor, exports| {
            Box::pin(async move { exports.lifecycle.call_cancel(accessor, id).await })
        });
        // Fails when it is full, or when the incarnation has ended.
        let _ = urgent.try_send(cancel);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call and the one who waits for it. Dropped before it has finished, the call is given up: one
/// that has begun the guest is asked to end.
pub(super) struct CallGuard {
    id: u64,
    begun: Arc<AtomicBool>,
    calls: Arc<Calls>,
    finished: bool,
}

impl CallGuard {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    pub(super) fn finish(mut self) {
        self.finished = true;
    }

    /// Takes the call back unless it has begun; answers how many waited for their turn with it.
    pub(super) fn give_up(&self) -> Option<usize> {
        let mut under_way = self.calls.lock();
        if under_way.get(&self.id)?.has_begun() {
            return None;
        }
        let waiting = under_way.values().filter(|call| !call.has_begun()).count();
        under_way.remove(&self.id);
        Some(waiting)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let now = Instant::now();
        let held = self.calls.held_back.total(now);
        let mut under_way = self.calls.lock();
        let Some(call) = under_way.get_mut(&self.id) else { return };
        if !call.has_begun() {
            under_way.remove(&self.id);
            return;
        }
        // The guest still works on it: the watchdog keeps an eye on it until that has ended.
        call.deadline = now;
        call.held_before = held;
        call.cancelled = Some(held);
        drop(under_way);
        self.calls.cancel(self.id);
    }
}

/// Cancels calls that are past their deadline, and ends the incarnation when that does not help.
pub(super) async fn watch_deadlines(calls: std::sync::Weak<Calls>, grace: Duration) {
    let mut ticks = tokio::time::interval(WATCHDOG_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(calls) = calls.upgrade() else { return };
        if calls.ended.borrow().is_some() {
            return;
        }
        let now = Instant::now();
        let held = calls.held_back.total(now);
        let mut late = Vec::new();
        let mut stuck = None;
        for (id, call) in calls.lock().iter_mut().filter(|(_, call)| call.has_begun()) {
            if call.cancelled.is_none() && call.is_late(now, held) {
                call.cancelled = Some(held);
                late.push(*id);
            }
            if call.is_stuck(now, held, grace) {
                stuck = Some((call.operation.name, call.timeout));
            }
        }
        for id in late {
            calls.cancel(id);
        }
        if let Some((operation, timeout)) = stuck {
            let (timeout, grace) = (timeout.as_millis(), grace.as_millis());
            return calls.end(&format!(
                "{operation} did not return within {timeout} ms and {grace} ms of grace"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under_way(operation: Operation, begun: Instant) -> UnderWay {
        let timeout = Duration::from_secs(5);
        UnderWay {
            operation,
            timeout,
            deadline: begun + timeout,
            begun: Arc::new(AtomicBool::new(true)),
            place: None,
            held_before: Duration::from_secs(100),
            cancelled: None,
        }
    }

    #[test]
    fn time_in_which_a_plugin_is_held_back_is_not_taken_from_its_grace() {
        let begun = Instant::now();
        let (after, grace) = (|s| begun + Duration::from_secs(s), Duration::from_secs(1));
        let held = Duration::from_secs;
        let mut call = under_way(Operation::read("config.get"), begun);
        assert!(!call.is_late(after(4), held(103)));
        assert!(call.is_late(after(5), held(104)));
        call.cancelled = Some(held(104));
        // From then on it was held back all the time.
        assert!(!call.is_stuck(after(9), held(108), grace));
        assert!(call.is_stuck(after(9), held(107), grace));
        assert!(call.is_stuck(after(6), held(104), grace));
    }

    #[test]
    fn a_start_has_its_time_while_the_plugin_is_not_held_back() {
        let begun = Instant::now();
        let (after, grace) = (|s| begun + Duration::from_secs(s), Duration::from_secs(1));
        let held = Duration::from_secs;
        let mut start = under_way(Operation::mutation("lifecycle.start"), begun);
        assert!(!start.is_late(after(50), held(146)));
        assert!(start.is_late(after(50), held(145)));
        start.cancelled = Some(held(145));
        assert!(!start.is_stuck(after(60), held(155), grace));
        assert!(start.is_stuck(after(61), held(155), grace));
    }
}
