//! The TCP connection below everything else: all bytes of a backend pass here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::faults::{Exposed, Faults};
use crate::plugin::network::NetworkCounters;

/// A counted TCP connection. Cutting, delaying or blackholing a backend belongs here and nowhere
/// else: TLS, HTTP and the guest's own protocols are all above.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    counters: Arc<NetworkCounters>,
    exposed: Option<Exposed>,
    _permit: OwnedSemaphorePermit,
}

impl Wire {
    /// Takes over a new connection, and switches off the delay of small segments: without that an
    /// HTTP/2 client in the guest waits for an acknowledgement before each request.
    pub(crate) fn new(
        stream: TcpStream,
        counters: Arc<NetworkCounters>,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        counters.connection_opened();
        Ok(Self { stream, counters, exposed: None, _permit: permit })
    }

    /// Lets `faults` happen to this connection.
    pub(crate) fn exposed_to(mut self, faults: &Arc<Faults>) -> Self {
        self.exposed = Some(Exposed::new(faults));
        self
    }

    /// Waits or fails where a fault says so.
    fn pass(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exposed.as_ref().map_or(Poll::Ready(Ok(())), |exposed| exposed.pass(context))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.counters.connection_closed();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(exposed) = &self.exposed {
            ready!(exposed.hear(context))?;
        }
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let received = buffer.filled().len() - before;
        self.counters.received(received);
        if received > 0
            && let Some(exposed) = &self.exposed
            && let Err(lost) = exposed.receive()
        {
            buffer.set_filled(before);
            return Poll::Ready(Err(lost));
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.pass(context))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.counters.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.pass(context))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.counters.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn small_segments_are_never_delayed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!stream.nodelay().unwrap(), "the system's default has changed");
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let wire = Wire::new(stream, Arc::default(), permit).unwrap();
        assert!(wire.stream.nodelay().unwrap());
    }
}
