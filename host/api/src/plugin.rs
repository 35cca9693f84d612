//! Plugins: the files in the plugins' directory.

use serde::{Deserialize, Serialize};

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plugin {
    /// Its name: the stem of its file.
    pub name: String,
    /// Its file.
    pub path: String,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// Version of the plugin.
    pub version: String,
    /// One line.
    pub summary: String,
    /// `config`, `registry`, `lock`, `tracing`, with the version of each interface.
    pub capabilities: Vec<String>,
    /// The finer promises that it declares.
    pub features: Vec<String>,
    /// What it asks of the host.
    pub imports: Vec<String>,
    /// True when two of it must never run on the same data.
    pub single_writer: bool,
    /// True when it keeps files.
    pub data_directory: bool,
    /// JSON Schema of its settings.
    pub settings_schema: serde_json::Value,
}

/// A file in the plugins' directory: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PluginFile {
    /// Name of the plugin that it should be.
    pub name: String,
    /// The plugin in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Plugin>,
    /// Why it cannot be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The plugins' directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plugins {
    /// In the order of their names.
    pub plugins: Vec<PluginFile>,
}

/// Which file is meant: the query of `POST /v1/plugins/{plugin}/accept`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct AcceptQuery {
    /// Its digest, if another is not to be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}
