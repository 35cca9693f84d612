//! How far an address reaches: the special-purpose registries of IANA (RFC 6890 and successors).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The internet.
    Public,
    /// This machine or its own networks.
    Inside,
    /// No single host: nothing can be connected to.
    Nowhere,
}

impl Reach {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Inside => "an address inside the operator's networks, which no wildcard opens",
            Self::Nowhere => "not the address of one host",
        }
    }
}

pub(super) fn reach_of(address: IpAddr) -> Reach {
    match address.to_canonical() {
        IpAddr::V4(address) => reach_of_v4(address),
        IpAddr::V6(address) => reach_of_v6(address),
    }
}

fn reach_of_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    if a == 0 || address.is_multicast() || address.is_broadcast() {
        return Reach::Nowhere;
    }
    let inside = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && (64..128).contains(&b)) // shared by carriers, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments, RFC 6890
        || (a == 198 && (18..20).contains(&b)) // benchmarks, RFC 2544
        || a >= 240; // reserved, RFC 1112
    if inside { Reach::Inside } else { Reach::Public }
}

fn reach_of_v6(address: Ipv6Addr) -> Reach {
    if address.is_unspecified() || address.is_multicast() {
        return Reach::Nowhere;
    }
    // What carries an IPv4 address reaches what that reaches.
    if let Some(carried) = carried_v4(address) {
        return reach_of_v4(carried);
    }
    // Only 2000::/3 is assigned to the internet; loopback, unique-local, link-local and the rest of
    // the special ranges lie outside of it.
    let [first, second, ..] = address.segments();
    let global = first & 0xe000 == 0x2000;
    let special = match first {
        0x2001 => second < 0x0200 || second == 0x0db8, // protocols and Teredo; documentation
        0x3fff => second < 0x1000,                     // documentation, RFC 9637
        _ => false,
    };
    if global && !special { Reach::Public } else { Reach::Inside }
}

/// The IPv4 address inside a translated (64:ff9b::/96) or tunnelled (2002::/16) one.
fn carried_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}
