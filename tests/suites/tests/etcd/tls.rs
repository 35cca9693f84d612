//! TLS and mutual TLS; what is wrong is said.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use pintle::{Effect, lock::LockRequest};
use pintle_test_services::{EtcdOptions, EtcdTls, Leaf, TestCa};
use pintle_test_suites::{eventually, follow::Follower, within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{
    config::put,
    registry::LONG,
    stage::{NodeSettings, Stage},
    watch::prefix,
};

async fn server(ca: &TestCa, certificate: Leaf, client_authentication: bool) -> Result<Stage> {
    let tls =
        EtcdTls { server: certificate, authority: ca.path().to_owned(), client_authentication };
    Stage::alone(EtcdOptions { tls: Some(tls), ..EtcdOptions::default() }).await
}

fn trusting(stage: &Stage, ca: &TestCa) -> NodeSettings {
    stage.settings("a").backend(format!("tls = {{ ca = {:?} }}", ca.path()))
}

fn with_client(stage: &Stage, ca: &TestCa, client: &Leaf) -> NodeSettings {
    let (certificate, key) = (&client.certificate, &client.key);
    let ca = ca.path();
    let line = format!("tls = {{ ca = {ca:?}, cert = {certificate:?}, key = {key:?} }}");
    stage.settings("a").backend(line)
}

/// What a host says of a server that it cannot use, to the caller and to the operator alike.
async fn complaint(stage: &Stage, settings: NodeSettings) -> Result<String> {
    let node = stage.start(settings).await?;
    let error = within("an answer", node.config.get("k")).await?.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None), "{error}");
    let network = node.pintle.backend("main")?.network;
    let failure = network.last_failure.context("a failure that is counted")?;
    assert!(error.to_string().contains(&failure), "{error} does not say: {failure}");
    Ok(error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_over_tls() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = server(&ca, ca.server()?, false).await?;
    let node = stage.start(trusting(&stage, &ca)).await?;
    let seen = || format!("{:?}", node.pintle.backend("main"));
    put(&node.config, "k", "1").await.with_context(seen)?;
    let follower = Follower::open(&node.config, "watcher", prefix("")).await?;
    stage.etcd.ctl(&["put", &stage.key("k"), "2"]).await?;
    follower.until("the change", |now| now.state["k"] == "2").await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_and_its_name_is_the_user() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = server(&ca, ca.server()?, true).await?;
    let (alice, root) = (ca.client("alice")?, ca.client("root")?);
    let node = stage.start(with_client(&stage, &ca, &alice)).await?;
    put(&node.config, "k", "1").await?;

    let ctl = async |arguments: &[&str]| stage.etcd.ctl_as(Some(&root), arguments).await;
    ctl(&["user", "add", "root", "--no-password"]).await?;
    ctl(&["user", "grant-role", "root", "root"]).await?;
    ctl(&["role", "add", "alice"]).await?;
    let open = stage.key("open/");
    ctl(&["role", "grant-permission", "alice", "--prefix=true", "readwrite", &open]).await?;
    ctl(&["user", "add", "alice", "--no-password"]).await?;
    ctl(&["user", "grant-role", "alice", "alice"]).await?;
    ctl(&["auth", "enable"]).await?;
    put(&node.config, "open/k", "2").await?;
    let error = node.config.get("k").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("denied", Effect::None), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() -> Result<()> {
    let (ca, other) = (TestCa::new()?, TestCa::new()?);
    let stage = server(&ca, ca.server()?, false).await?;
    let text = complaint(&stage, trusting(&stage, &other)).await?;
    assert!(text.contains("not signed by an authority") && text.contains("tls.ca"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expired_is_refused() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = server(&ca, ca.expired_server()?, false).await?;
    let text = complaint(&stage, trusting(&stage, &ca)).await?;
    assert!(text.contains("expired") && text.contains(&stage.etcd.endpoint()), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused_unless_it_is_expected() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = server(&ca, ca.server_for_another_host()?, false).await?;
    let text = complaint(&stage, trusting(&stage, &ca)).await?;
    assert!(text.contains("other.invalid") && text.contains("server_name"), "{text}");
    let line = format!("tls = {{ ca = {:?}, server_name = \"other.invalid\" }}", ca.path());
    let node = stage.start(stage.settings("a").backend(line)).await?;
    put(&node.config, "k", "1").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_is_missing_or_foreign_is_named() -> Result<()> {
    let (ca, other) = (TestCa::new()?, TestCa::new()?);
    let stage = server(&ca, ca.server()?, true).await?;
    let missing = trusting(&stage, &ca);
    let foreign = with_client(&stage, &ca, &other.client("alice")?);
    for (settings, wanted) in [(missing, "tls.cert"), (foreign, "client certificate")] {
        let node = stage.start(settings).await?;
        // The server refuses after its part of the handshake: now and then its closing of the
        // connection is met by a write before its reason is read.
        eventually("the reason", async || {
            let error = within("an answer", node.config.get("k")).await?.unwrap_err();
            assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None), "{error}");
            Ok(error.to_string().contains(wanted).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_plain_port_is_told() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = Stage::new().await?;
    let text = complaint(&stage, trusting(&stage, &ca)).await?;
    assert!(text.contains("does not answer in TLS") || text.contains("speak TLS"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_to_a_tls_port_is_told() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = server(&ca, ca.server()?, false).await?;
    let node = stage.start(stage.settings("a")).await?;
    let error = within("an answer", node.config.get("k")).await?.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None), "{error}");
    let text = error.to_string();
    assert!(text.contains(&stage.etcd.endpoint()), "{text}");
    assert!(text.to_lowercase().contains("tls"), "it does not say what may be wrong: {text}");
    Ok(())
}

/// Answers as servers do that know only the protocol before HTTP/2.
async fn answer_in_http_1(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await?;
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
    Ok(stream.shutdown().await?)
}

/// Where such servers listen, over TLS with this certificate and these protocols, or without.
async fn http_1_server(tls: Option<(Leaf, &[&str])>) -> Result<SocketAddr> {
    let acceptor = tls.map(|(leaf, protocols)| {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes())?;
        let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = config.with_single_cert(chain, key)?;
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        anyhow::Ok(TlsAcceptor::from(Arc::new(config)))
    });
    let acceptor = acceptor.transpose()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // It ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => answer_in_http_1(acceptor.accept(stream).await?).await,
                    None => answer_in_http_1(stream).await,
                }
            });
        }
    });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_server_that_knows_no_http_2_is_refused_with_the_reason() -> Result<()> {
    let ca = TestCa::new()?;
    let stage = Stage::new().await?;
    // One that does not know ALPN says nothing in the handshake, one that does refuses there.
    let servers: [(&[&str], _); 2] =
        [(&[], "speaks HTTP/2 over TLS"), (&["http/1.1"], "none of the protocols offered (h2)")];
    for (protocols, wanted) in servers {
        let address = http_1_server(Some((ca.server()?, protocols))).await?;
        let settings = trusting(&stage, &ca).endpoints([address.to_string()]);
        let node = stage.start(settings).await?;
        let error = within("an answer", node.config.get("k")).await?.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None), "{error}");
        let text = error.to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains(wanted), "{protocols:?}: {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_no_http_2_is_told() -> Result<()> {
    let stage = Stage::new().await?;
    let address = http_1_server(None).await?;
    let node = stage.start(stage.settings("a").endpoints([address.to_string()])).await?;
    let error = within("an answer", node.config.get("k")).await?.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None), "{error}");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("HTTP/2"), "it does not say what is wrong: {text}");
    Ok(())
}
