//! Making connections: grant, resolve, check, connect, TLS. The only way out for any guest.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::{Faults, Resolver, wire::Wire};
use crate::plugin::grants::{Denial, Grant, Grants, Host, Target};
use crate::plugin::limits::Pace;
use crate::plugin::network::{NetworkCounters, NetworkLimits, NetworkOptions};
use crate::plugin::tls::{Purpose, TlsTable};

/// Addresses of one name that are tried; more than any sensible name has.
const ADDRESSES_TRIED_MAX: usize = 16;

/// Connects for one backend.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) backend: String,
    pub(crate) grants: Grants,
    pub(crate) tls: TlsTable,
    pub(crate) limits: NetworkLimits,
    pub(crate) counters: Arc<NetworkCounters>,
    pub(crate) runtime: Handle,
    /// Where connections live that carry the guest's own bytes.
    guests: Handle,
    /// What goes wrong on purpose; empty but in measurements of plugins.
    pub(crate) faults: OnceLock<Arc<Faults>>,
    resolver: Arc<dyn Resolver>,
    connections: Arc<Semaphore>,
    /// Spaces the beginnings of connections.
    pace: Mutex<Pace>,
}

/// Whether a connection speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// As the operator set it, for bytes that the guest speaks.
    AsSet,
    /// Never: a request whose scheme is `http`.
    Plain,
    /// Always: a request whose scheme is `https`.
    Https,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Denied(Denial),
    #[error("{name} cannot be resolved: {source}")]
    Unresolvable { name: String, source: io::Error },
    #[error("connection to {target} failed: {source}")]
    Unreachable { target: Target, source: io::Error },
    #[error("connection to {target} timed out after {} ms", timeout.as_millis())]
    Timeout { target: Target, timeout: Duration },
    #[error(
        "connection to {target} refused by the limit of {limit} connections; raise limits.connections of the backend"
    )]
    Limit { target: Target, limit: usize },
    #[error("{0}")]
    Tls(String),
    #[error("connection to {target} given up: the host is stopping")]
    Stopping { target: Target },
}

/// A connection that guest bytes or HTTP requests go through.
pub(crate) struct Link {
    stream: Box<dyn Duplex>,
    /// What had arrived when a write failed, and nobody has read yet.
    arrived: Vec<u8>,
    local: SocketAddr,
    speaks_h2: bool,
}

/// A wire, or TLS over one.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

