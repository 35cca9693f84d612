//! TLS of a backend's connections, spoken by the host so that no private key enters the sandbox.
//!
//! # ALPN
//!
//! A guest cannot say which protocol it is about to speak on a TCP connection, and should not have
//! to be asked for: the default offer over `wasi:sockets` is `h2`. The plugins that speak TLS over
//! TCP are gRPC clients, and their servers (etcd's and everything else in Go) insist on it; a server
//! without ALPN, such as ZooKeeper's, ignores the offer (RFC 7301 §3.1). Only a server that knows
//! ALPN and speaks something else refuses, with an error that names the key `alpn`. Over `wasi:http`
//! the default is `h2` and `http/1.1`. An operator's `alpn` replaces both, an empty list offers nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::plugin::grants::{Host, Target};
use crate::settings::TlsSettings;

mod explain;

pub(crate) use explain::{explain_handshake, explain_stream};

const ALPN_TCP: &[&str] = &["h2"];
const ALPN_HTTP: &[&str] = &["h2", "http/1.1"];

/// Whether connections speak TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TlsSetting {
    /// Plain connections.
    #[default]
    Off,
    /// TLS. The files are read when the network is built.
    On(TlsSettings),
}

/// A TLS setting that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// A client certificate without key, or the reverse.
    #[error("tls.{present}: is set without tls.{missing}; set both or neither")]
    Half {
        /// The key that is set.
        present: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("tls.{key}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what its key asks for.
    #[error("tls.{key}: {} {fault}", path.display())]
    Content {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// Another key has an unusable value.
    #[error("tls.{key}: {fault}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// No `ca` is set and the system trusts nobody.
    #[error("tls: no trusted certificates are installed on this system{detail}; set tls.ca")]
    NoSystemRoots {
        /// What the search ran into.
        detail: String,
    },
}

/// What a connection is for; decides the protocols to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Bytes that the guest speaks.
    Tcp,
    /// Requests that the host speaks for the guest.
    Http,
}

/// TLS with one set of options.
#[derive(Debug)]
pub(crate) struct TlsClient {
    tcp: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// Which connections of a backend speak TLS, and how.
#[derive(Debug)]
pub(crate) struct TlsTable {
    backend: Option<Arc<TlsClient>>,
    endpoints: HashMap<Target, Option<Arc<TlsClient>>>,
    /// For `https` where the operator set nothing.
    system: OnceLock<Result<Arc<TlsClient>, String>>,
}

impl TlsTable {
    pub(crate) fn new<'a>(
        backend: &TlsSetting,
        endpoints: impl Iterator<Item = (Target, &'a TlsSetting)>,
    ) -> Result<Self, TlsError> {
        let endpoints = endpoints
            .map(|(target, setting)| Ok((target, TlsClient::for_setting(setting)?)))
            .collect::<Result<_, TlsError>>()?;
        Ok(Self { backend: TlsClient::for_setting(backend)?, endpoints, system: OnceLock::new() })
    }

    /// TLS for connections to `target`, where the operator asked for it.
    pub(crate) fn client_for(&self, target: &Target) -> Option<&Arc<TlsClient>> {
        self.endpoints.get(target).unwrap_or(&self.backend).as_ref()
    }

    /// TLS for a request that asks for it itself.
    pub(crate) fn client_for_https(&self, target: &Target) -> Result<&Arc<TlsClient>, String> {
        if let Some(client) = self.client_for(target) {
            return Ok(client);
        }
        self.system
            .get_or_init(|| {
                TlsClient::new(&TlsSettings::default())
                    .map(Arc::new)
                    .map_err(|error| error.to_string())
            })
            .as_ref()
            .map_err(Clone::clone)
    }
}

impl TlsClient {
    fn for_setting(setting: &TlsSetting) -> Result<Option<Arc<Self>>, TlsError> {
        match setting {
            TlsSetting::Off => Ok(None),
            TlsSetting::On(options) => Self::new(options).map(|client| Some(Arc::new(client))),
        }
    }

    fn new(options: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Value { key: "version", fault: error.to_string() })?
            .with_root_certificates(roots(options.ca.as_deref())?);
        let config = match (&options.cert, &options.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(_), None) => return Err(TlsError::Half { present: "cert", missing: "key" }),
            (None, Some(_)) => return Err(TlsError::Half { present: "key", missing: "cert" }),
            (Some(cert), Some(key)) => {
                let (chain, private_key) = client_identity(cert, key, &provider)?;
                builder
                    .with_client_auth_cert(chain, private_key)
                    .map_err(|error| identity_fault(&error, cert, key))?
            }
        };
        let server_name = options.server_name.as_deref().map(server_name).transpose()?;
        let with_alpn = |default: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = match &options.alpn {
                Some(protocols) => protocols.iter().map(|name| name.clone().into_bytes()).collect(),
                None => default.iter().map(|name| name.as_bytes().to_vec()).collect(),
            };
            Arc::new(config)
        };
        if options.alpn.iter().flatten().any(|name| name.is_empty() || name.len() > 255) {
            let fault = "a protocol name has 1 to 255 bytes".to_owned();
            return Err(TlsError::Value { key: "alpn", fault });
        }
        Ok(Self { tcp: with_alpn(ALPN_TCP), http: with_alpn(ALPN_HTTP), server_name })
    }

    /// Speaks TLS over `stream`, which is connected to `target`.
    ///
    /// # Errors
    ///
    /// A sentence that names the target, what went wrong and the key to change.
    pub(crate) async fn connect<S>(
        &self,
        target: &Target,
        purpose: Purpose,
        stream: S,
    ) -> Result<TlsStream<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match purpose {
            Purpose::Tcp => &self.tcp,
            Purpose::Http => &self.http,
        };
        let name = match (&self.server_name, &target.host) {
            (Some(name), _) => name.clone(),
            (None, Host::Address(address)) => ServerName::from(*address),
            (None, Host::Name(name)) => ServerName::try_from(name.clone())
                .map_err(|_| format!("{name} is no name that a certificate can carry"))?,
        };
        TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(|error| explain_handshake(target, config, &error))
    }
}

