//! Who may do what: access tokens and their roles.

use serde::{Deserialize, Serialize};

/// What the holder of a token may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads and watches.
    Viewer,
    /// Writes configuration, registers, locks, takes part in elections, checks backends.
    Operator,
    /// Manages tokens, reads the audit trail, restarts backends, sets the level of the log.
    Admin,
}

impl Role {
    /// All of them, the weakest first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An access token, without the secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = AccessToken))]
pub struct Token {
    /// Names it to a revocation.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The backends that it is good for; empty for all, and for what concerns no backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// When it was made, in milliseconds of the Unix epoch.
    pub created_ms: u64,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// When it ends, in milliseconds of the Unix epoch; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// All access tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Tokens {
    /// In the order in which they were made.
    pub tokens: Vec<Token>,
}

/// Request for a new access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Whose it is: 1 to 64 characters, not in use.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The backends that it is good for; empty for all, and for what concerns no backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Time until it ends; without it, it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// A new access token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CreatedToken {
    /// What it is.
    #[serde(flatten)]
    pub token: Token,
    /// The secret, for `Authorization: Bearer …`. It is not kept, and shown this once.
    pub secret: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Answer to a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Revoked {
    /// The token that is no good any more.
    pub token: Token,
}

/// What the server takes the caller for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Access {
    /// The token's name; `owner` for who may read the server's data folder, `anyone` where no token
    /// is asked for.
    pub caller: String,
    /// What the caller may do.
    pub role: Role,
    /// The backends that the token is good for; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// When the token ends, in milliseconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Whether the server asks for tokens.
    pub tokens_required: bool,
    /// Whether the server refuses changes.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        assert_eq!(Role::ALL.map(Role::as_str), ["viewer", "operator", "admin"]);
    }

    #[test]
    fn a_secret_is_not_printed_by_accident() {
        let token = Token {
            id: "1".into(),
            name: "ci".into(),
            role: Role::Viewer,
            backends: Vec::new(),
            created_ms: 0,
            created_by: String::new(),
            expires_ms: None,
        };
        let created = CreatedToken { token, secret: "pintle_xyz".into() };
        assert!(!format!("{created:?}").contains("xyz"));
    }
}
