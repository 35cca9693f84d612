//! Locks and the leases on them.

use serde::{Deserialize, Serialize};

/// How a lock is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By one.
    #[default]
    Exclusive,
    /// With other shared holders.
    Shared,
    /// One of this many permits.
    Permit(u32),
}

/// Request for a lease. The id in the path is chosen by the client and never used again, for any
/// lock; a UUID does. Asking again with the same id and parameters answers for the same lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Acquire {
    /// How.
    pub mode: Mode,
    /// How long the lease lasts without a keepalive, 2,000 to 3,600,000.
    pub ttl_ms: u64,
    /// How long to wait for it; 0 tries once. The answer comes as soon as it is held.
    pub wait_ms: u64,
    /// Who asks, shown to others.
    pub owner: String,
}

impl Default for Acquire {
    fn default() -> Self {
        Self { mode: Mode::Exclusive, ttl_ms: 15_000, wait_ms: 0, owner: String::new() }
    }
}

/// Orders the holders of an exclusive lock within one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Token {
    /// Identity of the cluster that counts; tokens of different epochs do not compare.
    pub epoch: String,
    /// Higher for a later holder.
    pub value: u64,
}

/// How a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum LeaseStatus {
    /// It is held.
    Held,
    /// It is held, but renewal at the backend is in doubt.
    Suspect,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Lease {
    /// The lock.
    pub name: String,
    /// The id that the client chose.
    pub id: String,
    /// How it stands.
    pub status: LeaseStatus,
    /// Present for exclusive leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Milliseconds for which it is certainly held, counted from the *sending* of the request that
    /// this answers. A keepalive has to succeed before.
    pub valid_for_ms: u64,
}

/// Query of a read of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct LeaseQuery {
    /// Answer when the lease is lost, or after this time at the latest; at most 60,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Answer to a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Released {
    /// False when it was not held any more.
    pub released: bool,
}

/// A holder of a lock, or one who waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Claim {
    /// Names this claim to a forced release.
    pub claim_id: String,
    /// Who.
    #[serde(default)]
    pub owner: String,
    /// How.
    pub mode: Mode,
    /// Present for exclusive holders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Since when, in milliseconds of the Unix epoch, where the backend knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// Who holds a lock, and who waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LockState {
    /// Its name.
    pub name: String,
    /// Who has it.
    pub holders: Vec<Claim>,
    /// Who waits, in the order in which they will get it where the backend keeps one.
    pub waiters: Vec<Claim>,
}

/// Query of a listing of locks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// Empty for everything; `a/b` lists what lies below it.
    pub prefix: String,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Most names of a page, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One page of the names of locks that somebody holds or waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LocksPage {
    /// The names.
    pub names: Vec<String>,
    /// Present when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_request_asks_once_for_an_exclusive_lease_of_fifteen_seconds() {
        let acquire: Acquire = serde_json::from_str("{}").unwrap();
        assert_eq!(acquire, Acquire::default());
        assert_eq!((acquire.mode, acquire.ttl_ms, acquire.wait_ms), (Mode::Exclusive, 15_000, 0));
    }

    #[test]
    fn permits_carry_their_number() {
        let acquire: Acquire = serde_json::from_str(r#"{"mode":{"permit":3}}"#).unwrap();
        assert_eq!(acquire.mode, Mode::Permit(3));
    }

    #[test]
    fn a_misspelt_parameter_is_refused() {
        assert!(serde_json::from_str::<Acquire>(r#"{"ttl":5}"#).is_err());
    }
}
