//! Problem documents (RFC 9457): every answer that is not a success.

use serde::{Deserialize, Serialize};

use crate::{config, lock, registry};

/// What stands before the code in [`Problem::kind`].
pub const TYPE_PREFIX: &str = "urn:pintle:problem:";

/// Codes that the API itself gives, beside those of plugins and of the host's library.
pub mod code {
    /// The expectation on a key did not hold; `current` or `mismatches` says what is there.
    pub const STALE: &str = "stale";
    /// The lease named in `held` is not held any more.
    pub const FENCED: &str = "fenced";
    /// There is no value under the key.
    pub const NOT_FOUND: &str = "not-found";
    /// Somebody else holds the lock; `holders` says who.
    pub const LOCK_BUSY: &str = "lock-busy";
    /// Another live owner has the name; `instance` says who.
    pub const TAKEN: &str = "taken";
    /// This server does not know the lease: it never did, or it was restarted since.
    pub const LEASE_UNKNOWN: &str = "lease-unknown";
    /// The lease is not held any more; `detail` says why.
    pub const LEASE_LOST: &str = "lease-lost";
    /// The lease was released by its holder.
    pub const LEASE_RELEASED: &str = "lease-released";
    /// The id is in use for another lock, or with other parameters.
    pub const LEASE_ID_IN_USE: &str = "lease-id-in-use";
    /// This server does not keep the registration: it never did, or it was restarted since.
    pub const REGISTRATION_UNKNOWN: &str = "registration-unknown";
    /// No such path.
    pub const NO_ROUTE: &str = "no-route";
    /// The path does not have this method.
    pub const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
    /// The request names no access token, and the server asks for one.
    pub const TOKEN_MISSING: &str = "token-missing";
    /// The access token is not known, revoked, or over its time.
    pub const TOKEN_REFUSED: &str = "token-refused";
    /// The access token is not good for this.
    pub const FORBIDDEN: &str = "forbidden";
    /// Too many requests with tokens that are not known came from this address.
    pub const TOO_MANY_ATTEMPTS: &str = "too-many-attempts";
    /// The caller has too much under way.
    pub const TOO_MANY_CALLS: &str = "too-many-calls";
    /// The server refuses changes.
    pub const READ_ONLY: &str = "read-only";
    /// No token has this id.
    pub const UNKNOWN_TOKEN: &str = "unknown-token";
    /// A token with this name exists.
    pub const TOKEN_EXISTS: &str = "token-exists";
    /// The body did not come in time.
    pub const SLOW_REQUEST: &str = "slow-request";
    /// This server does not keep what was asked for.
    pub const NOT_KEPT: &str = "not-kept";
    /// The request's `Host` is not this machine.
    pub const FOREIGN_HOST: &str = "foreign-host";
    /// The request comes from a page of another origin.
    pub const FOREIGN_ORIGIN: &str = "foreign-origin";
    /// The request can never succeed as it stands.
    pub const INVALID: &str = "invalid";
    /// A limit on size was passed.
    pub const TOO_LARGE: &str = "too-large";
    /// A limit on number was passed; later it may succeed.
    pub const EXHAUSTED: &str = "exhausted";
    /// The server is stopping.
    pub const SHUTTING_DOWN: &str = "shutting-down";
    /// The server could not do it; its log says more.
    pub const SERVER_FAILED: &str = "server-failed";
    /// A defect of the server; its log says more.
    pub const INTERNAL: &str = "internal";
    /// No plugin has this name.
    pub const UNKNOWN_PLUGIN: &str = "unknown-plugin";
    /// The plugins' directory cannot be read.
    pub const PLUGINS_UNREADABLE: &str = "plugins-unreadable";
    /// The plugin's file cannot be loaded.
    pub const BROKEN_PLUGIN: &str = "broken-plugin";
}

/// What the failed call may have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing happened.
    None,
    /// Unknown: read before you repeat. Also what an effect added later reads as.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Why a request did not succeed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:pintle:problem:` and a stable code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in a few words, always the same.
    pub title: String,
    /// Status of the HTTP answer.
    pub status: u16,
    /// One or two sentences about this case, for a person.
    #[serde(default)]
    pub detail: String,
    /// The backend that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Its plugin and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Capability and function: `lock.acquire`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What the call may have done.
    #[serde(default)]
    pub effect: Effect,
    /// How long to wait before another attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// With `stale`: what is there now, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Box<config::Entry>>,
    /// With `stale` of a transaction: the conditions that did not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<config::Mismatch>,
    /// With `lock-busy`: who holds the lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<lock::Claim>,
    /// With `taken`: the instance that has the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Box<registry::InstanceState>>,
}

impl Problem {
    /// The code at the end of `type`; empty if that is not one of ours.
    #[must_use]
    pub fn code(&self) -> &str {
        self.kind.strip_prefix(TYPE_PREFIX).unwrap_or_default()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.backend, &self.plugin, &self.operation) {
            (Some(backend), Some(plugin), Some(operation)) => {
                write!(f, "backend {backend} ({plugin}): {operation}: ")?;
            }
            (Some(backend), None, Some(operation)) => {
                write!(f, "backend {backend}: {operation}: ")?;
            }
            _ => {}
        }
        f.write_str(if self.detail.is_empty() { &self.title } else { &self.detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_prints_its_place_before_its_detail() {
        let mut problem = Problem { title: "Timeout".into(), ..Problem::default() };
        assert_eq!(problem.to_string(), "Timeout");
        problem.detail = "no answer within 5s".into();
        problem.backend = Some("main".into());
        problem.plugin = Some("etcd 0.1.0".into());
        problem.operation = Some("config.get".into());
        assert_eq!(
            problem.to_string(),
            "backend main (etcd 0.1.0): config.get: no answer within 5s"
        );
    }

    #[test]
    fn an_effect_that_is_not_known_or_missing_counts_as_unknown() {
        let text = r#"{"type":"urn:pintle:problem:x","title":"X","status":500,"effect":"partial"}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!(problem.effect, Effect::Unknown);
        assert_eq!(problem.code(), "x");
        let bare: Problem = serde_json::from_str(r#"{"type":"","title":"","status":500}"#).unwrap();
        assert_eq!(bare.effect, Effect::Unknown);
    }
}