impl Dialer {
    pub(crate) fn new(options: NetworkOptions, grants: Grants, tls: TlsTable) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(options.limits.connections_max)),
            pace: Mutex::new(Pace::per_second(options.limits.connects_per_second)),
            backend: options.backend,
            grants,
            tls,
            limits: options.limits,
            counters: options.counters,
            runtime: options.runtime,
            guests: options.guests,
            faults: OnceLock::new(),
            resolver: options.resolver,
        }
    }

    /// Connects to `target` for the guest's own bytes. At the limit of connections it fails at once:
    /// the guest that would have to close one may be the one that waits.
    pub(crate) async fn dial(self: &Arc<Self>, target: Target) -> Result<Link, DialError> {
        let grant = self.check(&target)?;
        let permit = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| {
            self.count_failure(DialError::Limit {
                target: target.clone(),
                limit: self.limits.connections_max,
            })
        })?;
        self.establish(target, grant, permit, Security::AsSet).await
    }

    /// Connects to `target` for the HTTP pool. At the limit of connections it waits for one to end.
    pub(crate) async fn dial_for_http(
        self: &Arc<Self>,
        target: Target,
        security: Security,
    ) -> Result<Link, DialError> {
        let grant = self.check(&target)?;
        let permit = self.wait_for_permit(&target).await?;
        self.establish(target, grant, permit, security).await
    }

    /// Connects to the operator's proxy, which needs no grant.
    pub(crate) async fn dial_proxy(self: &Arc<Self>, proxy: Target) -> Result<Link, DialError> {
        let permit = self.wait_for_permit(&proxy).await?;
        self.establish(proxy, Grant::Written, permit, Security::Plain).await
    }

    /// Checks the grants for `target`, and counts a denial.
    pub(crate) fn check(&self, target: &Target) -> Result<Grant, DialError> {
        self.grants.check(target).map_err(|denial| self.count_failure(DialError::Denied(denial)))
    }

    pub(crate) fn count_failure(&self, error: DialError) -> DialError {
        match &error {
            DialError::Denied(denial) => self.counters.denied(&self.backend, denial),
            error => self.counters.failed(&self.backend, error),
        }
        error
    }

    async fn wait_for_permit(&self, target: &Target) -> Result<OwnedSemaphorePermit, DialError> {
        let acquire = Arc::clone(&self.connections).acquire_owned();
        match timeout(self.limits.connect_timeout, acquire).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(self.count_failure(DialError::Limit {
                target: target.clone(),
                limit: self.limits.connections_max,
            })),
        }
    }

    /// Makes the connection on the runtime of the sockets; dropping the future gives it up.
    async fn establish(
        self: &Arc<Self>,
        target: Target,
        grant: Grant,
        permit: OwnedSemaphorePermit,
        security: Security,
    ) -> Result<Link, DialError> {
        let pause = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.take(std::time::Instant::now())
        };
        if !pause.is_zero() {
            // It holds its permit meanwhile, so that no more than these ever wait.
            tokio::time::sleep(pause).await;
        }
        let dialer = Arc::clone(self);
        let name = target.clone();
        let task = AbortOnDropHandle::new(self.runtime.spawn(async move {
            let limit = dialer.limits.connect_timeout;
            let deadline = Instant::now() + limit;
            let connecting = dialer.connect(&target, grant, permit, security, deadline);
            match timeout_at(deadline, connecting).await {
                Ok(result) => result,
                Err(_) => Err(DialError::Timeout { target, timeout: limit }),
            }
        }));
        let result = task.await.unwrap_or(Err(DialError::Stopping { target: name }));
        result.map_err(|error| self.count_failure(error))
    }

    async fn connect(
        &self,
        target: &Target,
        grant: Grant,
        permit: OwnedSemaphorePermit,
        security: Security,
        deadline: Instant,
    ) -> Result<Link, DialError> {
        let unreachable = |source| DialError::Unreachable { target: target.clone(), source };
        let faults = self.faults.get();
        if let Some(faults) = faults {
            faults.admit().await.map_err(unreachable)?;
        }
        let (addresses, permit) = self.addresses(target, grant, permit).await?;
        let stream = connect_first(&addresses, target.port, deadline).await.map_err(unreachable)?;
        let stream = match security {
            Security::AsSet => self.hand_to_guests(stream).map_err(unreachable)?,
            Security::Plain | Security::Https => stream,
        };
        let local = stream.local_addr().map_err(unreachable)?;
        let wire = Wire::new(stream, Arc::clone(&self.counters), permit).map_err(unreachable)?;
        let wire = match faults {
            Some(faults) => wire.exposed_to(faults),
            None => wire,
        };
        let (tls, purpose) = match security {
            Security::Plain => (None, Purpose::Http),
            Security::AsSet => (self.tls.client_for(target), Purpose::Tcp),
            Security::Https => {
                let client = self.tls.client_for_https(target).map_err(DialError::Tls)?;
                (Some(client), Purpose::Http)
            }
        };
        match tls {
            None => {
                Ok(Link { stream: Box::new(wire), arrived: Vec::new(), local, speaks_h2: false })
            }
            Some(client) => {
                let stream = client.connect(target, purpose, wire).await;
                Ok(Link::over_tls(stream.map_err(DialError::Tls)?, local))
            }
        }
    }

    /// From now on the thread of the guests learns what arrives.
    fn hand_to_guests(&self, stream: TcpStream) -> io::Result<TcpStream> {
        let stream = stream.into_std()?;
        let _there = self.guests.enter();
        TcpStream::from_std(stream)
    }

    /// What `target` resolves to, without what the grants do not cover.
    ///
    /// A look-up that is given up goes on: the system's takes a thread until it has come to its end.
    /// So long it keeps the permit of its connection, and there are never more of them than that.
    async fn addresses(
        &self,
        target: &Target,
        grant: Grant,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Vec<IpAddr>, OwnedSemaphorePermit), DialError> {
        let name = match &target.host {
            Host::Address(address) => return Ok((vec![*address], permit)),
            Host::Name(name) => name,
        };
        let resolving = self.resolver.resolve(name);
        let looking_up = self.runtime.spawn(async move { (resolving.await, permit) });
        let stopping = |_| DialError::Stopping { target: target.clone() };
        let (resolved, permit) = looking_up.await.map_err(stopping)?;
        let resolved =
            resolved.map_err(|source| DialError::Unresolvable { name: name.clone(), source })?;
        let mut granted: Vec<IpAddr> = Vec::new();
        let mut denied = None;
        for address in resolved.into_iter().map(|address| address.to_canonical()) {
            match self.grants.check_resolved(target, grant, address) {
                Ok(()) if granted.contains(&address) => {}
                Ok(()) => granted.push(address),
                Err(denial) => denied = Some(denial),
            }
        }
        granted.truncate(ADDRESSES_TRIED_MAX);
        match denied {
            _ if !granted.is_empty() => Ok((granted, permit)),
            Some(denial) => Err(DialError::Denied(denial)),
            None => {
                let source = io::Error::new(io::ErrorKind::NotFound, "it has no address");
                Err(DialError::Unresolvable { name: name.clone(), source })
            }
        }
    }
}

