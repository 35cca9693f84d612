//! What a call carries: its deadline, its cancellation, the caller's trace.

use crate::Error;
use crate::bindings::wire::types;
use crate::signal::Signal;
use crate::time::{Instant, sleep_until};
use futures::future::{Either, select};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Comes with every call: how long it may take, whether it was cancelled, whose trace it is in.
///
/// Cheap to clone; clones belong to the same call.
#[derive(Clone, Debug)]
pub struct Context {
    call: Rc<Call>,
}

#[derive(Debug)]
struct Call {
    operation: &'static str,
    deadline: Instant,
    time_limit: Duration,
    trace: Vec<(String, String)>,
    cancelled: Cell<bool>,
    changed: Signal,
}

/// Why a call has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The caller asked for it.
    Cancelled,
    /// The deadline has passed.
    Timeout,
}

impl Context {
    /// A context for work that no call waits for, such as cleaning up.
    pub fn background(operation: &'static str, time_limit: Duration) -> Self {
        Self::new(operation, time_limit, Instant::now().after(time_limit), Vec::new())
    }

    /// A context whose deadline lies before the host's by `reserve`, so that there is time left to
    /// clean up and to answer.
    pub(crate) fn of_call(
        operation: &'static str,
        raw: types::Context,
        reserve: impl FnOnce(Duration) -> Duration,
    ) -> Self {
        let time_limit = Duration::from_millis(raw.timeout_ms.into());
        let usable = time_limit.saturating_sub(reserve(time_limit));
        Self::new(operation, time_limit, Instant::now().after(usable), raw.trace)
    }

    fn new(
        operation: &'static str,
        time_limit: Duration,
        deadline: Instant,
        trace: Vec<(String, String)>,
    ) -> Self {
        let call = Call {
            operation,
            deadline,
            time_limit,
            trace,
            cancelled: Cell::new(false),
            changed: Signal::default(),
        };
        Self { call: Rc::new(call) }
    }

    /// When the call has to be done, a little before the host loses patience.
    pub fn deadline(&self) -> Instant {
        self.call.deadline
    }

    /// Time until the deadline.
    pub fn remaining(&self) -> Duration {
        self.call.deadline.remaining()
    }

    /// Propagation headers of the caller's span (`traceparent`, `tracestate`).
    pub fn trace(&self) -> &[(String, String)] {
        &self.call.trace
    }

    /// Why the call has to end now, if it has.
    pub fn ended(&self) -> Option<End> {
        if self.call.cancelled.get() {
            Some(End::Cancelled)
        } else if Instant::now() >= self.call.deadline {
            Some(End::Timeout)
        } else {
            None
        }
    }

    /// Resolves when the call is cancelled or its deadline passes.
    ///
    /// Most methods need not care: the SDK drops their future then. `acquire` and `register` are
    /// never dropped, and use this to clean up and come back.
    pub async fn cancelled(&self) -> End {
        let told = pin!(self.call.changed.wait(|| self.call.cancelled.get().then_some(())));
        match select(told, sleep_until(self.call.deadline)).await {
            Either::Left(_) => End::Cancelled,
            Either::Right(_) => End::Timeout,
        }
    }

    pub(crate) fn cancel(&self) {
        self.call.cancelled.set(true);
        self.call.changed.notify();
    }

    /// The error for a call that had to end.
    pub fn error(&self, end: End) -> Error {
        let operation = self.call.operation;
        match end {
            End::Cancelled => Error::cancelled(format!("{operation}: cancelled by the caller")),
            End::Timeout => {
                let limit = self.call.time_limit.as_millis();
                Error::timeout(format!("{operation}: not done within {limit} ms"))
            }
        }
    }
}
