//! A certificate authority for one test, and the leaves that tests of TLS need.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

use crate::{Error, Result};

/// A certificate authority; its files live as long as this value.
pub struct TestCa {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    path: PathBuf,
}

/// A certificate with its key, as text and as files inside the authority's folder.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PEM (PKCS #8).
    pub key_pem: String,
    /// File with the certificate.
    pub certificate: PathBuf,
    /// File with the private key.
    pub key: PathBuf,
    /// File with key, certificate and authority, as ZooKeeper wants them.
    pub combined: PathBuf,
}

/// A year that is long over.
const EXPIRED_YEAR: i32 = 2001;

impl TestCa {
    /// Makes an authority.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("pintle-ca-")
            .map_err(Error::file("create a folder in", std::env::temp_dir()))?;
        let mut params = params("pintle test authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let failed = |source| Error::Certificate { subject: "the authority".into(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        let path = folder.path().join("ca.pem");
        write(&path, &pem)?;
        Ok(Self { issuer: Issuer::new(params, key), folder, pem, path })
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The file with the authority's certificate.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A server's certificate for `localhost` and 127.0.0.1, good for client authentication too,
    /// as members of a cluster need it.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn server(&self) -> Result<Leaf> {
        self.leaf("server", params("localhost", &["localhost", "127.0.0.1"])?)
    }

    /// A client's certificate with this common name.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn client(&self, common_name: &str) -> Result<Leaf> {
        self.leaf(&format!("client-{common_name}"), params(common_name, &[common_name])?)
    }

    /// A server's certificate like [`server`](Self::server)'s that expired long ago.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn expired_server(&self) -> Result<Leaf> {
        let mut params = params("localhost", &["localhost", "127.0.0.1"])?;
        params.not_before = date_time_ymd(EXPIRED_YEAR, 1, 1);
        params.not_after = date_time_ymd(EXPIRED_YEAR, 12, 31);
        self.leaf("expired", params)
    }

    /// A valid server's certificate for another host.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn server_for_another_host(&self) -> Result<Leaf> {
        self.leaf("other", params("other.invalid", &["other.invalid"])?)
    }

    fn leaf(&self, file: &str, mut params: CertificateParams) -> Result<Leaf> {
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let failed = |source| Error::Certificate { subject: file.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate_pem = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        let key_pem = key.serialize_pem();
        let at = |suffix: &str| self.folder.path().join(format!("{file}{suffix}"));
        let leaf = Leaf {
            certificate: at(".pem"),
            key: at(".key"),
            combined: at("-all.pem"),
            certificate_pem,
            key_pem,
        };
        write(&leaf.certificate, &leaf.certificate_pem)?;
        write(&leaf.key, &leaf.key_pem)?;
        let combined = format!("{}{}{}", leaf.key_pem, leaf.certificate_pem, self.pem);
        write(&leaf.combined, &combined)?;
        Ok(leaf)
    }
}

fn params(common_name: &str, names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)
        .map_err(|source| Error::Certificate { subject: common_name.to_owned(), source })?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::file("write", path))
}
