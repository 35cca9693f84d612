//! TLS and mutual TLS; what is wrong is said.

use anyhow::{Context, Result};
use pintle::{Effect, lock::LockRequest};
use pintle_test_services::{EtcdOptions, EtcdTls, Leaf, TestCa};
use pintle_test_suites::{eventually, follow::Follower, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_no_http_2_is_told() -> Result<()> {
    let stage = Stage::new().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await?;
            // As servers answer that know only the old protocol.
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
            stream.shutdown().await?;
        }
        #[allow(unreachable_code, reason = "it names the type")]
        anyhow::Ok(())
    });
    let node = stage.start(stage.settings("a").endpoints([address.to_string()])).await?;
    let error = within("an answer", node.config.get("k")).await?.unwrap_err();
    answering.abort();
    assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None), "{error}");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("HTTP/2"), "it does not say what is wrong: {text}");
    Ok(())
}
