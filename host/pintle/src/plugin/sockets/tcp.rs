//! `wasi:sockets/types.tcp-socket`: connects, sends and receives; nothing else is granted.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::ReadHalf;
use tokio::sync::oneshot;
use wasmtime::component::{Access, Accessor, FutureReader, Resource, StreamReader};

use super::streams::{Ended, Peer, Receiver, Sender, Transmitter};
use super::types::{
    self, Duration, ErrorCode, HostTcpSocket, HostTcpSocketWithStore, IpAddressFamily,
    IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use super::{DialError, Dialer, HasNetwork, Link};
use crate::plugin::grants::{Host, Target};
use crate::plugin::network::NetworkCtxView;

/// A TCP socket of a guest.
#[allow(unreachable_pub, reason = "the generated bindings export it")]
pub struct TcpSocket {
    family: IpAddressFamily,
    state: State,
}

enum State {
    Unconnected,
    Connecting,
    Connected(Connection),
    Closed,
}

struct Connection {
    /// What the guest connected to, which may be a synthetic address.
    remote: SocketAddr,
    local_port: u16,
    peer: Peer,
    receive: Option<ReadHalf<Link>>,
    send: Option<Sender>,
}

type Answer<T> = wasmtime::Result<Result<T, ErrorCode>>;

impl NetworkCtxView<'_> {
    /// Checks the state of the socket and finds out what `remote` stands for.
    fn start_connect(
        &mut self,
        socket: &Resource<TcpSocket>,
        remote: SocketAddr,
    ) -> Answer<Target> {
        let socket = self.table.get_mut(socket)?;
        if !matches!(socket.state, State::Unconnected) {
            return Ok(Err(ErrorCode::InvalidState));
        }
        let same_family = match socket.family {
            IpAddressFamily::Ipv4 => remote.is_ipv4(),
            IpAddressFamily::Ipv6 => remote.is_ipv6(),
        };
        let mapped = remote.ip() != remote.ip().to_canonical();
        if !same_family || mapped || remote.port() == 0 {
            return Ok(Err(ErrorCode::InvalidArgument));
        }
        socket.state = State::Connecting;
        let name = match remote.ip() {
            IpAddr::V6(address) => self.network.names.name_of(address),
            IpAddr::V4(_) => None,
        };
        Ok(Ok(match name {
            Some(name) => Target { host: Host::Name(name.to_owned()), port: remote.port() },
            None => Target::from(remote),
        }))
    }

    fn finish_connect(
        &mut self,
        socket: &Resource<TcpSocket>,
        remote: SocketAddr,
        target: Target,
        result: Result<Link, DialError>,
    ) -> Answer<()> {
        let dialer = Arc::clone(&self.network.dialer);
        let socket = self.table.get_mut(socket)?;
        match result {
            Ok(link) => {
                let local_port = link.local().port();
                let (receive, send) = tokio::io::split(link);
                let peer = Peer { dialer, target };
                let send = Some(Sender::new(send, peer.clone()));
                let receive = Some(receive);
                let connection = Connection { remote, local_port, peer, receive, send };
                socket.state = State::Connected(connection);
                Ok(Ok(()))
            }
            Err(error) => {
                socket.state = State::Closed;
                Ok(Err(ErrorCode::from(error)))
            }
        }
    }

    fn dialer(&self) -> Arc<Dialer> {
        Arc::clone(&self.network.dialer)
    }

    /// Counts and logs the use of something that guests never have.
    pub(super) fn refuse(&self, what: &str) -> ErrorCode {
        let dialer = &self.network.dialer;
        let sentence = format!(
            "backend {}: {what} denied; plugins only connect, over TCP, to what endpoints and allow \
             name",
            dialer.backend
        );
        dialer.counters.refused(&dialer.backend, what, sentence);
        ErrorCode::AccessDenied
    }
}

