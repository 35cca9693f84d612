//! Connections through `wasi:sockets` 0.3.

use super::{ConnectError, ConnectStep, Sink, Source, Step};
use crate::Endpoint;
use std::io;
use std::rc::Rc;
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
    TcpSocket,
};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};

type Halves = (Box<dyn Source>, Box<dyn Sink>);
type Outcome = FutureReader<Result<(), ErrorCode>>;

pub(super) async fn connect(endpoint: &Endpoint) -> Result<Halves, ConnectError> {
    let addresses = look_up(endpoint).await?;
    let mut last = None;
    for address in addresses {
        match connect_to(address, endpoint.port).await {
            Ok(socket) => return Ok(halves(socket)),
            Err(code) => last = Some(code),
        }
    }
    let (reason, detail) = last.map_or(("name-unresolvable", None), describe);
    Err(ConnectError::new(endpoint, ConnectStep::Connect, reason, detail))
}

async fn look_up(endpoint: &Endpoint) -> Result<Vec<IpAddress>, ConnectError> {
    let name = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    ip_name_lookup::resolve_addresses(name.to_owned()).await.map_err(|code| {
        use ip_name_lookup::ErrorCode;
        let (reason, detail) = match code {
            ErrorCode::AccessDenied => ("access-denied", None),
            ErrorCode::InvalidArgument => ("invalid-argument", None),
            ErrorCode::NameUnresolvable => ("name-unresolvable", None),
            ErrorCode::TemporaryResolverFailure => ("temporary-resolver-failure", None),
            ErrorCode::PermanentResolverFailure => ("permanent-resolver-failure", None),
            ErrorCode::Other(detail) => ("other", detail),
        };
        ConnectError::new(endpoint, ConnectStep::LookUp, reason, detail)
    })
}

async fn connect_to(address: IpAddress, port: u16) -> Result<TcpSocket, ErrorCode> {
    let (family, remote) = match address {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => {
            let remote = Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(remote))
        }
    };
    let socket = TcpSocket::create(family)?;
    socket.connect(remote).await?;
    Ok(socket)
}

fn halves(socket: TcpSocket) -> Halves {
    let socket = Rc::new(socket);
    let (writer, outgoing) = wasip3::wit_stream::new();
    let sent = socket.send(outgoing);
    let (incoming, received) = socket.receive();
    let source =
        WasiSource { stream: incoming, outcome: Some(received), _socket: Rc::clone(&socket) };
    let sink = WasiSink { stream: writer, outcome: Some(sent), _socket: socket };
    (Box::new(source), Box::new(sink))
}

struct WasiSource {
    stream: StreamReader<u8>,
    outcome: Option<Outcome>,
    /// Keeps the socket open.
    _socket: Rc<TcpSocket>,
}

impl Source for WasiSource {
    fn read(mut self: Box<Self>, buffer: Vec<u8>) -> Step<dyn Source> {
        Box::pin(async move {
            let (status, buffer) = self.stream.read(buffer).await;
            let result = match status {
                StreamResult::Complete(_) => Ok(buffer),
                _ if !buffer.is_empty() => Ok(buffer),
                _ => finished(self.outcome.take()).await.map(|()| buffer),
            };
            (self as Box<dyn Source>, result)
        })
    }
}

struct WasiSink {
    stream: StreamWriter<u8>,
    outcome: Option<Outcome>,
    /// Keeps the socket open.
    _socket: Rc<TcpSocket>,
}

impl Sink for WasiSink {
    fn write(mut self: Box<Self>, data: Vec<u8>) -> Step<dyn Sink> {
        Box::pin(async move {
            let rest = self.stream.write_all(data).await;
            let result = if rest.is_empty() {
                Ok(rest)
            } else {
                let why = finished(self.outcome.take()).await;
                Err(why.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))
            };
            (self as Box<dyn Sink>, result)
        })
    }
}

/// How a direction of the connection ended.
async fn finished(outcome: Option<Outcome>) -> io::Result<()> {
    match outcome {
        Some(outcome) => outcome.await.map_err(to_io),
        None => Ok(()),
    }
}

fn to_io(code: ErrorCode) -> io::Error {
    let kind = match &code {
        ErrorCode::AccessDenied => io::ErrorKind::PermissionDenied,
        ErrorCode::Timeout => io::ErrorKind::TimedOut,
        ErrorCode::RemoteUnreachable => io::ErrorKind::HostUnreachable,
        ErrorCode::ConnectionRefused => io::ErrorKind::ConnectionRefused,
        ErrorCode::ConnectionBroken => io::ErrorKind::BrokenPipe,
        ErrorCode::ConnectionReset => io::ErrorKind::ConnectionReset,
        ErrorCode::ConnectionAborted => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    let (reason, detail) = describe(code);
    let text = reason.replace('-', " ");
    io::Error::new(kind, detail.map_or(text.clone(), |detail| format!("{text} ({detail})")))
}

fn describe(code: ErrorCode) -> (&'static str, Option<String>) {
    let reason = match code {
        ErrorCode::AccessDenied => "access-denied",
        ErrorCode::NotSupported => "not-supported",
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::OutOfMemory => "out-of-memory",
        ErrorCode::Timeout => "timeout",
        ErrorCode::InvalidState => "invalid-state",
        ErrorCode::AddressNotBindable => "address-not-bindable",
        ErrorCode::AddressInUse => "address-in-use",
        ErrorCode::RemoteUnreachable => "remote-unreachable",
        ErrorCode::ConnectionRefused => "connection-refused",
        ErrorCode::ConnectionBroken => "connection-broken",
        ErrorCode::ConnectionReset => "connection-reset",
        ErrorCode::ConnectionAborted => "connection-aborted",
        ErrorCode::DatagramTooLarge => "datagram-too-large",
        ErrorCode::Other(detail) => return ("other", detail),
    };
    (reason, None)
}
