//! The two directions of a connection as streams of the guest.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, Source, StreamConsumer, StreamProducer, StreamResult};

use super::types::ErrorCode;
use super::{Dialer, Link};
use crate::plugin::grants::Target;
use crate::plugin::tls::explain_stream;

/// What one read of the host takes; guests bring their own buffers.
const READ_SIZE: usize = 64 * 1024;
/// How long the end of a connection may take to be written once the guest has let go of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a direction ended; goes to the future that the guest holds.
pub(super) type Ended = Result<(), ErrorCode>;

/// What a connection goes to, for the texts of its errors.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) dialer: Arc<Dialer>,
    pub(super) target: Target,
}

impl Peer {
    fn explain(&self, error: &io::Error) -> ErrorCode {
        let text = explain_stream(&self.target, error);
        self.dialer.counters.failed(&self.dialer.backend, &text);
        match error.kind() {
            ErrorKind::ConnectionReset => ErrorCode::ConnectionReset,
            ErrorKind::ConnectionAborted => ErrorCode::ConnectionAborted,
            ErrorKind::BrokenPipe => ErrorCode::ConnectionBroken,
            ErrorKind::TimedOut => ErrorCode::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                ErrorCode::RemoteUnreachable
            }
            _ => ErrorCode::Other(Some(text)),
        }
    }
}

/// Reads from the connection straight into the guest's buffer.
pub(super) struct Receiver {
    open: Option<(ReadHalf<Link>, oneshot::Sender<Ended>)>,
    peer: Peer,
}

impl Receiver {
    pub(super) fn new(half: ReadHalf<Link>, ended: oneshot::Sender<Ended>, peer: Peer) -> Self {
        Self { open: Some((half, ended)), peer }
    }

    fn end(&mut self, how: Ended) {
        if let Some((_, ended)) = self.open.take() {
            // Nobody listens when the guest dropped the future.
            let _ = ended.send(how);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

impl<D> StreamProducer<D> for Receiver {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        destination: Destination<'a, u8, BytesMut>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Some((half, _)) = self.open.as_mut() else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        // A read of nothing asks for readiness, which TLS cannot know without reading.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let mut destination = destination.as_direct(store, READ_SIZE);
        let mut buffer = ReadBuf::new(destination.remaining());
        let result = match Pin::new(half).poll_read(context, &mut buffer) {
            Poll::Ready(result) => result.map(|()| buffer.filled().len()),
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        match result {
            Ok(0) => self.end(Ok(())),
            Ok(count) => {
                destination.mark_written(count);
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Err(error) => {
                let code = self.peer.explain(&error);
                self.end(Err(code));
            }
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

/// The sending half of a connection, which is closed in good order when it is let go of.
pub(super) struct Sender {
    half: Option<WriteHalf<Link>>,
    peer: Peer,
}

impl Sender {
    pub(super) fn new(half: WriteHalf<Link>, peer: Peer) -> Self {
        Self { half: Some(half), peer }
    }

    /// Sends what is left and the end, in the background where that has to wait, and tells `ended`.
    fn close(&mut self, ended: Option<oneshot::Sender<Ended>>) {
        let Some(mut half) = self.half.take() else { return };
        let peer = self.peer.clone();
        let tell = move |result: io::Result<()>| {
            if let Some(ended) = ended {
                let _ = ended.send(result.map_err(|error| peer.explain(&error)));
            }
        };
        // Plain TCP, and TLS with room in the socket's buffer, end without waiting.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(result) = Pin::new(&mut half).poll_shutdown(&mut context) {
            return tell(result);
        }
        self.peer.dialer.runtime.spawn(async move {
            let late = || io::Error::from(ErrorKind::TimedOut);
            tell(timeout(CLOSE_TIMEOUT, half.shutdown()).await.unwrap_or_else(|_| Err(late())));
        });
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.close(None);
    }
}

/// Writes to the connection straight from the guest's buffer.
///
/// A write completes when TLS holds nothing back: what it kept would go out only with the next write,
/// for which a guest that waits for the answer would wait for ever.
pub(super) struct Transmitter {
    sender: Sender,
    ended: Option<oneshot::Sender<Ended>>,
    /// Bytes of the current write that were taken but not flushed.
    taken: usize,
}

impl Transmitter {
    pub(super) fn new(sender: Sender, ended: oneshot::Sender<Ended>) -> Self {
        Self { sender, ended: Some(ended), taken: 0 }
    }

    fn fail(&mut self, error: &io::Error) {
        let code = self.sender.peer.explain(error);
        self.sender.half = None;
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(Err(code));
        }
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.sender.close(self.ended.take());
    }
}

/// Writes some of `bytes` and flushes; `taken` remembers what was written when the flush must wait.
fn poll_write_through(
    half: &mut WriteHalf<Link>,
    context: &mut Context<'_>,
    bytes: &[u8],
    taken: &mut usize,
) -> Poll<io::Result<()>> {
    if *taken == 0 {
        *taken = ready!(Pin::new(&mut *half).poll_write(context, bytes))?;
        if *taken == 0 {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
    }
    Pin::new(half).poll_flush(context)
}

impl<D> StreamConsumer<D> for Transmitter {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<D>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let Some(half) = this.sender.half.as_mut() else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let mut source = source.as_direct(store);
        if source.remaining().is_empty() {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        match poll_write_through(half, context, source.remaining(), &mut this.taken) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                this.fail(&error);
                return Poll::Ready(Ok(StreamResult::Dropped));
            }
            // The guest gives up the write; what was taken goes out with the next one, or the end.
            Poll::Pending if finish && this.taken > 0 => {}
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        }
        source.mark_read(std::mem::take(&mut this.taken));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, BufWriter, duplex};

    use super::*;

    #[tokio::test]
    async fn a_write_is_complete_when_nothing_is_held_back() {
        // Like TLS over a full socket: takes 32 bytes, of which 16 find room.
        let (inner, mut outer) = duplex(16);
        let link = Link::for_test(BufWriter::with_capacity(64, inner));
        let (_receive, mut half) = tokio::io::split(link);
        let mut context = Context::from_waker(Waker::noop());
        let mut taken = 0;
        let bytes = [7; 32];
        assert!(poll_write_through(&mut half, &mut context, &bytes, &mut taken).is_pending());
        assert_eq!(taken, 32);
        let mut first = [0; 16];
        outer.read_exact(&mut first).await.unwrap();
        let written = poll_write_through(&mut half, &mut context, &bytes, &mut taken);
        assert!(matches!(written, Poll::Ready(Ok(()))));
        let mut second = [0; 16];
        outer.read_exact(&mut second).await.unwrap();
        assert_eq!((first, second), ([7; 16], [7; 16]));
    }
}
