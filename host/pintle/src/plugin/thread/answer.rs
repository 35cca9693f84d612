//! Looking out for an answer before its caller's thread sleeps.
//!
//! To wake it takes as long as it does to wake the plugin's ([`super::lookout`]). Only one who waits alone
//! looks out: where several wait, threads are awake anyhow, and what is burnt is taken from the others.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::yield_now};

use super::{callers::Callers, worth::Worth};

/// For those who wait for answers of one store.
#[derive(Debug)]
pub(crate) struct AnswerLookout {
    moment: Duration,
    callers: Callers,
    worth: Mutex<Worth>,
}

impl AnswerLookout {
    /// For at most `moment` each time; zero for never.
    pub(crate) fn new(moment: Duration, callers: Callers) -> Self {
        Self { moment, callers, worth: Mutex::default() }
    }

    /// Looks for `answer` again and again until it is there, as long as answers mostly come within the
    /// moment. Other tasks of the caller's runtime go on meanwhile, and other threads first.
    ///
    /// # Cancellation
    ///
    /// Safe: the answer is not taken.
    pub(crate) async fn until<T>(&self, answer: &oneshot::Receiver<T>) {
        if self.moment.is_zero() || !self.callers.is_alone() || !self.judge(Worth::is_tried) {
            return;
        }
        let since = Instant::now();
        while since.elapsed() < self.moment {
            std::thread::yield_now();
            yield_now().await;
            if !answer.is_empty() {
                // Not if this thread had to wait for a core: then to sleep would have been as well.
                let is_soon = since.elapsed() < self.moment;
                return self.judge(if is_soon { Worth::paid } else { Worth::was_in_vain });
            }
            if !self.callers.is_alone() {
                return;
            }
        }
        self.judge(Worth::was_in_vain);
    }

    fn judge<T>(&self, judge: impl FnOnce(&mut Worth) -> T) -> T {
        judge(&mut self.worth.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Whether somebody who waits for this answer looks out for it, or waits to be woken.
    fn looks_out<T>(lookout: &AnswerLookout, answer: &oneshot::Receiver<T>) -> bool {
        let looking = pin!(lookout.until(answer));
        looking.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[test]
    fn one_who_waits_alone_looks_out_until_the_answer_is_there() {
        let callers = Callers::default();
        let lookout = AnswerLookout::new(LONG, callers.clone());
        let (reply, answer) = oneshot::channel();
        let _caller = callers.join();
        let mut looking = pin!(lookout.until(&answer));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..10 {
            assert!(looking.as_mut().poll(&mut cx).is_pending());
        }
        reply.send(7).unwrap();
        assert!(looking.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn nobody_looks_out_where_several_wait_or_where_it_is_turned_off() {
        let callers = Callers::default();
        let (_reply, answer) = oneshot::channel::<()>();
        let _caller = callers.join();
        assert!(!looks_out(&AnswerLookout::new(Duration::ZERO, callers.clone()), &answer));
        let lookout = AnswerLookout::new(LONG, callers.clone());
        assert!(looks_out(&lookout, &answer));
        let another = callers.join();
        assert!(!looks_out(&lookout, &answer));
        drop(another);
        assert!(looks_out(&lookout, &answer));
    }

    #[test]
    fn one_whom_another_joins_stops_looking_out() {
        let callers = Callers::default();
        let lookout = AnswerLookout::new(LONG, callers.clone());
        let (_reply, answer) = oneshot::channel::<()>();
        let _caller = callers.join();
        let mut looking = pin!(lookout.until(&answer));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(looking.as_mut().poll(&mut cx).is_pending());
        let _another = callers.join();
        assert!(looking.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn answers_that_take_their_time_are_not_looked_out_for() {
        let lookout = AnswerLookout::new(Duration::from_nanos(1), Callers::default());
        let (_reply, answer) = oneshot::channel::<()>();
        while lookout.judge(Worth::is_tried) {
            lookout.until(&answer).await;
        }
        let lookout = AnswerLookout { moment: LONG, ..lookout };
        assert!(!looks_out(&lookout, &answer));
    }
}
