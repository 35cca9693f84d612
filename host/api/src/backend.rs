//! Backends and their state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its plugin is being loaded and started.
    Starting,
    /// It takes calls.
    Serving,
    /// Its plugin ended and is being started again.
    Restarting,
    /// Its settings or its plugin's file do not work; somebody has to change them.
    Refused,
    /// Its plugin ended too often.
    Quarantined,
    /// The host is shutting down.
    Stopped,
}

impl State {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Restarting => "restarting",
            Self::Refused => "refused",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        }
    }
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Name of its plugin.
    pub plugin: String,
    /// Version of its plugin, once that was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_version: Option<String>,
    /// How it stands.
    pub state: State,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when, in milliseconds of the Unix epoch.
    pub since_ms: u64,
    /// How often its plugin was started again.
    pub restarts: u64,
    /// Whether the host refuses to start without it.
    pub required: bool,
    /// Its servers as the operator wrote them.
    pub endpoints: Vec<String>,
    /// `config`, `registry`, `lock`, `tracing`: what its plugin offers, once that was loaded.
    pub capabilities: Vec<String>,
    /// The finer promises that its plugin declares.
    pub features: Vec<String>,
    /// The capabilities for which it is the default.
    pub default_for: Vec<String>,
}

/// All backends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Backends {
    /// In the order of their names.
    pub backends: Vec<Backend>,
}

/// What a backend's plugin says of the server that it speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Calls are expected to succeed.
    Serving,
    /// Some calls fail or are slow.
    Degraded,
    /// Calls are expected to fail.
    Unavailable,
}

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Check {
    /// The backend that was checked.
    pub backend: Backend,
    /// What its plugin says.
    pub health: HealthState,
    /// One sentence: why it is so.
    pub message: String,
    /// Facts: `endpoint`, `server-version` …
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    /// Counters since the start of its plugin.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// How long the answer took.
    pub elapsed_ms: u64,
}

/// Whether the server can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Readiness {
    /// True when every backend runs.
    pub ready: bool,
    /// The backends that do not, and why.
    pub waiting: BTreeMap<String, String>,
}

/// Answer of `/healthz`: that this is Pintle, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Liveness {
    /// Always `pintle`.
    pub name: String,
    /// Version of the server.
    pub version: String,
    /// Process that answers.
    pub pid: u32,
}
