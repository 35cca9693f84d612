//! The certificates are good, or bad, in the one way that their names say.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::sync::Arc;

use pintle_test_services::{Leaf, TestCa};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig,
    ServerConnection,
};

/// What a client that trusts the authority says about a server with this leaf.
fn handshake(ca: &TestCa, leaf: &Leaf) -> Result<(), Error> {
    let certificate = CertificateDer::from_pem_file(&leaf.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn the_servers_leaf_is_accepted() {
    let ca = TestCa::new().unwrap();
    handshake(&ca, &ca.server().unwrap()).unwrap();
}

#[test]
fn an_expired_leaf_is_refused_as_expired() {
    let ca = TestCa::new().unwrap();
    let error = handshake(&ca, &ca.expired_server().unwrap()).unwrap_err();
    let expired = matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        )
    );
    assert!(expired, "{error:?}");
}

#[test]
fn a_leaf_for_another_host_is_refused_for_its_name() {
    let ca = TestCa::new().unwrap();
    let error = handshake(&ca, &ca.server_for_another_host().unwrap()).unwrap_err();
    let wrong = matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    );
    assert!(wrong, "{error:?}");
}

#[test]
fn a_leaf_of_another_authority_is_refused() {
    let (ca, other) = (TestCa::new().unwrap(), TestCa::new().unwrap());
    let error = handshake(&ca, &other.server().unwrap()).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error:?}");
}

#[test]
fn the_combined_file_holds_key_certificate_and_authority() {
    let ca = TestCa::new().unwrap();
    let text = std::fs::read_to_string(ca.client("alice").unwrap().combined).unwrap();
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(text.matches("BEGIN PRIVATE KEY").count(), 1);
}
