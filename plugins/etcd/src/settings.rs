//! What the operator can set.

use pintle_plugin_sdk::{Error, Secret, http2};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Settings of an etcd backend; every one has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What every key of this backend begins with in etcd, such as `/prod/`. Empty, or with a `/` at
    /// its end.
    pub root: String,
    /// User, where the server has authentication switched on. With a client certificate neither user
    /// nor password is needed.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret<String>>,
    /// Raise this after restoring a snapshot of the cluster: lock tokens from before do not compare
    /// with later ones.
    pub epoch: u32,
    /// A PING is sent, in milliseconds, after this long without a word from the server while it owes
    /// an answer or a watch is open. Servers hang up on clients that ask more often than their
    /// `--grpc-keepalive-min-time`, 5 s if nothing is said.
    #[schemars(range(min = 1_000, max = 600_000))]
    pub ping_after_ms: u32,
    /// How long, in milliseconds, the answer to a PING may take before another server is tried.
    #[schemars(range(min = 100, max = 60_000))]
    pub ping_timeout_ms: u32,
    /// How long, in milliseconds, one server may take to accept a connection and answer.
    #[schemars(range(min = 100, max = 60_000))]
    pub connect_timeout_ms: u32,
    /// How many revisions back the history of a key is searched for what was before its deletion. The
    /// server reads all of them for that, of all keys.
    #[schemars(range(max = 1_000_000))]
    pub history_scan_revisions_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: String::new(),
            user: None,
            password: None,
            epoch: 0,
            ping_after_ms: 6_000,
            ping_timeout_ms: 4_000,
            connect_timeout_ms: 3_000,
            history_scan_revisions_max: 10_000,
        }
    }
}

/// Name and password.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret<String>,
}

impl Settings {
    /// Refuses what no server can make work.
    ///
    /// # Errors
    ///
    /// `invalid`, with the setting's name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |setting: &str, message: String| {
            Err(Error::invalid(message).detail("setting", setting))
        };
        if !self.root.is_empty() && !self.root.ends_with('/') {
            let message = format!("`root` is `{0}`: end it with a separator, `{0}/`", self.root);
            return refuse("root", message);
        }
        match (&self.user, &self.password) {
            (Some(user), Some(_)) if user.is_empty() => {
                refuse("user", "`user` is empty: name a user, or leave it out".to_owned())
            }
            (Some(_), None) => {
                refuse("password", "`user` is set and `password` is not: set both".to_owned())
            }
            (None, Some(_)) => {
                refuse("user", "`password` is set and `user` is not: set both".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let (user, password) = (self.user.clone()?, self.password.clone()?);
        Some(Credentials { user, password })
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.into())
    }

    pub(crate) fn http2(&self) -> http2::Options {
        http2::Options {
            ping_after: Duration::from_millis(self.ping_after_ms.into()),
            ping_timeout: Duration::from_millis(self.ping_timeout_ms.into()),
            // etcd takes PINGs without a request for abuse.
            ping_while_idle: false,
            ..http2::Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting_refused(settings: &Settings) -> Option<String> {
        let error = settings.check().err()?;
        error.details().first().map(|(_, setting)| setting.clone())
    }

    #[test]
    fn half_set_credentials_and_a_root_without_separator_are_refused_by_name() {
        let password = Some(Secret::new("secret".to_owned()));
        let user = Some("pintle".to_owned());
        let refused = |settings: Settings| setting_refused(&settings);
        assert_eq!(refused(Settings::default()), None);
        assert_eq!(refused(Settings { root: "/prod/".into(), ..Settings::default() }), None);
        assert_eq!(
            refused(Settings { root: "/prod".into(), ..Settings::default() }).unwrap(),
            "root"
        );
        assert_eq!(
            refused(Settings { user: user.clone(), ..Settings::default() }).unwrap(),
            "password"
        );
        let only_password = Settings { password: password.clone(), ..Settings::default() };
        assert_eq!(refused(only_password).unwrap(), "user");
        let both = Settings { user, password, ..Settings::default() };
        assert_eq!(setting_refused(&both), None);
        assert!(!format!("{both:?}").contains("secret"));
    }
}
