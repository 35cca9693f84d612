//! Looking out for what comes next before the thread sleeps.
//!
//! A thread that sleeps has to be woken, which takes longer than all that a guest does for a small call where
//! cores are virtual. So the runtime is kept awake for a moment after its store has done something, as long
//! as something mostly comes in that moment. It leaves its core to any thread that wants it meanwhile.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use tokio::task::yield_now;

use super::{callers::Callers, worth::Worth};

/// What a store did, for its lookout.
pub(super) struct Doings {
    /// How often it was polled.
    turns: AtomicU64,
    waker: AtomicWaker,
    callers: Callers,
}

impl Doings {
    /// Of a store from which `callers` wait for answers.
    pub(super) fn new(callers: Callers) -> Self {
        Self { turns: AtomicU64::default(), waker: AtomicWaker::default(), callers }
    }

    /// Runs `store`, and notes each of its turns.
    pub(super) async fn of<F: Future>(self: Arc<Self>, store: F) -> F::Output {
        let mut store = pin!(store);
        poll_fn(|cx| {
            let polled = store.as_mut().poll(cx);
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.waker.wake();
            polled
        })
        .await
    }
}

/// Looks out for at most `moment` after each turn of the store, on its thread, until the store ends.
pub(super) async fn look_out(doings: Weak<Doings>, moment: Duration) {
    // For the answer to a call that is under way, and for the next call or event: a server that takes its time
    // must not keep it from looking out for calls, nor calls that are far apart from looking out for an answer.
    let (mut answers, mut calls) = (Worth::default(), Worth::default());
    let mut seen = 0;
    'moments: while let Some(turn) = next_turn(&doings, seen).await {
        seen = turn.number;
        let worth = if turn.is_awaited { &mut answers } else { &mut calls };
        if !worth.is_tried() {
            continue;
        }
        let since = Instant::now();
        while since.elapsed() < moment {
            // Whom the store has just woken may have been put behind this thread, by a system that took it
            // for one that is about to sleep; and whoever else needs the core needs it more.
            std::thread::yield_now();
            // The runtime looks for what has arrived in between.
            yield_now().await;
            let Some(doings) = doings.upgrade() else { return };
            if doings.turns.load(Ordering::Relaxed) != seen {
                worth.paid();
                continue 'moments;
            }
        }
        worth.was_in_vain();
    }
}

/// A turn of the store.
struct Turn {
    number: u64,
    /// Whether somebody waits for an answer after it.
    is_awaited: bool,
}

/// Sleeps until there were more turns than were seen; none when the store is gone.
async fn next_turn(doings: &Weak<Doings>, seen: u64) -> Option<Turn> {
    poll_fn(|cx| {
        let Some(doings) = doings.upgrade() else { return Poll::Ready(None) };
        doings.waker.register(cx.waker());
        let number = doings.turns.load(Ordering::Relaxed);
        if number == seen {
            return Poll::Pending;
        }
        Poll::Ready(Some(Turn { number, is_awaited: doings.callers.are_there() }))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it was woken.
    #[derive(Default)]
    struct Wakings(AtomicU64);

    impl std::task::Wake for Wakings {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_sleeps_until_the_store_did_something_and_then_looks_again_and_again() {
        let wakings = Arc::<Wakings>::default();
        let woken = || wakings.0.load(Ordering::Relaxed);
        let waker = Arc::clone(&wakings).into();
        let mut cx = std::task::Context::from_waker(&waker);
        let doings = Arc::new(Doings::new(Callers::default()));
        let mut looking = pin!(look_out(Arc::downgrade(&doings), Duration::from_secs(3600)));
        assert!(looking.as_mut().poll(&mut cx).is_pending());
        assert_eq!(woken(), 0, "nothing was done");
        let mut store = pin!(doings.of(std::future::pending::<()>()));
        assert!(
            store
                .as_mut()
                .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
                .is_pending()
        );
        for looks in 1..=10 {
            assert_eq!(woken(), looks);
            assert!(looking.as_mut().poll(&mut cx).is_pending());
        }
    }

    #[test]
    fn a_server_that_takes_its_time_does_not_keep_it_from_looking_out_for_the_next_call() {
        let wakings = Arc::<Wakings>::default();
        let waker = Arc::clone(&wakings).into();
        let mut cx = std::task::Context::from_waker(&waker);
        let callers = Callers::default();
        let doings = Arc::new(Doings::new(callers.clone()));
        let moment = Duration::from_millis(5);
        let mut looking = pin!(look_out(Arc::downgrade(&doings), moment));
        let mut store = pin!(Arc::clone(&doings).of(std::future::pending::<()>()));
        // A turn in whose moment nothing comes: whether it is looked out in.
        let mut looks_out = || {
            let mut noop = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(store.as_mut().poll(&mut noop).is_pending());
            let mut before = wakings.0.load(Ordering::Relaxed);
            assert!(looking.as_mut().poll(&mut cx).is_pending());
            let looks = wakings.0.load(Ordering::Relaxed) > before;
            while wakings.0.load(Ordering::Relaxed) > before {
                before = wakings.0.load(Ordering::Relaxed);
                assert!(looking.as_mut().poll(&mut cx).is_pending());
            }
            looks
        };
        assert!(looks_out());
        let caller = callers.join();
        while looks_out() {}
        drop(caller);
        assert!(looks_out(), "for the next call");
        let _caller = callers.join();
        assert!(!looks_out(), "for the answer");
    }

    #[tokio::test]
    async fn a_store_that_is_gone_is_not_waited_for() {
        let doings = Arc::new(Doings::new(Callers::default()));
        let looking = tokio::spawn(look_out(Arc::downgrade(&doings), Duration::from_secs(3600)));
        assert_eq!(doings.of(async { 7 }).await, 7);
        looking.await.unwrap();
    }
}
