//! TLS of the server.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use pintle::settings::ServerTls;
use pintle_client::{Client, ClientError, api::access::Role};
use pintle_server::{Listen, Tls};
use pintle_test_services::{Leaf, TestCa};
use pintle_test_suites::{eventually, within};
use tokio::{net::TcpListener, sync::oneshot};

use crate::served::Served;

/// Puts a certificate where the server finds it, as a renewal does.
fn install(leaf: &Leaf, files: &ServerTls) -> Result<()> {
    let put = |text: &str, to: &Path| -> Result<()> {
        let draft = to.with_extension("new");
        fs::write(&draft, text)?;
        Ok(fs::rename(draft, to)?)
    };
    put(&leaf.certificate_pem, &files.cert)?;
    put(&leaf.key_pem, &files.key)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_travel_over_tls_and_a_renewed_certificate_is_used_without_a_restart() -> Result<()>
{
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Viewer, &[]).await?;
    let folder = tempfile::tempdir()?;
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let files = ServerTls { cert, key };
    let (old, new) = (TestCa::new()?, TestCa::new()?);
    install(&old.server()?, &files)?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let places = vec![Listen::tls(listener, Tls::load(&files)?)];
    let (stop, stopped) = oneshot::channel::<()>();
    let api = served.api.clone();
    let serving = tokio::spawn(async move {
        api.serve_at(places, async {
            // Either way it is time to stop.
            let _ = stopped.await;
        })
        .await
    });
    let client = |ca: &TestCa| Client::connect(&url, Some(ca.pem().as_bytes()));
    assert_eq!(client(&old)?.with_token(&secret)?.admin().access().await?.caller, "ann");
    let stranger = client(&new)?.admin().liveness().await.unwrap_err();
    assert!(matches!(stranger, ClientError::Unreachable { .. }), "{stranger}");
    let plain = Client::http(&url.replace("https", "http"))?.admin().liveness().await;
    assert!(plain.is_err());

    // A broken pair changes nothing.
    fs::write(&files.key, "no key")?;
    assert!(client(&old)?.admin().liveness().await.is_ok());
    install(&new.server()?, &files)?;
    eventually("the new certificate", async || Ok(client(&new)?.admin().liveness().await.ok()))
        .await?;
    assert!(client(&old)?.admin().liveness().await.is_err());

    let _ = stop.send(());
    within("the end", serving).await???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_belongs_to_another_certificate_is_refused() -> Result<()> {
    let ca = TestCa::new()?;
    let (one, other) = (ca.server()?, ca.client("other")?);
    let files = ServerTls { cert: one.certificate, key: other.key };
    let error = Tls::load(&files).err().context("it was taken")?.to_string();
    ensure!(error.contains("server.tls"), "{error}");
    Ok(())
}
