//! No page that a browser loaded from elsewhere speaks to the API.
//!
//! A page whose name was made to point here (DNS rebinding) shows its own name as `Host`; a page of
//! another origin shows that as `Origin`.

use std::net::IpAddr;

use http::{HeaderMap, Uri, header, uri::Authority};
use pintle_api::problem::code;

use super::Peer;
use crate::failure::Failure;

/// Refuses requests for other hosts, and requests of pages of other origins.
pub(super) fn check(
    headers: &HeaderMap,
    uri: &Uri,
    names: &[String],
    peer: Option<&Peer>,
) -> Result<(), Failure> {
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|value| value.to_str().ok()),
    };
    let host = host.unwrap_or_default();
    if !is_here(host, names, peer) {
        let detail = format!("the request is for host {host:?}, which is not this server");
        return Err(Failure::of(code::FOREIGN_HOST, detail)
            .advice("use localhost or 127.0.0.1, or add the name to `hosts` of [server]"));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let scheme = if peer.is_some_and(|peer| peer.tls) { "https://" } else { "http://" };
    if origin.strip_prefix(scheme) != Some(host) {
        let detail = format!("the request comes from a page of {origin:?}");
        return Err(Failure::of(code::FOREIGN_ORIGIN, detail));
    }
    Ok(())
}

fn is_here(host: &str, names: &[String], peer: Option<&Peer>) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
    {
        return true;
    }
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok_and(|address| {
        // An address cannot be made to point elsewhere.
        let address = address.to_canonical();
        address.is_loopback() || peer.is_some_and(|peer| peer.local.to_canonical() == address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn peer(tls: bool) -> Peer {
        Peer { address: "192.0.2.9".parse().unwrap(), local: "192.0.2.7".parse().unwrap(), tls }
    }

    #[test]
    fn only_names_of_this_server_are_served() {
        let slash = Uri::from_static("/");
        let of = |host, names: &[String], peer: Option<&Peer>| {
            check(&headers(&[(header::HOST, host)]), &slash, names, peer)
        };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:7468", "127.8.8.8", "[::1]:7468"] {
            assert!(of(host, &[], None).is_ok(), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "192.168.0.7", "", "a@localhost"] {
            let refused = of(host, &[], Some(&peer(false))).unwrap_err();
            assert_eq!(refused.problem().code(), code::FOREIGN_HOST, "{host}");
        }
        assert!(check(&HeaderMap::new(), &slash, &[], None).is_err());
        let names = ["pintle.example".to_owned()];
        assert!(of("Pintle.example:7468", &names, None).is_ok());
        assert!(of("192.0.2.7:7468", &[], Some(&peer(true))).is_ok());
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let with = |origin, tls| {
            let both = headers(&[(header::HOST, "localhost:1"), (header::ORIGIN, origin)]);
            check(&both, &Uri::from_static("/"), &[], Some(&peer(tls)))
        };
        assert!(with("http://localhost:1", false).is_ok());
        assert!(with("https://localhost:1", true).is_ok());
        for (origin, tls) in [
            ("http://localhost:2", false),
            ("https://evil.example", false),
            ("null", false),
            ("http://localhost:1.x", false),
            ("http://localhost:1", true),
        ] {
            let refused = with(origin, tls).unwrap_err();
            assert_eq!(refused.problem().code(), code::FOREIGN_ORIGIN, "{origin}");
        }
    }
}
