//! Waking those who wait for a condition within one thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Wakers of all who wait for some state beside it to change.
///
/// Nothing is lost: the condition is read and the waker stored in one turn of a single thread.
///
/// ```
/// # use pintle_plugin_sdk::{signal::Signal, spawn, testing::run};
/// # use std::{cell::Cell, rc::Rc};
/// # run(async {
/// let (count, changed) = (Rc::new(Cell::new(0)), Rc::new(Signal::default()));
/// # let (counting, telling) = (count.clone(), changed.clone());
/// spawn(async move {
///     counting.set(1);
///     telling.notify();
/// })
/// .detach();
/// changed.wait(|| (count.get() > 0).then_some(())).await;
/// # });
/// ```
#[derive(Debug, Default)]
pub struct Signal {
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next_place: Cell<u64>,
}

/// The place of the one driver that [`Signal::register`]s and never stops waiting.
const DRIVER: u64 = 0;

impl Signal {
    /// Wakes all who wait; call it after the state has changed.
    pub fn notify(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// Waits until `condition` answers something.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn wait<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut place = Place { signal: self, number: None };
        poll_fn(|cx| match condition() {
            Some(value) => Poll::Ready(value),
            None => {
                place.take(cx);
                Poll::Pending
            }
        })
        .await
    }

    /// Wakes the driver of this signal's runtime at the next `notify`.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waiting.borrow_mut().insert(DRIVER, cx.waker().clone());
    }
}

/// A place among those who wait, given up when the wait is dropped: a signal may live for long without
/// a `notify` that would clear it.
struct Place<'a> {
    signal: &'a Signal,
    number: Option<u64>,
}

impl Place<'_> {
    fn take(&mut self, cx: &Context<'_>) {
        let number = *self.number.get_or_insert_with(|| {
            let number = self.signal.next_place.get() + 1;
            self.signal.next_place.set(number);
            number
        });
        self.signal.waiting.borrow_mut().insert(number, cx.waker().clone());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let waker = self.signal.waiting.borrow_mut().remove(&number);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;
    use futures::FutureExt;

    #[test]
    fn waits_that_were_given_up_leave_nothing() {
        run(async {
            let signal = Signal::default();
            for _ in 0..100 {
                assert_eq!(signal.wait(|| None::<()>).now_or_never(), None);
            }
            assert!(signal.waiting.borrow().is_empty());
        });
    }

    #[test]
    fn all_who_wait_are_woken() {
        run(async {
            let (signal, open) = (Signal::default(), Cell::new(false));
            let wait = || signal.wait(|| open.get().then_some(()));
            let opening = async {
                open.set(true);
                signal.notify();
            };
            futures::future::join3(wait(), wait(), opening).await;
            assert!(signal.waiting.borrow().is_empty());
        });
    }
}
