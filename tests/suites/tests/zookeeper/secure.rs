//! TLS, and who may do what.

use anyhow::{Context, Result};
use futures::future::join_all;
use pintle::config::{Consistency, Put, ReadOptions};
use pintle_test_services::{TestCa, ZooKeeper, ZooKeeperOptions, ZooKeeperTls};

use crate::support::{Host, create, other_client, shared};

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_client_with_a_certificate_is_served_and_another_is_not() -> Result<()> {
    let authority = TestCa::new()?;
    let tls = Some(ZooKeeperTls::new(&authority, true)?);
    let server = ZooKeeper::start(ZooKeeperOptions { tls, ..ZooKeeperOptions::default() }).await?;
    let endpoint = server.secure_endpoint().context("no TLS")?;
    let backend = |certificate: &str| {
        format!(
            "[backends.main]\nplugin = \"zookeeper\"\nendpoints = [\"{endpoint}\"]\n\
             tls = {{ ca = {:?}{certificate} }}\n[backends.main.settings]\nroot = \"/tls\"\n",
            authority.path()
        )
    };
    let alice = authority.client("alice")?;
    let certificate = format!(", cert = {:?}, key = {:?}", alice.certificate, alice.key);
    let host = Host::with(&backend(&certificate)).await?;
    let config = host.config()?;
    config.put(Put::new("k", "1")).await?;
    assert_eq!(&config.get("k").await?.context("nothing there")?.value[..], b"1");
    assert!(server.ctl(&["get", "/tls/k"]).await?.ends_with('1'));

    let stranger = Host::with(&backend("")).await?;
    let error = stranger.config()?.get("k").await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_user_are_closed_to_strangers() -> Result<()> {
    let endpoint = [shared().await?.endpoint()];
    let own =
        Host::start(&endpoint, "root = \"/digest\"\nuser = \"bob\"\npassword = \"sesame\"").await?;
    own.config()?.put(Put::new("k", "1")).await?;
    assert!(own.config()?.get("k").await?.is_some());
    let lease = own.acquire(pintle::lock::LockRequest::new("job")).await?;
    for credentials in ["", "user = \"bob\"\npassword = \"wrong\""] {
        let stranger =
            Host::start(&endpoint, &format!("root = \"/digest\"\n{credentials}")).await?;
        let read = stranger.config()?.get("k").await.unwrap_err();
        assert_eq!(read.code(), "denied", "{read}");
        let written = stranger.config()?.put(Put::new("k", "2")).await.unwrap_err();
        assert_eq!(written.code(), "denied", "{written}");
        assert!(!format!("{read} {written}").contains("sesame"));
        let request = pintle::lock::LockRequest::new("job");
        let claimed = stranger.pintle.lock("main")?.acquire(request).await.unwrap_err();
        assert_eq!(claimed.code(), "denied", "{claimed}");
    }
    let other = other_client().await?;
    assert!(other.get_data("/digest/k").await.is_err());
    other.auth("digest", b"bob:sesame").await?;
    let (data, _) = other.get_data("/digest/k").await?;
    assert_eq!(data, b"1");
    lease.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_read_at_the_same_time_are_each_their_own() -> Result<()> {
    let endpoint = [shared().await?.endpoint()];
    let root = "root = \"/together\"";
    let host = Host::start(&endpoint, root).await?;
    let as_bob = format!("{root}\nuser = \"bob\"\npassword = \"sesame\"");
    let bob = Host::start(&endpoint, &as_bob).await?;
    let (config, other) = (host.config()?, other_client().await?);
    config.put(Put::new("dir/k", "1")).await?;
    bob.config()?.put(Put::new("closed", "2")).await?;
    // Together they are more than one answer may be.
    create(&other, "/together/large", &[b'x'; 900_000]).await?;
    for consistency in [Consistency::Linearizable, Consistency::Sequential] {
        let options = ReadOptions { consistency: Some(consistency), ..ReadOptions::default() };
        let keys = ["dir/k", "dir", "gone", "closed", "large"].into_iter().cycle().take(60);
        let reads = keys.map(async |key| (key, config.get_with(key, options.clone()).await));
        for (key, read) in join_all(reads).await {
            let value = match &read {
                Ok(entry) => Ok(entry.as_ref().map(|entry| entry.value.len())),
                Err(error) => Err(error.code()),
            };
            let expected = match key {
                "dir/k" => Ok(Some(1)),
                "large" => Ok(Some(900_000)),
                "closed" => Err("denied"),
                _ => Ok(None),
            };
            assert_eq!(value, expected, "{key}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn half_set_credentials_are_refused_by_name() -> Result<()> {
    let endpoint = [shared().await?.endpoint()];
    let host = Host::start(&endpoint, "user = \"bob\"").await?;
    let error = host.config()?.get("k").await.unwrap_err();
    assert!(error.to_string().contains("`password` is not"), "{error}");
    Ok(())
}
