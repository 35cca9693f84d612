//! TCP connections of a plugin: through the host's sockets, plain bytes even where the host adds TLS.
//!
//! A [`Connection`] implements `futures::io::{AsyncRead, AsyncWrite}`. What is written in one turn mostly
//! goes to the host as one write, where there are several who write.
//!
//! Natively a connection is a pair of pipes ([`Connection::pair`]) or an ordinary socket, so that
//! protocol code is tested without a sandbox.

mod error;
#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(not(target_family = "wasm"))]
mod pipe;
#[cfg(target_family = "wasm")]
mod wasi;

pub use error::{ConnectError, ConnectStep};

#[cfg(not(target_family = "wasm"))]
use native as platform;
#[cfg(target_family = "wasm")]
use wasi as platform;

use crate::Endpoint;
use crate::time::timeout;
use futures::future::LocalBoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes that one read asks the host for.
const READ_MAX: usize = 64 << 10;
/// Bytes that may wait to be written before the writer has to wait.
const WRITE_MAX: usize = 64 << 10;

/// What has passed through a connection. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    read: Rc<Cell<u64>>,
    written: Rc<Cell<u64>>,
}

impl Traffic {
    /// Bytes that came in.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes that went out.
    pub fn written(&self) -> u64 {
        self.written.get()
    }
}

/// One TCP connection.
pub struct Connection {
    peer: Rc<str>,
    reader: Reader,
    writer: Writer,
    traffic: Traffic,
}

impl Connection {
    /// Looks the endpoint up and connects to it, within `limit` for both.
    ///
    /// Where it has several addresses they are tried in turn.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], which names the endpoint, the step and the reason; as an
    /// [`Error`](crate::Error) it is `unavailable`, or `denied` when the host does not allow it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves nothing open.
    pub async fn open(endpoint: &Endpoint, limit: Duration) -> Result<Self, ConnectError> {
        let connected = timeout(limit, platform::connect(endpoint)).await;
        let (source, sink) =
            connected.unwrap_or_else(|_| Err(ConnectError::timeout(endpoint, limit)))?;
        Ok(Self::new(endpoint.to_string(), source, sink))
    }

    /// The two ends of a connection within this process, for tests.
    #[cfg(not(target_family = "wasm"))]
    pub fn pair() -> (Self, Self) {
        let (to_left, from_right) = pipe::ends();
        let (to_right, from_left) = pipe::ends();
        (Self::new("right", to_left, from_left), Self::new("left", to_right, from_right))
    }

    fn new(peer: impl Into<Rc<str>>, source: Box<dyn Source>, sink: Box<dyn Sink>) -> Self {
        let reader = Reader { state: ReadState::Idle(source), buffer: Vec::new(), position: 0 };
        let writer = Writer {
            state: WriteState::Idle(sink),
            waiting: Vec::new(),
            spare: Vec::new(),
            cork: Cork::default(),
        };
        Self { peer: peer.into(), reader, writer, traffic: Traffic::default() }
    }

    /// The endpoint, as the operator wrote it.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Counts of bytes, which stay readable after the connection is gone.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    /// Counts into `traffic` from now on, which other connections may share.
    #[must_use]
    pub fn counted_by(mut self, traffic: &Traffic) -> Self {
        self.traffic = traffic.clone();
        self
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = ready!(self.reader.poll_fill(cx)).map_err(|error| self.name(error))?;
        self.traffic.read.set(self.traffic.read.get() + filled);
        Poll::Ready(Ok(()))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let accepted =
            ready!(self.writer.poll_write(cx, data)).map_err(|error| self.name(error))?;
        let counted = u64::try_from(accepted).unwrap_or_default();
        self.traffic.written.set(self.traffic.written.get() + counted);
        Poll::Ready(Ok(accepted))
    }

    fn name(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.peer))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_fill(cx))?;
        let mut there = self.reader.filled();
        let count = io::Read::read(&mut there, out)?;
        self.reader.consume(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_accept(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_flush(cx).map_err(|error| self.name(error))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_close(cx).map_err(|error| self.name(error))
    }
}

/// A read or write under way; in the end it gives back its half and the buffer.
type Step<Half> = LocalBoxFuture<'static, (Box<Half>, io::Result<Vec<u8>>)>;

/// Where bytes come from.
trait Source {
    /// Reads into the spare capacity of an empty buffer; nothing read means the end.
    fn read(self: Box<Self>, buffer: Vec<u8>) -> Step<dyn Source>;
}

/// Where bytes go. Dropping it tells the peer that no more will come.
trait Sink {
    /// Writes everything, and gives the buffer back.
    fn write(self: Box<Self>, data: Vec<u8>) -> Step<dyn Sink>;
}

