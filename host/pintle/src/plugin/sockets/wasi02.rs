//! The doors to WASI 0.2 sockets: present, since standard libraries import them, and closed.
//!
//! A call through them would block the whole incarnation until it returned. Only what creates a
//! socket or a look-up is replaced; everything else needs one of these first.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    self, HostResolveAddressStream, IpAddress, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{
    self, ErrorCode, HostNetwork, IpAddressFamily, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::{self, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::{self, UdpSocket};
use wasmtime_wasi::p2::{DynPollable, SocketError, SocketResult};

use super::HasNetwork;
use crate::plugin::network::{NetworkCtxView, NetworkView};

pub(super) fn add_to_linker<T: NetworkView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    tcp_create_socket::add_to_linker::<T, HasNetwork>(linker, T::network)?;
    udp_create_socket::add_to_linker::<T, HasNetwork>(linker, T::network)?;
    ip_name_lookup::add_to_linker::<T, HasNetwork>(linker, T::network)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl NetworkCtxView<'_> {
    fn refuse_wasi02(&self, what: &str) -> SocketError {
        let dialer = &self.network.dialer;
        let sentence = format!(
            "backend {}: {what} of WASI 0.2 denied; use wasi:sockets 0.3, in Rust through the \
             connection of the plugin SDK instead of std::net or tokio::net",
            dialer.backend
        );
        dialer.counters.refused(&dialer.backend, what, sentence);
        ErrorCode::AccessDenied.into()
    }
}

impl tcp_create_socket::Host for NetworkCtxView<'_> {
    fn create_tcp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        Err(self.refuse_wasi02("TCP socket"))
    }
}

impl udp_create_socket::Host for NetworkCtxView<'_> {
    async fn create_udp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Err(self.refuse_wasi02("UDP socket"))
    }
}

impl ip_name_lookup::Host for NetworkCtxView<'_> {
    fn resolve_addresses(
        &mut self,
        _: Resource<Network>,
        _: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        Err(self.refuse_wasi02("name look-up"))
    }
}

/// No look-up is ever handed out, so none of these is reached.
impl HostResolveAddressStream for NetworkCtxView<'_> {
    fn resolve_next_address(
        &mut self,
        _: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        Err(ErrorCode::InvalidState.into())
    }

    fn subscribe(
        &mut self,
        _: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime::bail!("no WASI 0.2 look-up exists")
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl network::Host for NetworkCtxView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        _: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(None)
    }
}

impl HostNetwork for NetworkCtxView<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}
