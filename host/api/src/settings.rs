//! The settings that a host runs with.

use serde::{Deserialize, Serialize};

/// One setting, never with a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Setting {
    /// Path of the key: `backends.main.plugin`.
    pub key: String,
    /// The value as TOML. Secrets by reference show the reference; others are hidden.
    pub value: String,
    /// Where it was set: a file and line, a variable of the environment, or `default`.
    pub origin: String,
}

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Settings {
    /// In the order of their keys.
    pub settings: Vec<Setting>,
}
