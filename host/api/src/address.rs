//! Paths of the API, with every name percent-encoded.
//!
//! A configuration key is the rest of a path, so its slashes stay as they are; every other name is
//! one segment.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A key keeps its slashes.
const KEY: &AsciiSet = &SEGMENT.remove(b'/');

/// A name as one segment of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    match name {
        // Bare dot segments are taken out of paths on the way.
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => utf8_percent_encode(name, SEGMENT).to_string(),
    }
}

/// A configuration key as the rest of a path.
#[must_use]
pub fn key(key: &str) -> String {
    utf8_percent_encode(key, KEY).to_string()
}

/// `/v1/backends/{backend}`.
#[must_use]
pub fn backend(backend: &str) -> String {
    format!("/v1/backends/{}", segment(backend))
}

/// `/v1/backends/{backend}/config/keys/{key…}`.
#[must_use]
pub fn config_key(backend_name: &str, key_name: &str) -> String {
    format!("{}/config/keys/{}", backend(backend_name), key(key_name))
}

/// `/v1/backends/{backend}/config/{what}`.
#[must_use]
pub fn config(backend_name: &str, what: &str) -> String {
    format!("{}/config/{what}", backend(backend_name))
}

/// `/v1/backends/{backend}/registry/services`.
#[must_use]
pub fn services(backend_name: &str) -> String {
    format!("{}/registry/services", backend(backend_name))
}

/// `/v1/backends/{backend}/registry/watch`.
#[must_use]
pub fn registry_watch(backend_name: &str) -> String {
    format!("{}/registry/watch", backend(backend_name))
}

/// `/v1/backends/{backend}/registry/services/{service}/instances`.
#[must_use]
pub fn instances(backend_name: &str, service: &str) -> String {
    format!("{}/{}/instances", services(backend_name), segment(service))
}

/// `/v1/backends/{backend}/registry/services/{service}/instances/{id}`.
#[must_use]
pub fn instance(backend_name: &str, service: &str, id: &str) -> String {
    format!("{}/{}", instances(backend_name, service), segment(id))
}

/// `/v1/backends/{backend}/locks`.
#[must_use]
pub fn locks(backend_name: &str) -> String {
    format!("{}/locks", backend(backend_name))
}

/// `/v1/backends/{backend}/locks/{name}`.
#[must_use]
pub fn lock(backend_name: &str, name: &str) -> String {
    format!("{}/{}", locks(backend_name), segment(name))
}

/// `/v1/backends/{backend}/locks/{name}/leases/{id}`.
#[must_use]
pub fn lease(backend_name: &str, name: &str, id: &str) -> String {
    format!("{}/leases/{}", lock(backend_name, name), segment(id))
}

/// `/v1/backends/{backend}/locks/{name}/claims/{claim}`.
#[must_use]
pub fn claim(backend_name: &str, name: &str, claim_id: &str) -> String {
    format!("{}/claims/{}", lock(backend_name, name), segment(claim_id))
}

/// `/v1/backends/{backend}/leaders/{election}`.
#[must_use]
pub fn leader(backend_name: &str, election: &str) -> String {
    format!("{}/leaders/{}", backend(backend_name), segment(election))
}

/// `/v1/tokens/{id}`.
#[must_use]
pub fn token(id: &str) -> String {
    format!("/v1/tokens/{}", segment(id))
}

/// `/v1/plugins/{plugin}`.
#[must_use]
pub fn plugin(name: &str) -> String {
    format!("/v1/plugins/{}", segment(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;

    #[test]
    fn slashes_of_a_key_stay_literal_and_those_of_a_name_do_not() {
        assert_eq!(config_key("main", "app/db/url"), "/v1/backends/main/config/keys/app/db/url");
        assert_eq!(lock("main", "jobs/nightly"), "/v1/backends/main/locks/jobs%2Fnightly");
    }

    #[test]
    fn an_escape_within_a_key_is_escaped_once_more() {
        assert_eq!(key("a%25b/%2E%2E"), "a%2525b/%252E%252E");
    }

    #[test]
    fn every_key_comes_back_as_it_was() {
        for name in ["a/b", "ä ö/ü?x=#1", "a%25/b", "%2E%2E/x", "a+b&c", "日本/語"] {
            let encoded = key(name);
            assert!(encoded.is_ascii(), "{encoded}");
            assert_eq!(percent_decode_str(&encoded).decode_utf8().unwrap(), name);
        }
    }
}
