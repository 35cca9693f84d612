//! Response bodies that end when the server falls silent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::Error;

use crate::plugin::network::NetworkCounters;

/// A request whose response has not ended.
pub(super) struct InFlight {
    counters: Arc<NetworkCounters>,
    _permit: OwnedSemaphorePermit,
}

impl InFlight {
    pub(super) fn new(counters: Arc<NetworkCounters>, permit: OwnedSemaphorePermit) -> Self {
        counters.request_started();
        Self { counters, _permit: permit }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.counters.request_ended();
    }
}

/// The body of a response, with a limit on the time between two parts.
pub(super) struct ResponseBody {
    incoming: Incoming,
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
    _in_flight: InFlight,
}

impl ResponseBody {
    /// Must be called on the runtime of the sockets, whose clock it uses.
    pub(super) fn new(incoming: Incoming, silence_max: Duration, in_flight: InFlight) -> Self {
        let silence = Box::pin(sleep(silence_max));
        Self { incoming, silence, silence_max, _in_flight: in_flight }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            let silence_max = self.silence_max;
            let until = Instant::now().checked_add(silence_max);
            if let Some(until) = until {
                self.silence.as_mut().reset(until);
            }
            return Poll::Ready(frame.map(|result| result.map_err(Error::Hyper)));
        }
        ready!(self.silence.as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
