//! What the operator writes, in `pintle.toml` and in environment variables.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use backend::{
    BackendSettings, HttpSettings, LimitSettings, ProxySettings, SecretReference, TlsSettings,
};
pub use error::{Origin, Problem, SettingsError};
pub use load::IMPLICIT_BACKEND;
pub use resolve::PreparedSettings;
pub use schema::{SCHEMA_BYTES_MAX, SchemaError, SchemaProblem, SettingsSchema};
pub use show::ShownSetting;
pub use values::{ByteSize, CpuShare, Endpoint, ValueError, duration_text, parse_duration};

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
}

/// Where plugins come from: `[plugins]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsSettings {
    /// Folder with the plugins' files. Default: see [`Settings::plugins_folder`].
    pub dir: Option<PathBuf>,
    /// What happens when a plugin's file changes. Default: `"auto"`.
    pub reload: Reload,
    /// Folder of the compiled plugins. Default: `cache` in the data directory.
    pub cache_dir: Option<PathBuf>,
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

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7468)) }
    }
}
