//! HTTP/2 over a connection of the plugin's own: many requests at once, and a PING that notices a
//! connection whose other end is gone.
//!
//! This is several times faster than HTTP through the host, and the only way to gRPC whose streams
//! stay open.

use crate::Error;
use crate::connection::Connection;
use crate::runtime::{Task, spawn};
use crate::signal::Signal;
use crate::time::{self, Instant, sleep_until};
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{Request, Response, Uri};
use futures::future::LocalBoxFuture;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How the connection is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A PING after this long without traffic.
    pub ping_after: Duration,
    /// How long its answer may take; then the connection is closed.
    pub ping_timeout: Duration,
    /// Whether to PING while no request is under way. Some servers take that for abuse and hang up.
    pub ping_while_idle: bool,
    /// Bytes that one stream may have in flight towards us.
    pub stream_window: u32,
    /// Bytes that all streams may have in flight towards us; more than one stream's, so that a
    /// large read cannot starve the others.
    pub connection_window: u32,
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
pub struct Client<B> {
    sender: http2::SendRequest<B>,
    authority: Authority,
    ending: Rc<Ending>,
}

impl<B> Clone for Client<B> {
    fn clone(&self) -> Self {
        let (authority, ending) = (self.authority.clone(), Rc::clone(&self.ending));
        Self { sender: self.sender.clone(), authority, ending }
    }
}

/// Why the connection is closed, once it is.
#[derive(Default)]
struct Ending {
    reason: RefCell<Option<String>>,
    changed: Signal,
}

impl<B> Client<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
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
        let mut builder = http2::Builder::new(Tasks);
        builder
            .timer(Timer::default())
            .keep_alive_interval(options.ping_after)
            .keep_alive_timeout(options.ping_timeout)
            .keep_alive_while_idle(options.ping_while_idle)
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window);
        let (sender, driver) = builder.handshake(connection).await.map_err(|error| {
            Error::unavailable(format!("{peer} does not speak HTTP/2: {}", describe(&error)))
                .detail("endpoint", peer.as_str())
        })?;
        let ending = Rc::new(Ending::default());
        let told = Rc::clone(&ending);
        spawn(async move {
            let reason = match driver.await {
                Ok(()) => format!("{peer} closed the connection"),
                Err(error) => format!("the connection to {peer} broke: {}", describe(&error)),
            };
            *told.reason.borrow_mut() = Some(reason);
            told.changed.notify();
        })
        .detach();
        Ok(Self { sender, authority, ending })
    }

    /// Sends a request; scheme and authority are filled in.
    ///
    /// # Errors
    ///
    /// When the connection breaks before the head of the answer is there.
    ///
    /// # Cancellation
    ///
    /// Dropping the future resets the stream.
    pub async fn send(&self, request: Request<B>) -> Result<Response<Incoming>, hyper::Error> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(self.complete(request)).await
    }

    fn complete(&self, mut request: Request<B>) -> Request<B> {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone());
        if let Ok(uri) = uri.path_and_query(path).build() {
            *request.uri_mut() = uri;
        }
        request
    }
}

impl<B> Client<B> {
    /// The endpoint, as the operator wrote it.
    pub fn peer(&self) -> &str {
        self.authority.as_str()
    }

    /// Waits until the connection is closed, and answers why.
    pub async fn closed(&self) -> String {
        self.ending.changed.wait(|| self.ending.reason.borrow().clone()).await
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.ending.reason.borrow().is_some() || self.sender.is_closed()
    }
}

impl<B> tower_service::Service<Request<B>> for Client<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.sender.send_request(self.complete(request)))
    }
}

/// The error and its causes in one line: hyper's own text leaves out what happened.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Runs hyper's tasks in the background of the incarnation.
#[derive(Clone, Copy, Debug)]
pub struct Tasks;

impl<F: Future + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        Task::detach(spawn(async move {
            future.await;
        }));
    }
}

/// hyper's clock: ours, which is virtual in tests.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    begun: Instant,
    origin: std::time::Instant,
}

impl Default for Timer {
    fn default() -> Self {
        Self { begun: Instant::now(), origin: std::time::Instant::now() }
    }
}

impl hyper::rt::Timer for Timer {
    fn sleep(&self, span: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(time::sleep(span)))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let offset = deadline.saturating_duration_since(self.origin);
        Box::pin(Sleep(sleep_until(self.begun.after(offset))))
    }

    fn now(&self) -> std::time::Instant {
        self.origin + self.begun.elapsed()
    }
}

struct Sleep(time::Sleep);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl hyper::rt::Sleep for Sleep {}

#[cfg(test)]
mod tests;
