//! The grammar of `endpoints` and `allow`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use thiserror::Error;

use super::{Host, Target};

/// One granted host pattern with its ports.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pattern: Pattern,
    pub(super) ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Name(String),
    /// `*.example.com` as `example.com`: every name below it, not itself.
    Below(String),
    Network(IpNet),
}

/// An entry of `endpoints` or `allow` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key}: \"{entry}\" {fault}")]
pub(crate) struct GrantError {
    /// `endpoints` or `allow`.
    pub(crate) key: &'static str,
    /// The entry as it was written.
    pub(crate) entry: String,
    /// What is wrong with it, and what it should look like.
    pub(crate) fault: &'static str,
}

pub(super) fn endpoint(text: &str, default_port: Option<u16>) -> Result<Target, GrantError> {
    let refuse = |fault| GrantError { key: "endpoints", entry: text.to_owned(), fault };
    if text.contains("://") {
        return Err(refuse("is a URL; write host:port, and tls as its own key"));
    }
    if text.starts_with('*') || text.contains('/') {
        return Err(refuse("names no single server; wildcards and networks go into allow"));
    }
    let (host, port) = split_port(text).map_err(refuse)?;
    let port = match port {
        Some(port) => one_port(port).ok_or_else(|| refuse("has a port that is not 1 to 65535"))?,
        None => default_port.ok_or_else(|| refuse("has no port; write host:port"))?,
    };
    let host = host.parse::<Host>().map_err(|_| refuse("has no valid host name or address"))?;
    Ok(Target { host, port })
}

pub(super) fn allow_entry(text: &str) -> Result<Entry, GrantError> {
    let refuse = |fault| GrantError { key: "allow", entry: text.to_owned(), fault };
    if text.contains("://") {
        return Err(refuse("is a URL; write host:port"));
    }
    let (host, port) = split_port(text).map_err(refuse)?;
    let port = port.ok_or_else(|| refuse("has no port; write host:port, or host:* for all"))?;
    let ports = port_range(port).ok_or_else(|| {
        refuse("has a port that is neither 1 to 65535, a range like 2000-2100, nor *")
    })?;
    let pattern = pattern(&host).ok_or_else(|| {
        refuse("has a host that is neither a name, *.suffix, an address, nor network/bits")
    })?;
    Ok(Entry { pattern, ports })
}

/// The name in its one spelling, if it is one: letters, digits, `-` and `_` between dots.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let valid_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits is an address that was not understood, such as 127.1 or 0x7f.1, which
    // the system's resolver would still read as one.
    let numeric_end = name.rsplit('.').next().is_some_and(|label| {
        label.bytes().all(|byte| byte.is_ascii_digit()) || label.starts_with("0x")
    });
    (name.len() <= 253 && !numeric_end && name.split('.').all(valid_label))
        .then(|| name.to_ascii_lowercase())
}

fn pattern(host: &str) -> Option<Pattern> {
    if let Some(suffix) = host.strip_prefix("*.") {
        return host_name(suffix).map(Pattern::Below);
    }
    if let Some((address, bits)) = host.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        return IpNet::new(address, bits.parse().ok()?).ok().map(Pattern::Network);
    }
    Some(match host.parse::<Host>().ok()? {
        Host::Name(name) => Pattern::Name(name),
        Host::Address(address) => Pattern::Network(IpNet::from(address)),
    })
}

/// Splits `host:port`, `[v6]:port`, `[v6]/bits:port`; the host comes back without brackets.
fn split_port(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let Some(rest) = text.strip_prefix('[') else {
        return match text.split_once(':') {
            None => Ok((text.to_owned(), None)),
            Some((host, port)) if !port.contains(':') => Ok((host.to_owned(), Some(port))),
            Some(_) => Err("is an IPv6 address without brackets; write [address]:port"),
        };
    };
    let (address, rest) = rest.split_once(']').ok_or("has no closing bracket")?;
    let (bits, port) = match rest.split_once(':') {
        Some((bits, port)) => (bits, Some(port)),
        None => (rest, None),
    };
    if !bits.is_empty() && !bits.starts_with('/') {
        return Err("has text between the address and the port");
    }
    if address.parse::<std::net::Ipv6Addr>().is_err() {
        return Err("has brackets around something that is no IPv6 address");
    }
    Ok((format!("{address}{bits}"), port))
}

fn one_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(1..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = one_port(first)?..=one_port(last)?;
    (!range.is_empty()).then_some(range)
}
