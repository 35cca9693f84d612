//! What the operator writes, in `pintle.toml` and in environment variables.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use backend::{
    BackendSettings, HttpSettings, LimitSettings, ProxySettings, SecretReference, TlsSettings,
};
pub use error::{Origin, Problem, SettingsError};
pub use load::IMPLICIT_BACKEND;
pub use resolve::PreparedSettings;
pub use schema::{SCHEMA_BYTES_MAX, SchemaError, SchemaProblem, SettingsSchema};
pub use show::ShownSetting;
pub use tracing::{ReceiveSettings, Sampling, TracingSettings};
pub use values::{ByteSize, CpuShare, Endpoint, ValueError, duration_text, parse_duration};

pub(crate) use explain::closest;
use path::Origins;

mod absolute;
mod backend;
mod check;
mod document;
#[cfg(test)]
mod documentation;
mod environment;
mod error;
mod explain;
mod load;
mod path;
mod places;
mod resolve;
mod schema;
mod show;
mod tracing;
mod values;

/// Everything that can be set. `Settings::default()` is what an empty file means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Identity of this host among those that share its backends. Default: the host's name.
    pub node: Option<String>,
    /// Root of what this host keeps on disk. Default: see [`Settings::data_root`].
    pub data_dir: Option<PathBuf>,
    /// The HTTP server.
    pub server: ServerSettings,
    /// Where plugins come from.
    pub plugins: PluginsSettings,
    /// Which backend serves a capability when none is named.
    pub defaults: Defaults,
    /// What happens when the host is told to end.
    pub shutdown: ShutdownSettings,
    /// What happens to spans on their way.
    pub tracing: TracingSettings,
    /// The backends by name.
    pub backends: BTreeMap<String, BackendSettings>,
    #[serde(skip)]
    origins: Origins,
}

/// The HTTP server: `[server]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address and port to listen on; port 0 takes a free one. Default: `"127.0.0.1:7468"`.
    #[serde(deserialize_with = "values::listen_address")]
    pub listen: SocketAddr,
    /// Speak TLS with this certificate. Default: none, plain HTTP, on this machine only.
    pub tls: Option<ServerTls>,
    /// Names under which clients reach the server, besides those of this machine. Default: none.
    pub hosts: Vec<String>,
    /// Refuse everything that changes what a backend keeps. Default: `false`.
    pub read_only: bool,
    /// What one caller may use at a time.
    pub limits: CallerLimits,
}

/// The certificate of the HTTP server. Both files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// File with the certificate and those between it and the authority (PEM).
    pub cert: PathBuf,
    /// File with its private key (PEM).
    pub key: PathBuf,
}

/// What one caller of the HTTP server may use at a time. A caller is an access token, or an address
/// where none is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallerLimits {
    /// Calls under way. Default: 512.
    pub calls: u32,
    /// Watches, and calls that wait for a lock or its loss. Default: 16,384.
    pub streams: u32,
}

/// Where plugins come from: `[plugins]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsSettings {
    /// Folder with the plugins' files. Default: see [`Settings::plugins_folder`].
    pub dir: Option<PathBuf>,
    /// What happens when a plugin's file changes. Default: `"auto"`.
    pub reload: Reload,
    /// How long a new file waits for locks that are held, at most 10min; then they are reported
    /// lost. Default: `"30s"`.
    #[serde(with = "values::duration_as_text")]
    pub drain: Duration,
    /// Folder of the compiled plugins. Default: `cache` in the data directory.
    pub cache_dir: Option<PathBuf>,
    /// Limits of plugins' files by their names, as `docs/security.md` lists them. Default: none
    /// changed.
    pub limits: serde_json::Map<String, serde_json::Value>,
}

/// What happens when a plugin's file changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reload {
    /// The new file takes over, unless it asks for more or offers less than the old one.
    #[default]
    Auto,
    /// A new file waits until it is accepted by its hash; each backend needs `sha256`.
    Pinned,
    /// Nothing, until the host starts again.
    Off,
}

/// What happens when the host is told to end: `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownSettings {
    /// What becomes of registrations. Default: `"remove"`.
    pub registrations: ShutdownRegistrations,
    /// How long it may take altogether, 1s to 10min. What is still held then ends with its TTL.
    /// Default: `"20s"`.
    #[serde(with = "values::duration_as_text")]
    pub deadline: Duration,
}

/// What becomes of registrations when the host is told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownRegistrations {
    /// They are taken back.
    #[default]
    Remove,
    /// They stay until their TTL ends: for a restart that takes less.
    Keep,
}

/// Which backend serves a capability when none is named: `[defaults]`.
///
/// Where nothing is set, the only backend that offers the capability serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Backend for configuration.
    pub config: Option<String>,
    /// Backend for the registry.
    pub registry: Option<String>,
    /// Backend for locks.
    pub lock: Option<String>,
    /// Backends that spans go to: one name or a list.
    #[serde(deserialize_with = "values::one_or_many")]
    pub tracing: Vec<String>,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        let registrations = ShutdownRegistrations::default();
        Self { registrations, deadline: Duration::from_secs(20) }
    }
}

impl Default for PluginsSettings {
    fn default() -> Self {
        Self {
            dir: None,
            reload: Reload::default(),
            drain: Duration::from_secs(30),
            cache_dir: None,
            limits: serde_json::Map::new(),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7468)),
            tls: None,
            hosts: Vec::new(),
            read_only: false,
            limits: CallerLimits::default(),
        }
    }
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self { calls: 512, streams: 16_384 }
    }
}
