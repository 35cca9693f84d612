//! Ordinary sockets, for tests of protocol code against real servers. Two threads per connection
//! keep this free of any reactor.

use super::{ConnectError, ConnectStep, Sink, Source, Step};
use crate::Endpoint;
use futures::channel::oneshot;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;

type Halves = (Box<dyn Source>, Box<dyn Sink>);

pub(super) async fn connect(endpoint: &Endpoint) -> Result<Halves, ConnectError> {
    let (host, port) = (endpoint.host.clone(), endpoint.port);
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let found = in_thread(move || Ok((name.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>()));
    let addresses = found.await.map_err(|error| {
        let detail = Some(error.to_string());
        ConnectError::new(endpoint, ConnectStep::LookUp, "name-unresolvable", detail)
    })?;
    let stream = in_thread(move || TcpStream::connect(addresses.as_slice())).await;
    let stream = stream.map_err(|error| {
        ConnectError::new(endpoint, ConnectStep::Connect, reason(&error), Some(error.to_string()))
    })?;
    // Without it small requests wait for acknowledgements; the connection works all the same.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    Ok((Box::new(SocketSource(Arc::clone(&stream))), Box::new(SocketSink(stream))))
}

fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection-refused",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::PermissionDenied => "access-denied",
        _ => "other",
    }
}

async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waits any more when the connection was dropped.
        let _ = done.send(work());
    });
    result.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

struct SocketSource(Arc<TcpStream>);

impl Drop for SocketSource {
    fn drop(&mut self) {
        // The peer may have closed it before.
        let _ = self.0.shutdown(Shutdown::Read);
    }
}

impl Source for SocketSource {
    fn read(self: Box<Self>, mut buffer: Vec<u8>) -> Step<dyn Source> {
        Box::pin(async move {
            let stream = Arc::clone(&self.0);
            let read = in_thread(move || {
                buffer.resize(buffer.capacity(), 0);
                let count = (&*stream).read(&mut buffer)?;
                buffer.truncate(count);
                Ok(buffer)
            });
            let result = read.await;
            (self as Box<dyn Source>, result)
        })
    }
}

struct SocketSink(Arc<TcpStream>);

impl Drop for SocketSink {
    fn drop(&mut self) {
        // The peer may have closed it before.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

impl Sink for SocketSink {
    fn write(self: Box<Self>, data: Vec<u8>) -> Step<dyn Sink> {
        Box::pin(async move {
            let stream = Arc::clone(&self.0);
            let written = in_thread(move || {
                (&*stream).write_all(&data)?;
                Ok(data)
            });
            let result = written.await;
            (self as Box<dyn Sink>, result)
        })
    }
}
