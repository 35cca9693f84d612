//! The audit trail: who changed what, and what became of it.

use serde::{Deserialize, Serialize};

/// Outcome of a request that was answered with success.
pub const DONE: &str = "done";
/// Outcome of a request that nobody waited for until it was answered: what it did is not known.
pub const ABANDONED: &str = "abandoned";

/// One change of one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Change {
    /// What was changed: a key, a lock, `service/instance`, a token …
    pub key: String,
    /// Its version before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its version afterwards, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// One request that changed something, or would have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Record {
    /// When it was answered, in milliseconds of the Unix epoch.
    pub time_ms: u64,
    /// Name of the token; `owner`, or `anyone` where no token is asked for.
    pub caller: String,
    /// Where the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What was asked for: `config.put`.
    pub operation: String,
    /// The backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What it was about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// More, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `done`, or the code of the problem that was answered; `abandoned` when the caller went away
    /// before there was an answer, so that what the request did is not known.
    pub outcome: String,
    /// Status of the answer; 0 without one.
    pub status: u16,
}

/// Query of the audit trail. A record has to fit all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct AuditQuery {
    /// From then on, in milliseconds of the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Until then, in milliseconds of the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// By this caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// This operation, or with `config` all of that noun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// On this backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// About this key, or what lies below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// With this outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Most records of a page, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// One page of the audit trail, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// The records.
    pub records: Vec<Record>,
    /// Present when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Lines that could not be read: a crash cut them.
    #[serde(default)]
    pub unreadable: u32,
}