/// Tries the addresses in turn, each for its share of the time that is left, so that one that
/// swallows packets does not use up the time of the next.
async fn connect_first(
    addresses: &[IpAddr],
    port: u16,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        match timeout(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {
                let text = format!("{address} did not answer within {} ms", share.as_millis());
                last = io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }
    Err(last)
}

impl Link {
    /// The address that the connection has on this side.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether HTTP/2 was agreed on.
    pub(crate) fn speaks_h2(&self) -> bool {
        self.speaks_h2
    }

    /// Speaks TLS for `target` over this connection, which leads there through a tunnel.
    pub(crate) async fn secure(self, target: &Target, dialer: &Dialer) -> Result<Self, DialError> {
        let client = dialer.tls.client_for_https(target).map_err(DialError::Tls)?;
        let local = self.local;
        let stream = client.connect(target, Purpose::Http, self).await.map_err(DialError::Tls)?;
        Ok(Self::over_tls(stream, local))
    }

    #[cfg(test)]
    pub(super) fn for_test(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        Self { stream: Box::new(stream), arrived: Vec::new(), local, speaks_h2: false }
    }

    fn over_tls<S: Duplex>(stream: TlsStream<S>, local: SocketAddr) -> Self {
        let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Self { stream: Box::new(stream), arrived: Vec::new(), local, speaks_h2 }
    }
}

/// Most bytes that are kept of what arrived before a write failed.
const ARRIVED_BYTES_MAX: usize = 64 << 10;

impl Link {
    /// Replaces the failure of a write by what the server said before it closed the connection, if
    /// it said something: a TLS alert tells why, and a broken pipe does not.
    fn explained<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error)) if is_cut(&error) => {
                Poll::Ready(Err(self.last_words(context).unwrap_or(error)))
            }
            other => other,
        }
    }

    /// Reads what has arrived; answers the error at its end, if there is one already.
    fn last_words(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        let mut piece = [0; 4096];
        while self.arrived.len() < ARRIVED_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return None,
                Poll::Ready(Ok(())) => self.arrived.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) if is_cut(&error) => return None,
                Poll::Ready(Err(error)) => return Some(error),
                Poll::Pending => return None,
            }
        }
        None
    }
}

/// Whether the connection was closed by the other side without a word at this layer.
fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.arrived.is_empty() {
            let len = self.arrived.len().min(buffer.remaining());
            let rest = self.arrived.split_off(len);
            buffer.put_slice(&std::mem::replace(&mut self.arrived, rest));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.explained(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.explained(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.explained(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that answers, says why it closes, and closes.
    struct Closing(Vec<Result<&'static [u8], &'static str>>);

    impl AsyncRead for Closing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.0.pop() {
                Some(Ok(bytes)) => buffer.put_slice(bytes),
                Some(Err(alert)) => return Poll::Ready(Err(io::Error::other(alert))),
                None => {}
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Closing {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_write_fails_with_what_the_server_said_before_it_closed() {
        let said = vec![Err("certificate required"), Ok(&b"answer"[..])];
        let mut link = Link::for_test(Closing(said));
        let error = link.write_all(b"request").await.unwrap_err();
        assert_eq!(error.to_string(), "certificate required");
        // And what it had answered is not lost.
        let mut answer = [0; 6];
        link.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn a_write_fails_as_it_does_when_the_server_said_nothing() {
        let error = Link::for_test(Closing(Vec::new())).write_all(b"request").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