impl From<Option<TlsSettings>> for TlsSetting {
    fn from(settings: Option<TlsSettings>) -> Self {
        settings.map_or(Self::Off, Self::On)
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let detail = found.errors.first().map(|error| format!(" ({error})"));
            return Err(TlsError::NoSystemRoots { detail: detail.unwrap_or_default() });
        }
        return Ok(roots);
    };
    for certificate in certificates("ca", path)? {
        roots.add(certificate).map_err(|error| TlsError::Content {
            key: "ca",
            path: path.to_owned(),
            fault: format!("holds a certificate that cannot be trusted: {error}"),
        })?;
    }
    Ok(roots)
}

fn client_identity(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates("cert", cert)?;
    let content = |fault: String| TlsError::Content { key: "key", path: key.to_owned(), fault };
    let private_key = PrivateKeyDer::from_pem_slice(&read("key", key)?).map_err(|error| {
        content(match error {
            rustls::pki_types::pem::Error::NoItemsFound => "holds no private key in PEM".to_owned(),
            error => format!("is no usable PEM: {error}"),
        })
    })?;
    provider
        .key_provider
        .load_private_key(private_key.clone_key())
        .map_err(|error| content(format!("holds a key that cannot be used: {error}")))?;
    Ok((chain, private_key))
}

fn identity_fault(error: &rustls::Error, cert: &Path, key: &Path) -> TlsError {
    if let rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) = error {
        let fault = format!("does not belong to the certificate in {}", cert.display());
        return TlsError::Content { key: "key", path: key.to_owned(), fault };
    }
    let fault = format!("holds a certificate that cannot be used: {error}");
    TlsError::Content { key: "cert", path: cert.to_owned(), fault }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |fault| TlsError::Content { key, path: path.to_owned(), fault };
    let certificates = CertificateDer::pem_slice_iter(&read(key, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(format!("is no usable PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(content("holds no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { key, path: path.to_owned(), source })
}

fn server_name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Value {
        key: "server_name",
        fault: format!("\"{text}\" is neither a host name nor an address"),
    })
}