impl TcpSocket {
    fn connection(&mut self) -> Result<&mut Connection, ErrorCode> {
        match &mut self.state {
            State::Connected(connection) => Ok(connection),
            State::Unconnected | State::Connecting | State::Closed => Err(ErrorCode::InvalidState),
        }
    }

    fn take_sender(&mut self) -> Result<Sender, ErrorCode> {
        self.connection()?.send.take().ok_or(ErrorCode::InvalidState)
    }

    fn take_receiver(&mut self) -> Result<(ReadHalf<Link>, Peer), ErrorCode> {
        let connection = self.connection()?;
        let half = connection.receive.take().ok_or(ErrorCode::InvalidState)?;
        Ok((half, connection.peer.clone()))
    }
}

impl<T: Send> HostTcpSocketWithStore<T> for HasNetwork {
    async fn connect(
        accessor: &Accessor<T, Self>,
        socket: Resource<TcpSocket>,
        remote: IpSocketAddress,
    ) -> Answer<()> {
        let remote = SocketAddr::from(remote);
        let (target, dialer) = accessor.with(|mut access| {
            let mut view = access.get();
            Ok::<_, wasmtime::Error>((view.start_connect(&socket, remote)?, view.dialer()))
        })?;
        let target = match target {
            Ok(target) => target,
            Err(code) => return Ok(Err(code)),
        };
        let result = dialer.dial(target.clone()).await;
        accessor.with(|mut access| access.get().finish_connect(&socket, remote, target, result))
    }

    fn listen(
        mut access: Access<'_, T, Self>,
        _: Resource<TcpSocket>,
    ) -> Answer<StreamReader<Resource<TcpSocket>>> {
        Ok(Err(access.get().refuse("listening")))
    }

    fn send(
        mut access: Access<'_, T, Self>,
        socket: Resource<TcpSocket>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Ended>> {
        let (ended, end) = oneshot::channel();
        match access.get().table.get_mut(&socket)?.take_sender() {
            Ok(sender) => data.pipe(&mut access, Transmitter::new(sender, ended))?,
            Err(code) => {
                data.close(&mut access)?;
                let _ = ended.send(Err(code));
            }
        }
        FutureReader::new(&mut access, end)
    }

    fn receive(
        mut access: Access<'_, T, Self>,
        socket: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Ended>)> {
        let (ended, end) = oneshot::channel();
        let stream = match access.get().table.get_mut(&socket)?.take_receiver() {
            Ok((half, peer)) => StreamReader::new(&mut access, Receiver::new(half, ended, peer))?,
            Err(code) => {
                let _ = ended.send(Err(code));
                StreamReader::new(&mut access, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut access, end)?))
    }
}

/// The host owns the options of its sockets: they would let a guest undo what it relies on.
const OPTION: ErrorCode = ErrorCode::NotSupported;

impl HostTcpSocket for NetworkCtxView<'_> {
    fn create(&mut self, family: IpAddressFamily) -> Answer<Resource<TcpSocket>> {
        Ok(Ok(self.table.push(TcpSocket { family, state: State::Unconnected })?))
    }

    fn bind(&mut self, _: Resource<TcpSocket>, _: IpSocketAddress) -> Result<(), ErrorCode> {
        Err(self.refuse("binding a TCP socket"))
    }

