//! Runs a test's future together with the SDK's background tasks.

use crate::glue::Incarnation;
use crate::runtime;
use crate::time::{Instant, clock};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// Runs a test on a virtual clock, in a fresh incarnation.
///
/// # Panics
///
/// When the test waits for something that will never happen.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    drive(test, |waked, alarm| match alarm {
        Some(alarm) => clock::advance_to(alarm),
        // Another thread may have woken one meanwhile.
        None if waked.iter().any(|waked| waked.is_set()) => {}
        None => stuck(),
    })
}

/// Runs a test on the real clock, for plugins that talk to real servers through other threads.
pub fn run_in_real_time<T>(test: impl Future<Output = T>) -> T {
    let real = clock::RealTime::begin();
    let output = drive(test, |waked, alarm| {
        if !waked.iter().any(|waked| waked.is_set()) {
            match alarm {
                Some(alarm) => std::thread::park_timeout(alarm.remaining()),
                None => std::thread::park(),
            }
        }
    });
    drop(real);
    output
}

/// `idle` passes the time until a task is woken or the driver's alarm rings. The test and the background
/// have a waker each, and are polled for nothing else: as in a sandbox, where they are tasks of their own.
fn drive<T>(test: impl Future<Output = T>, idle: impl Fn(&[&Waked; 2], Option<Instant>)) -> T {
    runtime::reset();
    Incarnation::renew();
    #[cfg(feature = "http")]
    super::http::reset();
    let (test_waked, background_waked) = (Waked::new(), Waked::new());
    let wakers = [&test_waked, &background_waked].map(|waked| Waker::from(Arc::clone(waked)));
    let mut contexts = wakers.each_ref().map(Context::from_waker);
    let [test_cx, background_cx] = &mut contexts;
    let (mut test, mut background) = (pin!(test), pin!(runtime::drive()));
    let mut rung = None;
    loop {
        if test_waked.take()
            && let Poll::Ready(output) = test.as_mut().poll(test_cx)
        {
            return output;
        }
        if background_waked.take() {
            // The background never ends.
            let _ = background.as_mut().poll(background_cx);
        }
        if test_waked.is_set() || background_waked.is_set() {
            continue;
        }
        // An alarm rings once.
        let alarm = runtime::with_timers(|timers| timers.alarm()).filter(|at| rung != Some(*at));
        idle(&[&test_waked, &background_waked], alarm);
        if alarm.is_some_and(|at| Instant::now() >= at) {
            rung = alarm;
            background_waked.set();
        }
    }
}

#[allow(clippy::panic, reason = "a test that cannot go on has failed")]
fn stuck() {
    panic!("the test waits for something that will never happen: no task can run, no timer");
}

struct Waked {
    set: AtomicBool,
    thread: Thread,
}

impl Waked {
    /// Woken once, to begin.
    fn new() -> Arc<Self> {
        Arc::new(Self { set: AtomicBool::new(true), thread: std::thread::current() })
    }

    fn set(&self) {
        self.set.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    fn take(&self) -> bool {
        self.set.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Waked {
    fn wake(self: Arc<Self>) {
        self.set();
        self.thread.unpark();
    }
}
