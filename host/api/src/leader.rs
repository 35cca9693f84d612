//! Elections: a recipe over locks, the same on every backend.

use serde::{Deserialize, Serialize};

use crate::lock::Claim;

/// The lock of an election: whoever holds it leads.
#[must_use]
pub fn lock_name(election: &str) -> String {
    format!("leader/{election}")
}

/// Who leads an election, and who would like to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Election {
    /// Its name.
    pub name: String,
    /// Who leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Claim>,
    /// Who waits to lead, in the order in which they will where the backend keeps one.
    #[serde(default)]
    pub candidates: Vec<Claim>,
}