    /// The port is real, the address is not shown: it would tell the guest about the host's network.
    fn get_local_address(&mut self, socket: Resource<TcpSocket>) -> Answer<IpSocketAddress> {
        let socket = self.table.get_mut(&socket)?;
        let unspecified = match socket.family {
            IpAddressFamily::Ipv4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddressFamily::Ipv6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        Ok(socket
            .connection()
            .map(|connection| SocketAddr::new(unspecified, connection.local_port).into()))
    }

    fn get_remote_address(&mut self, socket: Resource<TcpSocket>) -> Answer<IpSocketAddress> {
        let socket = self.table.get_mut(&socket)?;
        Ok(socket.connection().map(|connection| connection.remote.into()))
    }

    fn get_is_listening(&mut self, _: Resource<TcpSocket>) -> bool {
        false
    }

    fn get_address_family(
        &mut self,
        socket: Resource<TcpSocket>,
    ) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&socket)?.family)
    }

    fn set_listen_backlog_size(&mut self, _: Resource<TcpSocket>, _: u64) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_keep_alive_enabled(&mut self, _: Resource<TcpSocket>) -> Result<bool, ErrorCode> {
        Err(OPTION)
    }

    fn set_keep_alive_enabled(&mut self, _: Resource<TcpSocket>, _: bool) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_keep_alive_idle_time(&mut self, _: Resource<TcpSocket>) -> Result<Duration, ErrorCode> {
        Err(OPTION)
    }

    fn set_keep_alive_idle_time(
        &mut self,
        _: Resource<TcpSocket>,
        _: Duration,
    ) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_keep_alive_interval(&mut self, _: Resource<TcpSocket>) -> Result<Duration, ErrorCode> {
        Err(OPTION)
    }

    fn set_keep_alive_interval(
        &mut self,
        _: Resource<TcpSocket>,
        _: Duration,
    ) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_keep_alive_count(&mut self, _: Resource<TcpSocket>) -> Result<u32, ErrorCode> {
        Err(OPTION)
    }

    fn set_keep_alive_count(&mut self, _: Resource<TcpSocket>, _: u32) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_hop_limit(&mut self, _: Resource<TcpSocket>) -> Result<u8, ErrorCode> {
        Err(OPTION)
    }

    fn set_hop_limit(&mut self, _: Resource<TcpSocket>, _: u8) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_receive_buffer_size(&mut self, _: Resource<TcpSocket>) -> Result<u64, ErrorCode> {
        Err(OPTION)
    }

    fn set_receive_buffer_size(&mut self, _: Resource<TcpSocket>, _: u64) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn get_send_buffer_size(&mut self, _: Resource<TcpSocket>) -> Result<u64, ErrorCode> {
        Err(OPTION)
    }

    fn set_send_buffer_size(&mut self, _: Resource<TcpSocket>, _: u64) -> Result<(), ErrorCode> {
        Err(OPTION)
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(socket)?;
        Ok(())
    }
}

impl types::Host for NetworkCtxView<'_> {}

impl From<DialError> for ErrorCode {
    fn from(error: DialError) -> Self {
        match &error {
            DialError::Denied(_) => Self::AccessDenied,
            DialError::Timeout { .. } => Self::Timeout,
            DialError::Unreachable { source, .. } => match source.kind() {
                ErrorKind::ConnectionRefused => Self::ConnectionRefused,
                ErrorKind::ConnectionReset => Self::ConnectionReset,
                ErrorKind::ConnectionAborted => Self::ConnectionAborted,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                    Self::RemoteUnreachable
                }
                ErrorKind::TimedOut => Self::Timeout,
                _ => Self::Other(Some(error.to_string())),
            },
            DialError::Unresolvable { .. }
            | DialError::Limit { .. }
            | DialError::Tls(_)
            | DialError::Stopping { .. } => Self::Other(Some(error.to_string())),
        }
    }
}

impl From<IpSocketAddress> for SocketAddr {
    fn from(address: IpSocketAddress) -> Self {
        match address {
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => {
                Self::from(([a, b, c, d], port))
            }
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, address, .. }) => {
                let (a, b, c, d, e, f, g, h) = address;
                Self::from(([a, b, c, d, e, f, g, h], port))
            }
        }
    }
}

impl From<SocketAddr> for IpSocketAddress {
    fn from(address: SocketAddr) -> Self {
        let port = address.port();
        match address.ip() {
            IpAddr::V4(ip) => Self::Ipv4(Ipv4SocketAddress { port, address: ip.octets().into() }),
            IpAddr::V6(ip) => Self::Ipv6(Ipv6SocketAddress {
                port,
                flow_info: 0,
                address: ip.segments().into(),
                scope_id: 0,
            }),
        }
    }
}