struct Reader {
    state: ReadState,
    buffer: Vec<u8>,
    position: usize,
}

enum ReadState {
    Idle(Box<dyn Source>),
    Reading(Step<dyn Source>),
    Ended,
    Broken,
}

impl Reader {
    fn filled(&self) -> &[u8] {
        self.buffer.get(self.position..).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }

    /// Waits until something is filled or the end is reached; answers how many bytes came in.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        loop {
            if !self.filled().is_empty() {
                return Poll::Ready(Ok(0));
            }
            match std::mem::replace(&mut self.state, ReadState::Broken) {
                ReadState::Idle(source) => {
                    let mut buffer = std::mem::take(&mut self.buffer);
                    buffer.clear();
                    buffer.reserve(READ_MAX);
                    self.position = 0;
                    self.state = ReadState::Reading(source.read(buffer));
                }
                ReadState::Reading(mut reading) => {
                    let Poll::Ready((source, result)) = reading.as_mut().poll(cx) else {
                        self.state = ReadState::Reading(reading);
                        return Poll::Pending;
                    };
                    self.buffer = result?;
                    let ended = self.buffer.is_empty();
                    self.state = if ended { ReadState::Ended } else { ReadState::Idle(source) };
                    return Poll::Ready(Ok(u64::try_from(self.buffer.len()).unwrap_or_default()));
                }
                ReadState::Ended => {
                    self.state = ReadState::Ended;
                    return Poll::Ready(Ok(0));
                }
                ReadState::Broken => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
        }
    }
}

struct Writer {
    state: WriteState,
    /// Accepted, and not handed to the host yet.
    waiting: Vec<u8>,
    /// A buffer to use again.
    spare: Vec<u8>,
    cork: Cork,
}

/// Puts a flush off by one turn, so that others may add to it.
///
/// For one who writes alone that is a way out of the sandbox and back for nothing, so it is left where it
/// gained nothing a few times, and tried again now and then.
#[derive(Default)]
struct Cork {
    /// Bytes that waited when the flush was put off.
    put_off: Option<usize>,
    /// How often in a row nobody added anything.
    in_vain: u32,
    /// Flushes since it was left.
    skipped: u32,
}

impl Cork {
    const IN_VAIN_MAX: u32 = 4;
    const SKIPPED_MAX: u32 = 32;

    /// Whether to put off the flush of so many bytes.
    fn puts_off(&mut self, waiting: usize) -> bool {
        if let Some(before) = self.put_off.take() {
            self.in_vain = if waiting > before { 0 } else { self.in_vain + 1 };
            return false;
        }
        if self.in_vain >= Self::IN_VAIN_MAX && self.skipped < Self::SKIPPED_MAX {
            self.skipped += 1;
            return false;
        }
        self.skipped = 0;
        self.put_off = Some(waiting);
        true
    }
}

enum WriteState {
    Idle(Box<dyn Sink>),
    Writing(Step<dyn Sink>),
    Closed,
    Broken,
}

impl Writer {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= WRITE_MAX {
            ready!(self.poll_drain(cx))?;
        }
        if matches!(self.state, WriteState::Closed | WriteState::Broken) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WRITE_MAX.saturating_sub(self.waiting.len()).min(data.len());
        self.waiting.extend_from_slice(data.get(..room).unwrap_or_default());
        Poll::Ready(Ok(room))
    }

    /// Hands over what waits; mostly one turn later than asked, so that what else is written in this turn
    /// joins.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_ready = !self.waiting.is_empty() && matches!(self.state, WriteState::Idle(_));
        if is_ready && self.cork.puts_off(self.waiting.len()) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_drain(cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match std::mem::replace(&mut self.state, WriteState::Broken) {
                WriteState::Idle(sink) if self.waiting.is_empty() => {
                    self.state = WriteState::Idle(sink);
                    return Poll::Ready(Ok(()));
                }
                WriteState::Idle(sink) => {
                    self.cork.put_off = None;
                    let data =
                        std::mem::replace(&mut self.waiting, std::mem::take(&mut self.spare));
                    self.state = WriteState::Writing(sink.write(data));
                }
                WriteState::Writing(mut writing) => {
                    let Poll::Ready((sink, result)) = writing.as_mut().poll(cx) else {
                        self.state = WriteState::Writing(writing);
                        return Poll::Pending;
                    };
                    self.spare = result?;
                    self.spare.clear();
                    self.state = WriteState::Idle(sink);
                }
                WriteState::Closed => {
                    self.state = WriteState::Closed;
                    return Poll::Ready(Ok(()));
                }
                WriteState::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.state = WriteState::Closed;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
