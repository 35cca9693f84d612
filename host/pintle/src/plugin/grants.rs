//! What the operator lets a backend reach, and the sentence for everything else.
//!
//! Only text that the operator wrote grants: `endpoints` and `allow` of the backend. Nothing is
//! reachable without an entry, and an address that is not public (loopback, private, link-local …)
//! only through an entry that names it, or names in full the host that resolves to it: a wildcard
//! such as `*.example.com:443` never opens the way into the operator's own network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

mod parse;
mod reach;

pub(crate) use parse::GrantError;
use parse::{Entry, Pattern};
use reach::{Reach, reach_of};

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// A name in lower case, without the trailing dot.
    Name(String),
    /// An address; IPv4 is never written as IPv6.
    Address(IpAddr),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// The host.
    pub(crate) host: Host,
    /// The TCP port.
    pub(crate) port: u16,
}

/// The grants of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Grants {
    backend: String,
    endpoints: Vec<Target>,
    entries: Vec<Entry>,
}

/// How a target was granted; decides what its name may resolve to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// The operator wrote this name or address: any address that it resolves to is granted.
    Written,
    /// A wildcard matched the name: only public addresses are granted with it.
    Wildcard,
}

/// A connection or look-up that the grants do not cover.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("backend {backend}: {attempt} denied{reason}; {remedy}")]
pub(crate) struct Denial {
    backend: String,
    attempt: String,
    reason: String,
    remedy: String,
}

impl Grants {
    /// Reads the operator's `endpoints` and `allow`.
    ///
    /// An endpoint is `host:port`, or `host` where the backend has a default port. An allow entry is
    /// `host:port`, `*.suffix:port` or `network/bits:port`; its port may be a range `2000-2100`, or
    /// `*` for all. IPv6 addresses stand in brackets: `[::1]:2379`, `[fd00::]/8:2379`.
    ///
    /// # Errors
    ///
    /// [`GrantError`] names the key, the entry and what is wrong with it.
    pub(crate) fn parse(
        backend: &str,
        endpoints: &[String],
        allow: &[String],
        default_port: Option<u16>,
    ) -> Result<Self, GrantError> {
        let endpoints = endpoints
            .iter()
            .map(|text| parse::endpoint(text, default_port))
            .collect::<Result<Vec<_>, _>>()?;
        let mut entries: Vec<Entry> = endpoints.iter().map(Entry::for_target).collect();
        for text in allow {
            entries.push(parse::allow_entry(text)?);
        }
        Ok(Self { backend: backend.to_owned(), endpoints, entries })
    }

    /// The endpoints in the operator's order.
    pub(crate) fn endpoints(&self) -> &[Target] {
        &self.endpoints
    }

    /// Whether `name` may be looked up, which is the case when it is granted on some port.
    ///
    /// # Errors
    ///
    /// The [`Denial`] to log.
    pub(crate) fn check_lookup(&self, name: &str) -> Result<(), Denial> {
        if self.entries.iter().any(|entry| entry.pattern.matches_name(name)) {
            return Ok(());
        }
        Err(Denial {
            backend: self.backend.clone(),
            attempt: format!("look-up of {name}"),
            reason: String::new(),
            remedy: self.remedy(format_args!("{name}:PORT")),
        })
    }

    /// Whether a connection to `target` may be tried.
    ///
    /// # Errors
    ///
    /// The [`Denial`] to log.
    pub(crate) fn check(&self, target: &Target) -> Result<Grant, Denial> {
        match &target.host {
            Host::Address(address) => {
                self.check_address(*address, target)?;
                Ok(Grant::Written)
            }
            Host::Name(name) => {
                let mut grants = self
                    .entries
                    .iter()
                    .filter(|entry| entry.ports.contains(&target.port))
                    .filter(|entry| entry.pattern.matches_name(name));
                let Some(first) = grants.next() else {
                    return Err(self.denial(target, String::new()));
                };
                let written = matches!(first.pattern, Pattern::Name(_))
                    || grants.any(|entry| matches!(entry.pattern, Pattern::Name(_)));
                Ok(if written { Grant::Written } else { Grant::Wildcard })
            }
        }
    }

    /// Whether the address that `target`'s name resolved to may be connected to.
    ///
    /// # Errors
    ///
    /// The [`Denial`] to log.
    pub(crate) fn check_resolved(
        &self,
        target: &Target,
        grant: Grant,
        address: IpAddr,
    ) -> Result<(), Denial> {
        let address = address.to_canonical();
        let reach = reach_of(address);
        let granted = match (reach, grant) {
            (Reach::Nowhere, _) => false,
            (Reach::Public, _) | (Reach::Inside, Grant::Written) => true,
            (Reach::Inside, Grant::Wildcard) => self.names_address(address, target.port),
        };
        if granted {
            return Ok(());
        }
        Err(self.denial(target, format!(": it resolves to {address}, {}", reach.describe())))
    }

    fn check_address(&self, address: IpAddr, target: &Target) -> Result<(), Denial> {
        let reach = reach_of(address);
        if reach == Reach::Nowhere {
            return Err(Denial {
                backend: self.backend.clone(),
                attempt: format!("connection to {target}"),
                reason: format!(": {address} is {}", reach.describe()),
                remedy: "no setting opens it".to_owned(),
            });
        }
        if self.names_address(address, target.port) {
            return Ok(());
        }
        Err(self.denial(target, String::new()))
    }

    fn names_address(&self, address: IpAddr, port: u16) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.ports.contains(&port) && entry.pattern.matches_address(address))
    }

    fn denial(&self, target: &Target, reason: String) -> Denial {
        Denial {
            backend: self.backend.clone(),
            attempt: format!("connection to {target}"),
            reason,
            remedy: self.remedy(format_args!("{target}")),
        }
    }

    fn remedy(&self, entry: fmt::Arguments<'_>) -> String {
        format!("add allow = [\"{entry}\"] to [backends.{}]", self.backend)
    }
}

impl Denial {
    /// What was tried, without the backend; equal attempts are logged once.
    pub(crate) fn attempt(&self) -> &str {
        &self.attempt
    }
}

impl Target {
    /// The target `host:port`, where `host` is a name or an address without brackets.
    ///
    /// Returns nothing when `host` is neither.
    pub(crate) fn new(host: &str, port: u16) -> Option<Self> {
        Some(Self { host: host.parse().ok()?, port })
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip().to_canonical()), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]:{}", self.port),
            host => write!(formatter, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// The text is neither a host name nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is neither a host name nor an address")]
pub(crate) struct InvalidHost;

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        parse::host_name(text).map(Self::Name).ok_or(InvalidHost)
    }
}

impl Pattern {
    fn matches_name(&self, name: &str) -> bool {
        match self {
            Self::Name(granted) => granted == name,
            Self::Below(suffix) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|label| label.ends_with('.'))
            }
            Self::Network(_) => false,
        }
    }

    fn matches_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.contains(&address))
    }
}

impl Entry {
    fn for_target(target: &Target) -> Self {
        let pattern = match &target.host {
            Host::Name(name) => Pattern::Name(name.clone()),
            Host::Address(address) => Pattern::Network(IpNet::from(*address)),
        };
        Self { pattern, ports: target.port..=target.port }
    }
}

#[cfg(test)]
mod tests;
