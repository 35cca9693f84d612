//! Background tasks: one set per incarnation, driven by one task that lives as long as it does.
//!
//! Tasks that are spawned here outlive the call that spawned them, and may be spawned from
//! synchronous exports too, which the component model's own tasks do not allow.

use crate::signal::Signal;
use crate::time::{Instant, Timers};
use futures::future::{AbortHandle, Abortable, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::task::{Context, Poll};

thread_local! {
    static RUNTIME: Runtime = Runtime::default();
}

/// A task in the background. Dropping this leaves it running.
#[derive(Debug)]
#[must_use = "to leave the task running, call `detach`"]
pub struct Task {
    abort: AbortHandle,
}

impl Task {
    /// Drops the task's future at its next turn.
    pub fn stop(&self) {
        self.abort.abort();
    }

    /// Leaves the task running on its own.
    pub fn detach(self) {}

    /// Stops the task when the returned guard is dropped.
    pub fn stop_on_drop(self) -> StopOnDrop {
        StopOnDrop(self)
    }
}

/// Stops its task when it is dropped.
#[derive(Debug)]
pub struct StopOnDrop(Task);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs `future` in the background until it ends, is stopped, or the incarnation ends.
///
/// # Cancellation
///
/// The future is dropped when the task is stopped.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> Task {
    let (abort, registration) = AbortHandle::new_pair();
    let future = Abortable::new(future, registration);
    RUNTIME.with(|runtime| {
        runtime.incoming.borrow_mut().push(Box::pin(async move {
            // Both ways to end are fine: by itself, or stopped by its owner.
            let _ = future.await;
        }));
        runtime.changed.notify();
    });
    Task { abort }
}

/// Runs `future` in the call that is under way, after others had their turn: behind its answer, if
/// it has that by then. For what nobody has to wait for, and what would be late in a task of its own.
///
/// # Panics
///
/// In a guest, where no asynchronous call is under way.
///
/// # Cancellation
///
/// The future is dropped when the incarnation ends.
pub fn after_answer(future: impl Future<Output = ()> + 'static) {
    let future = async {
        yield_now().await;
        future.await;
    };
    // A task of the component model goes on after its answer until all is done that it was given.
    #[cfg(target_family = "wasm")]
    drop(wit_bindgen::spawn_local(future));
    #[cfg(not(target_family = "wasm"))]
    spawn(future).detach();
}

/// Lets all others go on that can.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs timers and background tasks; never ends.
pub(crate) async fn drive() {
    let mut tasks = FuturesUnordered::new();
    poll_fn(|cx| RUNTIME.with(|runtime| runtime.turn(&mut tasks, cx))).await
}

pub(crate) fn with_timers<T>(action: impl FnOnce(&Timers) -> T) -> T {
    RUNTIME.with(|runtime| action(&runtime.timers))
}

/// Wakes the driver, for a timer that is due earlier than all others.
pub(crate) fn wake_driver() {
    RUNTIME.with(|runtime| runtime.changed.notify());
}

/// When the driver's last turn began: the present, for what runs in one, without asking the host for it.
#[cfg(feature = "http2")]
pub(crate) fn turn_began() -> Instant {
    RUNTIME.with(|runtime| runtime.turn_began.get()).unwrap_or_else(Instant::now)
}

/// Forgets everything of an earlier run on this thread.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn reset() {
    let dropped = RUNTIME.with(|runtime| {
        runtime.timers.clear();
        runtime.turn_began.take();
        std::mem::take(&mut *runtime.incoming.borrow_mut())
    });
    drop(dropped);
}

type Tasks = FuturesUnordered<LocalBoxFuture<'static, ()>>;

#[derive(Default)]
struct Runtime {
    incoming: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    changed: Signal,
    timers: Timers,
    turn_began: Cell<Option<Instant>>,
}

impl Runtime {
    fn turn(&self, tasks: &mut Tasks, cx: &mut Context<'_>) -> Poll<()> {
        self.changed.register(cx);
        let now = Instant::now();
        self.turn_began.set(Some(now));
        loop {
            tasks.extend(self.incoming.borrow_mut().drain(..));
            let ended = matches!(tasks.poll_next_unpin(cx), Poll::Ready(Some(())));
            let fired = self.timers.turn(now, cx);
            if !ended && !fired && self.incoming.borrow().is_empty() {
                return Poll::Pending;
            }
        }
    }
}
