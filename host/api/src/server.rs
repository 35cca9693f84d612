//! The server itself.

use serde::{Deserialize, Serialize};

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// `error`, `warn`, `info`, `debug` or `trace`, or several of them by target, as in
    /// `warn,pintle=debug`.
    pub filter: String,
}
