//! TLS over `wasi:sockets`: verified, and each failure in a sentence of its own.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;

use super::guest::{Guest, Names, PATIENCE, call, options};
use super::servers::{Authority, TlsServer, echo_server, serve};
use crate::plugin::network::{Network, NetworkOptions};
use crate::plugin::tls::TlsSetting;
use crate::settings::TlsSettings;

/// Options with `etcd1` at `server` as the endpoint, over TLS.
fn tls_options(server: SocketAddr, settings: TlsSettings) -> NetworkOptions {
    let mut options = options(&[&format!("etcd1:{}", server.port())]);
    options.resolver = Names::with(&[("etcd1", &["127.0.0.1"])]);
    options.tls = TlsSetting::On(settings);
    options
}

fn trusting(authority: &Authority) -> TlsSettings {
    TlsSettings { ca: Some(authority.file()), ..TlsSettings::default() }
}

/// Echoes `hello` over TLS; what went wrong otherwise.
async fn hello(server: SocketAddr, settings: TlsSettings) -> Result<(), String> {
    let mut guest = Guest::start(tls_options(server, settings)).await;
    let address = format!("etcd1:{}", server.port());
    let received = call!(guest, call_exchange(address, b"hello".to_vec(), false))?;
    received.end?;
    assert_eq!(received.bytes, b"hello");
    Ok(())
}

async fn failure(server: SocketAddr, settings: TlsSettings) -> String {
    hello(server, settings).await.expect_err("TLS should have failed")
}

#[tokio::test]
async fn plain_bytes_of_the_guest_travel_over_tls_12_and_13() {
    let authority = Authority::new("ca");
    let identity = authority.identity(&["etcd1"]);
    for only_tls12 in [false, true] {
        let server = TlsServer { only_tls12, ..TlsServer::default() }.echo(&identity).await;
        assert_eq!(hello(server, trusting(&authority)).await, Ok(()));
    }
}

#[tokio::test]
async fn two_mebibytes_pass_both_ways_over_tls() {
    let authority = Authority::new("ca");
    let server = TlsServer::default().echo(&authority.identity(&["etcd1"])).await;
    let mut guest = Guest::start(tls_options(server, trusting(&authority))).await;
    let bytes: Vec<u8> = (0..2 << 20).map(|index| (index % 251) as u8).collect();
    let address = format!("etcd1:{}", server.port());
    let received = call!(guest, call_exchange(address, bytes.clone(), false)).unwrap();
    assert_eq!(received.end, Ok(()));
    assert!(received.bytes == bytes, "what came back differs");
    assert!(guest.counters().bytes_sent > bytes.len() as u64, "the wire carries TLS records");
}

