//! What the operator can set.

use crate::wire::Acl;
use pintle_plugin_sdk::{Error, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

/// Settings of a ZooKeeper backend; every one has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The node below which all is kept: configuration keys, and what Pintle itself stores in
    /// `.pintle`. It is created when something is written.
    pub root: String,
    /// User of the scheme `digest`; needs `password`.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret<String>>,
    /// Who may do what with nodes that are created here, each `scheme:id:permissions` as in zkCli:
    /// `world:anyone:r`, `auth::cdrwa`. If absent everything is allowed to everyone or, with `user`,
    /// to that user alone.
    pub acl: Option<Vec<String>>,
    /// How long the server keeps the session for configuration and watches without a sign of life.
    /// A silent server is left after half of it. Those of locks and registrations follow their TTL.
    #[schemars(range(min = 2_000, max = 3_600_000))]
    pub session_timeout_ms: u32,
    /// Largest request that the servers take: their `jute.maxbuffer`.
    #[schemars(range(min = 4_096, max = 16_777_216))]
    pub request_bytes_max: u32,
    /// Largest answer that is taken from a server: what a directory's names take, or a value. One that
    /// is larger fails its call and no other. At least `request_bytes_max`.
    #[schemars(range(min = 65_536, max = 67_108_864))]
    pub answer_bytes_max: u32,
    /// What all watches of the backend may keep together, to know what has changed, with the changes
    /// that wait for them. It should be a
    /// quarter of `limits.memory`, since all of it is read again after a gap. A watch that would need
    /// more ends with `exhausted`.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub watched_bytes_max: u32,
    /// How exclusive claims are named, after the recipe of Apache Curator that shall see them.
    pub exclusive_claims: ExclusiveClaims,
    /// Raise this after restoring a copy of the data: lock tokens from before do not compare with
    /// later ones.
    pub epoch: u32,
}

/// Which recipe of Apache Curator sees exclusive claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExclusiveClaims {
    /// `InterProcessMutex`. It does not see shared claims.
    #[default]
    Mutex,
    /// `InterProcessReadWriteLock`.
    ReadWrite,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: "/".to_owned(),
            user: None,
            password: None,
            acl: None,
            session_timeout_ms: 15_000,
            request_bytes_max: 1_048_575,
            answer_bytes_max: 4 << 20,
            watched_bytes_max: 16 << 20,
            exclusive_claims: ExclusiveClaims::default(),
            epoch: 0,
        }
    }
}

impl Settings {
    /// `user:password`, if the backend has one.
    ///
    /// # Errors
    ///
    /// `invalid` when only one of both is set.
    pub(crate) fn digest(&self) -> Result<Option<Secret<String>>, Error> {
        match (&self.user, &self.password) {
            (None, None) => Ok(None),
            (Some(user), Some(password)) if !user.is_empty() && !user.contains(':') => {
                Ok(Some(Secret::new(format!("{user}:{}", password.expose()))))
            }
            (Some(_), Some(_)) => Err(wrong("user", "`user` is empty or has a `:`")),
            (Some(_), None) => Err(wrong("password", "`user` is set and `password` is not")),
            (None, Some(_)) => Err(wrong("user", "`password` is set and `user` is not")),
        }
    }

    /// The access control list of nodes that are created here.
    ///
    /// # Errors
    ///
    /// `invalid` when one does not have the form that zkCli knows.
    pub(crate) fn acl(&self) -> Result<Vec<Acl>, Error> {
        let default = if self.user.is_some() { "auth::cdrwa" } else { "world:anyone:cdrwa" };
        let texts = self.acl.clone().unwrap_or_else(|| vec![default.to_owned()]);
        if texts.is_empty() {
            return Err(wrong("acl", "`acl` is empty: nobody could do anything"));
        }
        texts.iter().map(|text| acl_of(text)).collect()
    }

    /// The root without a `/` at its end: empty for the root of all.
    ///
    /// # Errors
    ///
    /// `invalid` when it is no path of a node.
    pub(crate) fn root(&self) -> Result<String, Error> {
        let root = self.root.trim_end_matches('/');
        let segments = root.strip_prefix('/').unwrap_or(root).split('/');
        let plain = segments.clone().all(|segment| {
            !matches!(segment, "" | "." | "..") && !segment.chars().any(crate::path::is_unholdable)
        });
        match root {
            "" => Ok(String::new()),
            _ if !root.starts_with('/') => Err(wrong("root", "`root` does not begin with `/`")),
            _ if !plain => Err(wrong("root", "`root` is no path of a ZooKeeper node")),
            "/zookeeper" => Err(wrong("root", "`root` is what ZooKeeper keeps for itself")),
            _ => Ok(root.to_owned()),
        }
    }
}

fn wrong(setting: &str, message: &str) -> Error {
    Error::invalid(format!("settings: {message}")).detail("setting", setting)
}

fn acl_of(text: &str) -> Result<Acl, Error> {
    let malformed =
        || wrong("acl", &format!("`{text}` is not of the form `scheme:id:permissions`"));
    let (scheme, rest) = text.split_once(':').ok_or_else(malformed)?;
    // The id of `digest` holds a colon itself.
    let (id, letters) = rest.rsplit_once(':').ok_or_else(malformed)?;
    if scheme.is_empty() || letters.is_empty() {
        return Err(malformed());
    }
    let mut permissions = 0;
    for letter in letters.chars() {
        permissions |= match letter {
            'r' => 1,
            'w' => 2,
            'c' => 4,
            'd' => 8,
            'a' => 16,
            _ => return Err(wrong("acl", &format!("`{text}`: permissions are of `cdrwa`"))),
        };
    }
    Ok(Acl { permissions, scheme: scheme.to_owned(), id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting_of<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), "invalid");
        error.details()[0].1.clone()
    }

    #[test]
    fn half_set_credentials_are_refused_by_name() {
        let user = Settings { user: Some("u".into()), ..Settings::default() };
        assert_eq!(setting_of(user.digest()), "password");
        let password = Some(Secret::new("p".to_owned()));
        let password = Settings { password, ..Settings::default() };
        assert_eq!(setting_of(password.digest()), "user");
        let both = Settings { user: Some("u".into()), ..password };
        assert_eq!(both.digest().unwrap().unwrap().expose(), "u:p");
        assert!(!format!("{both:?}").contains("\"p\""));
    }

    #[test]
    fn access_control_lists_are_written_as_in_the_servers_own_tool() {
        let digest = acl_of("digest:bob:xyz=:rw").unwrap();
        let expected = Acl { permissions: 3, scheme: "digest".into(), id: "bob:xyz=".into() };
        assert_eq!(digest, expected);
        assert_eq!(acl_of("auth::cdrwa").unwrap().permissions, Acl::ALL);
        for wrong in ["", "world", "world:anyone", "world:anyone:", "world:anyone:x", ":a:r"] {
            assert_eq!(setting_of(acl_of(wrong)), "acl", "{wrong:?}");
        }
    }

    #[test]
    fn the_root_is_a_path_of_a_node() {
        let root = |root: &str| Settings { root: root.to_owned(), ..Settings::default() }.root();
        assert_eq!(root("/").unwrap(), "");
        assert_eq!(root("/prod/").unwrap(), "/prod");
        for wrong in ["prod", "/a//b", "/a/../b", "/a\n", "/zookeeper"] {
            assert_eq!(setting_of(root(wrong)), "root", "{wrong:?}");
        }
    }
}
