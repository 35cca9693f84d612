//! Runs a test's future together with the SDK's background tasks.

use crate::glue::Incarnation;
use crate::runtime;
use crate::time::{Instant, clock};
use std::future::Future;
use std::pin::{Pin, pin};
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
    drive(test, |waked, next| match next {
        Some(next) => clock::advance_to(next),
        None => stuck(waked),
    })
}

/// Runs a test on the real clock, for plugins that talk to real servers through other threads.
pub fn run_in_real_time<T>(test: impl Future<Output = T>) -> T {
    let real = clock::RealTime::begin();
    let output = drive(test, |waked, next| {
        if !waked.is_set() {
            match next {
                Some(next) => std::thread::park_timeout(next.remaining()),
                None => std::thread::park(),
            }
        }
    });
    drop(real);
    output
}

fn drive<T>(test: impl Future<Output = T>, idle: impl Fn(&Waked, Option<Instant>)) -> T {
    runtime::reset();
    Incarnation::renew();
    #[cfg(feature = "http")]
    super::http::reset();
    let waked = Arc::new(Waked { set: AtomicBool::new(true), thread: std::thread::current() });
    let waker = Waker::from(Arc::clone(&waked));
    let mut cx = Context::from_waker(&waker);
    let (mut test, mut background) = (pin!(test), pin!(runtime::drive()));
    loop {
        while waked.set.swap(false, Ordering::AcqRel) {
            if let Poll::Ready(output) = test.as_mut().poll(&mut cx) {
                return output;
            }
            turn(background.as_mut(), &mut cx);
        }
        idle(&waked, runtime::with_timers(|timers| timers.earliest()));
        if !waked.is_set() {
            turn(background.as_mut(), &mut cx);
        }
    }
}

fn turn(background: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) {
    // The background never ends.
    let _ = background.poll(cx);
}

#[allow(clippy::panic, reason = "a test that cannot go on has failed")]
fn stuck(waked: &Waked) {
    if !waked.is_set() {
        panic!("the test waits for something that will never happen: no task can run, no timer");
    }
}

struct Waked {
    set: AtomicBool,
    thread: Thread,
}

impl Waked {
    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }
}

impl Wake for Waked {
    fn wake(self: Arc<Self>) {
        self.set.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
