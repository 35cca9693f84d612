//! Backends and their state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its plugin is being loaded and started.
    Starting,
    /// Calls are passed on.
    Running,
    /// The plugin ended; it is about to be started again.
    Restarting,
    /// It ended too often, or cannot start; it stays away until somebody acts.
    Quarantined,
    /// It was stopped.
    Stopped,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Name of its plugin.
    pub plugin: String,
    /// Version of its plugin, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_version: Option<String>,
    /// How it stands.
    pub state: State,
    /// Why, where it is not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `config`, `registry`, `lock`, `tracing`.
    pub capabilities: Vec<String>,
    /// The finer promises that its plugin declares.
    pub features: Vec<String>,
    /// The capabilities for which it is the default.
    pub default_for: Vec<String>,
    /// How often its plugin was started again.
    pub restarts: u64,
}

/// All backends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backends {
    /// In the order of their names.
    pub backends: Vec<Backend>,
}

/// What a backend's plugin says of the server that it speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Readiness {
    /// True when every backend runs.
    pub ready: bool,
    /// The backends that do not, and why.
    pub waiting: BTreeMap<String, String>,
}

/// Answer of `/healthz`: that this is Pintle, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// Always `pintle`.
    pub name: String,
    /// Version of the server.
    pub version: String,
    /// Process that answers.
    pub pid: u32,
}
