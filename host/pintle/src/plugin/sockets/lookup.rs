//! `wasi:sockets/ip-name-lookup`: granted names become synthetic addresses; nothing is resolved yet.

use std::net::IpAddr;

use wasmtime::component::Accessor;

use super::HasNetwork;
use super::ip_name_lookup::{ErrorCode, Host as LookupHost, HostWithStore};
use super::types::IpAddress;
use crate::plugin::grants::Host;
use crate::plugin::network::NetworkCtxView;

impl NetworkCtxView<'_> {
    fn look_up(&mut self, name: &str) -> Result<IpAddr, ErrorCode> {
        let name = match name.parse() {
            Ok(Host::Name(name)) => name,
            // The interface wants addresses back as they are; `connect` checks them.
            Ok(Host::Address(address)) => return Ok(address),
            Err(_) => return Err(ErrorCode::InvalidArgument),
        };
        let dialer = &self.network.dialer;
        if let Err(denial) = dialer.grants.check_lookup(&name) {
            dialer.counters.denied(&dialer.backend, &denial);
            return Err(ErrorCode::AccessDenied);
        }
        self.network.names.address_of(&name).map(IpAddr::V6).ok_or_else(|| {
            let limit = dialer.limits.names_max;
            ErrorCode::Other(Some(format!("more than {limit} different names were looked up")))
        })
    }
}

impl<T: Send> HostWithStore<T> for HasNetwork {
    async fn resolve_addresses(
        accessor: &Accessor<T, Self>,
        name: String,
    ) -> Result<Vec<IpAddress>, ErrorCode> {
        let address = accessor.with(|mut access| access.get().look_up(&name))?;
        Ok(vec![address.into()])
    }
}

impl LookupHost for NetworkCtxView<'_> {}

impl From<IpAddr> for IpAddress {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address.octets().into()),
            IpAddr::V6(address) => Self::Ipv6(address.segments().into()),
        }
    }
}
