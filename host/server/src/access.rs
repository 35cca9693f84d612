//! Who may speak to the API: this machine, and no page that a browser loaded from elsewhere.

use std::net::{IpAddr, SocketAddr};

use axum::{extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, Uri, header, uri::Authority};
use pintle_api::problem::code;

use crate::failure::{Answer, Failure};

/// The address is not one that may be listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and this version has neither access tokens nor TLS to \
     protect it: listen on 127.0.0.1 or [::1], and put a proxy that has both before it"
)]
pub struct AddressError(SocketAddr);

/// Refuses addresses that other machines can reach.
///
/// # Errors
///
/// The address is not a loopback address.
pub fn check_address(address: SocketAddr) -> Result<(), AddressError> {
    if address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(AddressError(address)) }
}

/// Refuses requests for other hosts: a page whose name was made to point here (DNS rebinding) shows
/// its own name. Refuses requests of pages of other origins.
pub(crate) async fn guard(request: Request, next: Next) -> Answer<Response> {
    check(request.headers(), request.uri())?;
    Ok(next.run(request).await)
}

fn check(headers: &HeaderMap, uri: &Uri) -> Result<(), Failure> {
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|value| value.to_str().ok()),
    };
    let host = host.unwrap_or_default();
    if !is_loopback(host) {
        let detail = format!("the request is for host {host:?}; here are localhost and 127.0.0.1");
        return Err(Failure::of(code::FOREIGN_HOST, detail));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    if origin.strip_prefix("http://") != Some(host) {
        let detail = format!("the request comes from a page of {origin:?}");
        return Err(Failure::of(code::FOREIGN_ORIGIN, detail));
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_names_of_this_machine_are_served() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:7468", "127.8.8.8", "[::1]:7468"] {
            assert!(check(&headers(&[(header::HOST, host)]), &Uri::from_static("/")).is_ok());
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "192.168.0.7", "", "a@localhost"] {
            let refused = check(&headers(&[(header::HOST, host)]), &Uri::from_static("/"));
            assert_eq!(refused.unwrap_err().problem().code(), code::FOREIGN_HOST, "{host}");
        }
        assert!(check(&HeaderMap::new(), &Uri::from_static("/")).is_err());
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let with = |origin| {
            let both = headers(&[(header::HOST, "localhost:1"), (header::ORIGIN, origin)]);
            check(&both, &Uri::from_static("/"))
        };
        assert!(with("http://localhost:1").is_ok());
        for origin in ["http://localhost:2", "https://evil.example", "null", "http://localhost:1.x"]
        {
            let refused = with(origin).unwrap_err();
            assert_eq!(refused.problem().code(), code::FOREIGN_ORIGIN, "{origin}");
        }
    }

    #[test]
    fn listening_for_others_is_refused_with_the_reason() {
        assert!(check_address("127.0.0.1:0".parse().unwrap()).is_ok());
        assert!(check_address("[::1]:7468".parse().unwrap()).is_ok());
        for address in ["0.0.0.0:7468", "[::]:7468", "192.168.0.7:1"] {
            let text = check_address(address.parse().unwrap()).unwrap_err().to_string();
            assert!(text.contains(address) && text.contains("TLS"), "{text}");
        }
    }
}
