//! HTTP/2 over a connection of the plugin's own: many requests at once, and a PING that notices a
//! connection whose other end is gone.
//!
//! This is several times faster than HTTP through the host, and the only way to gRPC whose streams
//! stay open. It sits on `h2` alone: a client library on top of that would take a task and several
//! boxes for each request, which in a sandbox costs more than the protocol.

mod body;
#[cfg(feature = "grpc")]
mod collect;
mod error;
mod ping;

pub use body::Incoming;
#[cfg(feature = "grpc")]
pub(crate) use collect::collect;
pub use error::Failed;

use crate::Error;
use crate::connection::Connection;
use crate::runtime::spawn;
use crate::signal::Signal;
use ::http::uri::{Authority, Parts, PathAndQuery, Scheme};
use ::http::{Request, Response, Uri};
use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http_body::Body;
use ping::{Activity, Watched};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Largest frame that a server may send.
const FRAME_BYTES_MAX: u32 = 64 << 10;

/// How the connection is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A PING after this long without traffic.
    pub ping_after: Duration,
    /// How long nothing may come after a PING; then the connection is closed.
    pub ping_timeout: Duration,
    /// Whether to PING while no request is under way. Some servers take that for abuse and hang up.
    pub ping_while_idle: bool,
    /// Bytes that one stream may have in flight towards us.
    pub stream_window: u32,
    /// Bytes that all streams may have in flight towards us; more than one stream's, so that a
    /// large read cannot starve the others.
    pub connection_window: u32,
}

impl Options {
    /// For a server that may take so long to answer, and that is asked for nothing most of the time. While
    /// it takes its time over a request, it may take as much over a PING.
    #[must_use]
    pub fn patient(answer_timeout: Duration) -> Self {
        let usual = Self::default();
        let ping_timeout = usual.ping_timeout.max(answer_timeout);
        Self { ping_timeout, ping_while_idle: false, ..usual }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            ping_while_idle: true,
            stream_window: 1 << 20,
            connection_window: 8 << 20,
        }
    }
}

/// An HTTP/2 client on one connection. Clones share it; when the last is dropped it closes.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

struct Shared {
    sender: SendRequest<Bytes>,
    authority: Authority,
    ending: Rc<Ending>,
    /// Cloned by every request that is under way.
    busy: Busy,
}

/// Lives as long as a request is under way. Atomic, because bodies have to be `Send`.
type Busy = Arc<()>;

/// Why the connection is closed, once it is.
#[derive(Default)]
struct Ending {
    reason: RefCell<Option<String>>,
    changed: Signal,
}

impl Client {
    /// Speaks HTTP/2 on `connection`, with prior knowledge.
    ///
    /// # Errors
    ///
    /// `unavailable` when the peer has closed it already.
    pub async fn open(connection: Connection, options: Options) -> Result<Self, Error> {
        let peer = connection.peer().to_owned();
        let authority = peer.parse().map_err(|error| {
            Error::invalid(format!("endpoint {peer} cannot stand in a request: {error}"))
        })?;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .max_frame_size(FRAME_BYTES_MAX)
            // Answers to requests that were given up come late: no reason to leave the server.
            .max_local_error_reset_streams(None)
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window);
        let activity = Activity::default();
        let watched = Watched::new(connection, activity.clone());
        let (sender, mut driver) = builder.handshake(watched).await.map_err(|error| {
            let reason = Failed::from(error);
            Error::unavailable(format!("{peer} does not speak HTTP/2: {reason}"))
                .detail("endpoint", peer.as_str())
        })?;
        let pings = driver.ping_pong();
        let (busy, ending) = (Busy::default(), Rc::<Ending>::default());
        let (requests, told) = (Arc::downgrade(&busy), Rc::clone(&ending));
        // Beside the client's own there is one for each request.
        let is_busy = move || requests.strong_count() > 1;
        spawn(async move {
            let silence = pin!(ping::until_silent(pings, activity, options, is_busy));
            let reason = match select(&mut driver, silence).await {
                Either::Left((Ok(()), _)) => "the server closed the connection".to_owned(),
                Either::Left((Err(error), _)) => {
                    let error = Failed::from(error).to_string();
                    let error = error.strip_prefix(&format!("{peer}: ")).unwrap_or(&error);
                    format!("the connection broke: {error}")
                }
                Either::Right((silence, _)) => format!("the connection broke: {silence}"),
            };
            told.reason.replace(Some(reason));
            // Only now do those learn it whose requests are under way.
            drop(driver);
            told.changed.notify();
        })
        .detach();
        Ok(Self { shared: Rc::new(Shared { sender, authority, ending, busy }) })
    }

    /// Whether both are on the same connection.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// Sends a request; scheme and authority are filled in.
    ///
    /// # Errors
    ///
    /// When the connection breaks before the head of the answer is there.
    ///
    /// # Cancellation
    ///
    /// Dropping the future, or later the body of the answer, resets the stream.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Failed>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let ends = body.is_end_stream();
        let head = Request::from_parts(parts, ());
        let busy = self.shared.busy.clone();
        let (answer, stream) = self.open_stream(head, ends).await?;
        let (here, left) = oneshot::channel();
        if !ends {
            spawn(body::send(body, stream, left)).detach();
        }
        Ok(answer.await?.map(|answer| Incoming::new(answer, here, busy)))
    }

    /// Sends a request with its whole body; the body of the answer is read by `read`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and those of `read`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future resets the stream.
    #[cfg(feature = "grpc")]
    pub(crate) async fn exchange<T>(
        &self,
        head: Request<()>,
        body: Bytes,
        read: impl AsyncFnOnce(Response<h2::RecvStream>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let busy = self.shared.busy.clone();
        let (answer, mut stream) = self.open_stream(head, false).await?;
        stream.send_data(body, true)?;
        let outcome = read(answer.await?).await;
        drop(busy);
        outcome
    }

    async fn open_stream(
        &self,
        head: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failed> {
        let mut sender = self.shared.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(Failed::unsent)?;
        sender.send_request(self.complete(head), ends).map_err(Failed::unsent)
    }

    fn complete(&self, mut request: Request<()>) -> Request<()> {
        let path = request.uri().path_and_query().cloned();
        let mut parts = Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.shared.authority.clone());
        parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        *request.version_mut() = ::http::Version::HTTP_2;
        request
    }

    /// The endpoint, as the operator wrote it.
    pub fn peer(&self) -> &str {
        self.shared.authority.as_str()
    }

    /// Waits until the connection is closed, and answers why.
    pub async fn closed(&self) -> String {
        let ending = &self.shared.ending;
        let reason = ending.changed.wait(|| ending.reason.borrow().clone()).await;
        format!("{}: {reason}", self.peer())
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.shared.ending.reason.borrow().is_some()
    }

    /// Why the connection is closed, if it is.
    #[cfg(feature = "grpc")]
    pub(crate) fn ending(&self) -> Option<String> {
        self.shared.ending.reason.borrow().clone()
    }
}

impl<B> tower_service::Service<Request<B>> for Client
where
    B: Body<Data = Bytes> + 'static,
    B::Error: std::fmt::Display,
{
    type Response = Response<Incoming>;
    type Error = Failed;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Each call waits for its own turn.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { client.send(request).await })
    }
}

#[cfg(test)]
mod tests;
