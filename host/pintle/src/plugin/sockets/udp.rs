//! `wasi:sockets/types.udp-socket`: never granted, so no socket ever exists.

use wasmtime::component::{Accessor, Resource};

use super::HasNetwork;
use super::types::{
    ErrorCode, HostUdpSocket, HostUdpSocketWithStore, IpAddressFamily, IpSocketAddress,
};
use crate::plugin::network::NetworkCtxView;

/// A UDP socket of a guest, of which there are none.
#[allow(unreachable_pub, reason = "the generated bindings export it")]
#[derive(Debug)]
pub enum UdpSocket {}

type Refused<T> = Result<T, ErrorCode>;

impl<T: Send> HostUdpSocketWithStore<T> for HasNetwork {
    async fn send(
        _: &Accessor<T, Self>,
        _: Resource<UdpSocket>,
        _: Vec<u8>,
        _: Option<IpSocketAddress>,
    ) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    async fn receive(
        _: &Accessor<T, Self>,
        _: Resource<UdpSocket>,
    ) -> Refused<(Vec<u8>, IpSocketAddress)> {
        Err(ErrorCode::InvalidState)
    }
}

impl HostUdpSocket for NetworkCtxView<'_> {
    fn create(&mut self, _: IpAddressFamily) -> Refused<Resource<UdpSocket>> {
        Err(self.refuse("creating a UDP socket"))
    }

    fn bind(&mut self, _: Resource<UdpSocket>, _: IpSocketAddress) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    fn connect(&mut self, _: Resource<UdpSocket>, _: IpSocketAddress) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    fn disconnect(&mut self, _: Resource<UdpSocket>) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    fn get_local_address(&mut self, _: Resource<UdpSocket>) -> Refused<IpSocketAddress> {
        Err(ErrorCode::InvalidState)
    }

    fn get_remote_address(&mut self, _: Resource<UdpSocket>) -> Refused<IpSocketAddress> {
        Err(ErrorCode::InvalidState)
    }

    fn get_address_family(&mut self, _: Resource<UdpSocket>) -> IpAddressFamily {
        IpAddressFamily::Ipv6
    }

    fn get_unicast_hop_limit(&mut self, _: Resource<UdpSocket>) -> Refused<u8> {
        Err(ErrorCode::InvalidState)
    }

    fn set_unicast_hop_limit(&mut self, _: Resource<UdpSocket>, _: u8) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    fn get_receive_buffer_size(&mut self, _: Resource<UdpSocket>) -> Refused<u64> {
        Err(ErrorCode::InvalidState)
    }

    fn set_receive_buffer_size(&mut self, _: Resource<UdpSocket>, _: u64) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    fn get_send_buffer_size(&mut self, _: Resource<UdpSocket>) -> Refused<u64> {
        Err(ErrorCode::InvalidState)
    }

    fn set_send_buffer_size(&mut self, _: Resource<UdpSocket>, _: u64) -> Refused<()> {
        Err(ErrorCode::InvalidState)
    }

    fn drop(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(socket)?;
        Ok(())
    }
}