#[tokio::test]
async fn a_foreign_authority_is_not_trusted() {
    let authority = Authority::new("ca");
    let server = TlsServer::default().echo(&authority.identity(&["etcd1"])).await;
    for name in ["another ca", "ca"] {
        let text = failure(server, trusting(&Authority::new(name))).await;
        assert!(text.contains("not signed by an authority that this backend trusts"), "{text}");
        assert!(text.contains("set tls.ca"), "{text}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_named() {
    let authority = Authority::new("ca");
    let identity = authority.identity_with(&["etcd1"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let server = TlsServer::default().echo(&identity).await;
    let text = failure(server, trusting(&authority)).await;
    assert!(text.contains(&format!("certificate of etcd1:{} expired", server.port())), "{text}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_unless_the_operator_expects_it() {
    let authority = Authority::new("ca");
    let server = TlsServer::default().echo(&authority.identity(&["db.example"])).await;
    let text = failure(server, trusting(&authority)).await;
    assert!(text.contains("is not for etcd1 but for"), "{text}");
    assert!(text.contains("db.example") && text.contains("tls.server_name"), "{text}");

    let expected = Some("db.example".to_owned());
    let settings = TlsSettings { server_name: expected, ..trusting(&authority) };
    assert_eq!(hello(server, settings).await, Ok(()));
}

#[tokio::test]
async fn a_server_that_speaks_plain_text_is_told_apart() {
    let authority = Authority::new("ca");
    let server = serve(|mut stream| async move {
        let _ = stream.write_all(b"220 ready when you are\r\n").await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let text = failure(server, trusting(&authority)).await;
    assert!(text.contains("does not answer in TLS"), "{text}");
}

#[tokio::test]
async fn h2_is_offered_and_can_be_replaced() {
    let authority = Authority::new("ca");
    let identity = authority.identity(&["etcd1"]);
    let grpc = TlsServer { alpn: vec!["h2"], ..TlsServer::default() }.echo(&identity).await;
    assert_eq!(hello(grpc, trusting(&authority)).await, Ok(()));

    let other = TlsServer { alpn: vec!["postgresql"], ..TlsServer::default() };
    let other = other.echo(&identity).await;
    let text = failure(other, trusting(&authority)).await;
    assert!(text.contains("none of the protocols offered (h2); set tls.alpn"), "{text}");
    for alpn in [vec!["postgresql".to_owned()], vec![]] {
        let settings = TlsSettings { alpn: Some(alpn), ..trusting(&authority) };
        assert_eq!(hello(other, settings).await, Ok(()));
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_wants_one() {
    let authority = Authority::new("ca");
    let clients = Some(authority.file());
    let server = TlsServer { clients, ..TlsServer::default() };
    let server = server.echo(&authority.identity(&["etcd1"])).await;

    let text = failure(server, trusting(&authority)).await;
    assert!(text.contains("requires a client certificate; set tls.cert and tls.key"), "{text}");

    let elsewhere = Authority::new("elsewhere");
    let identity = elsewhere.identity(&["client"]);
    let with = |cert, key| TlsSettings { cert: Some(cert), key: Some(key), ..trusting(&authority) };
    let text = failure(server, with(identity.cert.clone(), identity.key.clone())).await;
    assert!(text.contains("refused the client certificate"), "{text}");

    let identity = authority.identity(&["client"]);
    assert_eq!(hello(server, with(identity.cert, identity.key)).await, Ok(()));
}

#[tokio::test]
async fn a_stream_that_ends_without_close_notify_is_an_error() {
    let authority = Authority::new("ca");
    let acceptor = TlsServer::default().acceptor(&authority.identity(&["etcd1"]));
    let server = serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            stream.write_all(b"half of the ans").await.unwrap();
            stream.flush().await.unwrap();
            stream.get_mut().0.shutdown().await.unwrap();
        }
    })
    .await;
    let mut guest = Guest::start(tls_options(server, trusting(&authority))).await;
    let address = format!("etcd1:{}", server.port());
    let received = call!(guest, call_exchange(address, vec![], true)).unwrap();
    assert_eq!(received.bytes, b"half of the ans");
    let text = received.end.unwrap_err();
    assert!(text.contains("without TLS close-notify"), "{text}");
}

#[tokio::test]
async fn an_endpoint_can_have_tls_of_its_own() {
    let authority = Authority::new("ca");
    let secure = TlsServer::default().echo(&authority.identity(&["etcd1"])).await;
    let plain = echo_server().await;
    let mut options = tls_options(secure, trusting(&authority));
    options.endpoints.push(plain.to_string().as_str().into());
    options.endpoints[1].tls = Some(TlsSetting::Off);
    let mut guest = Guest::start(options).await;
    let known = guest.store.data_mut().endpoints();
    assert_eq!(known, [("etcd1".to_owned(), true), ("127.0.0.1".to_owned(), false)]);
    for address in [format!("etcd1:{}", secure.port()), plain.to_string()] {
        let received = call!(guest, call_exchange(address, b"x".to_vec(), false)).unwrap();
        assert_eq!((received.bytes.as_slice(), received.end), (b"x".as_slice(), Ok(())));
    }
}

/// Why settings are refused before anything is connected to.
fn refusal(settings: TlsSettings) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut options = NetworkOptions::new("main", runtime.handle().clone());
    options.tls = TlsSetting::On(settings);
    Network::new(options).unwrap_err().to_string()
}

#[test]
fn half_a_client_identity_is_refused_with_the_missing_key() {
    let (cert, key) = (Some("client.pem".into()), Some("client.key".into()));
    assert_eq!(
        refusal(TlsSettings { cert, ..TlsSettings::default() }),
        "backends.main.tls.cert: is set without tls.key; set both or neither"
    );
    assert_eq!(
        refusal(TlsSettings { key, ..TlsSettings::default() }),
        "backends.main.tls.key: is set without tls.cert; set both or neither"
    );
}

#[test]
fn unusable_files_are_refused_by_name() {
    let authority = Authority::new("ca");
    let identity = authority.identity(&["client"]);
    let other = authority.identity(&["other"]);
    let missing = authority.directory.path().join("missing.pem");
    let empty = authority.write("empty.pem", "no certificate in here\n");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = authority.write("broken.pem", broken);
    let ca = |path: &std::path::Path| TlsSettings {
        ca: Some(path.to_owned()),
        ..TlsSettings::default()
    };
    let pair = |cert: &std::path::Path, key: &std::path::Path| TlsSettings {
        cert: Some(cert.to_owned()),
        key: Some(key.to_owned()),
        ..trusting(&authority)
    };
    for (settings, file, fault) in [
        (ca(&missing), "missing.pem", "tls.ca: cannot read"),
        (ca(&empty), "empty.pem", "holds no certificate"),
        (ca(&identity.key), "client.key", "holds no certificate"),
        (ca(&broken), "broken.pem", "cannot be trusted"),
        (pair(&empty, &identity.key), "empty.pem", "tls.cert"),
        (pair(&identity.cert, &empty), "empty.pem", "holds no private key"),
        (pair(&identity.cert, &other.key), "other.key", "does not belong to the certificate in"),
    ] {
        let text = refusal(settings);
        assert!(text.contains(file) && text.contains(fault), "{text}");
    }
}
