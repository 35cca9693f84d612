//! Running calls: their deadlines, and their cancellation by id.

use crate::bindings::wire::types;
use crate::context::{Context, End};
use crate::error::Error;
use futures::future::{Either, select};
use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// What a call that is broken off may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// The calls that are running, by the host's number.
#[derive(Clone, Default)]
pub(crate) struct Calls {
    running: Rc<RefCell<HashMap<u64, Context>>>,
}

impl Calls {
    /// Asks a call to end soon; nothing if it is not running.
    pub(crate) fn cancel(&self, call_id: u64) {
        let context = self.running.borrow().get(&call_id).cloned();
        if let Some(context) = context {
            context.cancel();
        }
    }

    /// Runs `body` until it ends, its time is over, or it is cancelled; then it is dropped.
    pub(crate) async fn run<T>(
        &self,
        operation: &'static str,
        kind: Kind,
        raw: types::Context,
        body: impl AsyncFnOnce(&Context) -> Result<T, Error>,
    ) -> Result<T, types::Error> {
        let call_id = raw.call_id;
        let cx = Context::of_call(operation, raw, reserve_to_answer);
        let _entry = self.enter(call_id, cx.clone());
        let work = pin!(body(&cx));
        match select(work, pin!(cx.cancelled())).await {
            Either::Left((result, _)) => result.map_err(types::Error::from),
            Either::Right((end, _)) => Err(broken_off(&cx, end, kind).into()),
        }
    }

    /// Makes a call known to [`cancel`](Self::cancel) until the entry is dropped.
    pub(crate) fn enter(&self, call_id: u64, context: Context) -> Entry {
        self.running.borrow_mut().insert(call_id, context);
        Entry { calls: self.clone(), call_id }
    }
}

/// A running call.
pub(crate) struct Entry {
    calls: Calls,
    call_id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.calls.running.borrow_mut().remove(&self.call_id);
    }
}

fn broken_off(cx: &Context, end: End, kind: Kind) -> Error {
    match kind {
        Kind::Read => cx.error(end),
        Kind::Write => cx.error(end).effect_unknown(),
    }
}

/// Time kept back so that the answer is there before the host loses patience.
pub(crate) fn reserve_to_answer(time_limit: Duration) -> Duration {
    (time_limit / 10).min(Duration::from_millis(100))
}

/// Time kept back so that a claim can be taken back and the answer still be in time.
pub(crate) fn reserve_to_clean_up(time_limit: Duration) -> Duration {
    (time_limit / 4).min(Duration::from_secs(1))
}
