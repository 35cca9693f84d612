//! The guest's sockets: `wasi:sockets@0.3` as a TCP client, implemented by the host.
//!
//! A look-up answers with a synthetic address that stands for the name ([`Names`]). At `connect` the
//! host maps it back, checks the grants, resolves the name, checks what it resolved to, connects and
//! speaks TLS where the operator set it. The guest sees plain bytes. Bind, listen and UDP are refused.

use wasmtime::component::{HasData, Linker};

use crate::plugin::network::{NetworkCtxView, NetworkView};

mod dial;
mod faults;
mod lookup;
mod names;
mod resolve;
mod streams;
mod tcp;
mod udp;
mod wasi02;
mod wire;

pub(crate) use dial::{DialError, Dialer, Link, Security};
pub use faults::{Faults, Weather};
pub(crate) use names::Names;
#[cfg(test)]
pub(crate) use resolve::Resolving;
pub(crate) use resolve::{Resolver, SystemResolver};
#[allow(unreachable_pub, reason = "the generated bindings export them")]
pub use tcp::TcpSocket;
#[allow(unreachable_pub, reason = "the generated bindings export them")]
pub use udp::UdpSocket;

#[allow(missing_docs, unreachable_pub, reason = "generated from the interfaces")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit-wasi",
        world: "wasi:sockets/imports",
        imports: {
            "wasi:sockets/types.[static]tcp-socket.create": trappable,
            "wasi:sockets/types.[method]tcp-socket.connect": trappable,
            "wasi:sockets/types.[method]tcp-socket.listen": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.send": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.receive": store | trappable,
            "wasi:sockets/types.[method]tcp-socket.get-local-address": trappable,
            "wasi:sockets/types.[method]tcp-socket.get-remote-address": trappable,
            "wasi:sockets/types.[method]tcp-socket.get-address-family": trappable,
        },
        with: {
            "wasi:sockets/types.tcp-socket": super::TcpSocket,
            "wasi:sockets/types.udp-socket": super::UdpSocket,
        },
    });
}

use bindings::wasi::sockets::{ip_name_lookup, types};

/// Reaches the [`NetworkCtxView`] of a store.
pub(crate) struct HasNetwork;

impl HasData for HasNetwork {
    type Data<'a> = NetworkCtxView<'a>;
}

/// Adds the sockets of WASI 0.3, and refusals in place of those of WASI 0.2.
pub(crate) fn add_to_linker<T: NetworkView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    types::add_to_linker::<T, HasNetwork>(linker, T::network)?;
    ip_name_lookup::add_to_linker::<T, HasNetwork>(linker, T::network)?;
    wasi02::add_to_linker(linker)
}
