//! TLS of the server: a certificate that is read again when its files change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use pintle::settings::ServerTls;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The server's side of TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("server.tls.{key}: {}: {reason}", path.display())]
    File {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The two files do not belong together, or the key is of a kind that is not known.
    #[error("server.tls: {} and {}: {source}", files.cert.display(), files.key.display())]
    Pair {
        /// The two.
        files: ServerTls,
        /// What is wrong.
        source: rustls::Error,
    },
}

struct Certificate {
    files: ServerTls,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
}

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    ///
    /// Names the setting, the file, and what is wrong.
    pub fn load(files: &ServerTls) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = read(files, &provider)?;
        let certificate = Arc::new(Certificate {
            files: files.clone(),
            provider: Arc::clone(&provider),
            current: ArcSwap::from_pointee(current),
        });
        let pair = |source| TlsError::Pair { files: files.clone(), source };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(pair)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// Reads the files again whenever they change, until it is dropped. What cannot be used is
    /// logged, and the present certificate stays.
    pub(crate) async fn follow_files(self) {
        let certificate = self.certificate;
        let mut seen = stamps(&certificate.files);
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let now = stamps(&certificate.files);
            if now == seen {
                continue;
            }
            match read(&certificate.files, &certificate.provider) {
                Ok(next) => {
                    tracing::info!(cert = %certificate.files.cert.display(), "new certificate");
                    certificate.current.store(Arc::new(next));
                }
                // The other file may come in a moment.
                Err(error) => tracing::error!(%error, "the certificate before stays in use"),
            }
            seen = now;
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.certificate.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

fn read(files: &ServerTls, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let fault =
        |key, path: &Path, reason: String| TlsError::File { key, path: path.into(), reason };
    let text = |key, path: &Path| {
        fs::read(path).map_err(|error: io::Error| fault(key, path, error.to_string()))
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text("cert", &files.cert)?)
            .collect::<Result<_, _>>()
            .map_err(|error| fault("cert", &files.cert, error.to_string()))?;
    if chain.is_empty() {
        let reason = "no certificate in it; expected `-----BEGIN CERTIFICATE-----`";
        return Err(fault("cert", &files.cert, reason.into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&text("key", &files.key)?).map_err(|_| {
        // Nothing of a key belongs in a text.
        let reason = "no private key in it; expected `-----BEGIN PRIVATE KEY-----`, not encrypted";
        fault("key", &files.key, reason.into())
    })?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| TlsError::Pair { files: files.clone(), source })
}

type Stamp = Option<(SystemTime, u64)>;

fn stamps(files: &ServerTls) -> [Stamp; 2] {
    [&files.cert, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let files = ServerTls { cert: cert.clone(), key };
        let text = Tls::load(&files).unwrap_err().to_string();
        assert!(text.contains("server.tls.cert") && text.contains("cert.pem"), "{text}");
        fs::write(&cert, "nothing").unwrap();
        let text = Tls::load(&files).unwrap_err().to_string();
        assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
    }
}
