//! What one backend is: its plugin, what it may reach, and what the plugin itself is told.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::values::{ByteSize, CpuShare, Endpoint, duration_as_text};

/// A named, configured use of a plugin: `[backends.NAME]`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSettings {
    /// Name of the plugin: the stem of its file (`etcd` is `etcd.wasm` in `plugins.dir`).
    pub plugin: String,
    /// SHA-256 of the plugin's file in hexadecimal digits; any other file is refused. Default: any.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Refuse to start without this backend. Default: `false`.
    #[serde(default)]
    pub required: bool,
    /// Servers of this backend, given to the plugin in this order. They are granted as well.
    /// Default: none.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Further addresses that the plugin may reach, for instance those that a server answers with:
    /// `host:port`, `*.suffix:port` or `network/bits:port`, with `*` or a range for the port.
    /// Default: none.
    #[serde(default)]
    pub allow: Vec<String>,
    /// TLS to every endpoint: `true`, or a table. Default: none, plain TCP.
    #[serde(default, deserialize_with = "tls_switch_or_table")]
    pub tls: Option<TlsSettings>,
    /// How outgoing HTTP is spoken.
    #[serde(default)]
    pub http: HttpSettings,
    /// Proxy for outgoing HTTP; connections over TCP never use it. Default: none.
    #[serde(default, deserialize_with = "proxy_url_or_table")]
    pub proxy: Option<ProxySettings>,
    /// The one directory that is granted to the plugin. It is created if missing, with access for
    /// its owner only. Default: none; a plugin that keeps files does not start without it.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// What the plugin may use up.
    #[serde(default)]
    pub limits: LimitSettings,
    /// The plugin's own settings, checked against its schema. A text may be given by reference:
    /// `{ env = "NAME" }` or `{ file = "path" }`. Default: empty.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// TLS of one backend. The host speaks it; no key ever enters the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// File with the certificates (PEM) of the authorities to trust, instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// File with the client certificate and its chain (PEM). Needs `key`.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// File with the private key of `cert` (PEM). Needs `cert`.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Name that the server's certificate must carry. Default: the endpoint's host.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Protocols to offer, the preferred one first; an empty list offers none. Default: `["h2"]` over
    /// TCP, which servers without ALPN ignore, and `["h2", "http/1.1"]` for HTTP.
    #[serde(default)]
    pub alpn: Option<Vec<String>>,
}

/// How outgoing HTTP is spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Speak HTTP/2 without TLS from the first byte (prior knowledge). Default: `false`, HTTP/1.1.
    #[serde(default)]
    pub h2c: bool,
}

/// Proxy for outgoing HTTP: its URL, or a table with credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxySettings {
    /// `http://host:port`.
    pub url: String,
    /// User name at the proxy. Needs `password`.
    #[serde(default)]
    pub user: Option<String>,
    /// Password at the proxy, by reference. Needs `user`.
    #[serde(default)]
    pub password: Option<SecretReference>,
}

/// Where the host finds a secret. Written in place of a text: `{ env = "NAME" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretReference {
    /// In an environment variable of the host.
    Env(String),
    /// In a file; one line end at its end does not count.
    File(PathBuf),
}

/// What a plugin may use up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Memory of the sandbox, 1MiB to 4GiB. Default: `"64MiB"`.
    pub memory: ByteSize,
    /// Processor time; what is above waits. Default: `"1s/s"`, one core, which is
    /// all that a plugin can use.
    pub cpu: CpuShare,
    /// Time for one call when the caller names none, and the most that a caller may name. 10ms to
    /// 10min. Default: `"5s"`.
    #[serde(with = "duration_as_text")]
    pub call: Duration,
    /// Open connections at a time, 1 to 1024. Default: `8`.
    pub connections: u32,
    /// Further limits by their names, as `docs/security.md` lists them. Default: none changed.
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// Shows the keys of the plugin's settings only: a value may be a secret.
impl fmt::Debug for BackendSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BackendSettings")
            .field("plugin", &self.plugin)
            .field("sha256", &self.sha256)
            .field("required", &self.required)
            .field("endpoints", &self.endpoints)
            .field("allow", &self.allow)
            .field("tls", &self.tls)
            .field("http", &self.http)
            .field("proxy", &self.proxy)
            .field("data_dir", &self.data_dir)
            .field("limits", &self.limits)
            .field("settings", &self.settings.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            memory: ByteSize::from_mib(64),
            cpu: CpuShare::WHOLE_CORE,
            call: Duration::from_secs(5),
            connections: 8,
            more: serde_json::Map::new(),
        }
    }
}

impl SecretReference {
    /// What `value` refers to, if it is a table with nothing but `env` or `file` in it.
    pub(crate) fn from_value(value: &serde_json::Value) -> Option<Self> {
        let table = value.as_object().filter(|table| table.len() == 1)?;
        let env = table.get("env").and_then(|name| name.as_str());
        let file = table.get("file").and_then(|path| path.as_str());
        env.map(|name| Self::Env(name.to_owned())).or(file.map(|path| Self::File(path.into())))
    }
}

impl<'de> Deserialize<'de> for SecretReference {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        Self::from_value(&value).ok_or_else(|| {
            let text = "expected a secret by reference: { env = \"NAME\" } or { file = \"path\" }";
            serde::de::Error::custom(text)
        })
    }
}

fn tls_switch_or_table<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<TlsSettings>, D::Error> {
    struct SwitchOrTable;

    impl<'de> Visitor<'de> for SwitchOrTable {
        type Value = Option<TlsSettings>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("true, false or a table like { ca = \"ca.pem\" }")
        }

        fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Self::Value, E> {
            Ok(on.then(TlsSettings::default))
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
            TlsSettings::deserialize(MapAccessDeserializer::new(table)).map(Some)
        }
    }

    from.deserialize_any(SwitchOrTable)
}

fn proxy_url_or_table<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<ProxySettings>, D::Error> {
    struct UrlOrTable;

    impl<'de> Visitor<'de> for UrlOrTable {
        type Value = Option<ProxySettings>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a URL like \"http://proxy:3128\" or a table with one as \"url\"")
        }

        fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<Self::Value, E> {
            Ok(Some(ProxySettings { url: url.to_owned(), user: None, password: None }))
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
            ProxySettings::deserialize(MapAccessDeserializer::new(table)).map(Some)
        }
    }

    from.deserialize_any(UrlOrTable)
}
