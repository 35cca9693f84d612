//! Three servers: leaders die, followers fall silent.

use std::time::Duration;

use anyhow::Result;
use pintle::config::Put;
use pintle::lock::{LeaseStatus, LockRequest};
use pintle_test_services::{ZooKeeperEnsemble, ZooKeeperOptions};

use crate::support::{Host, eventually};

async fn start() -> Result<(ZooKeeperEnsemble, Host)> {
    let ensemble = ZooKeeperEnsemble::start(ZooKeeperOptions::default()).await?;
    let settings = "root = \"/e\"\nsession_timeout_ms = 6000";
    let host = Host::start(&ensemble.endpoints(), settings).await?;
    Ok((ensemble, host))
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_death_of_its_leader_the_ensemble_goes_on_with_the_same_sessions() -> Result<()> {
    let (mut ensemble, host) = start().await?;
    let config = host.config()?;
    config.put(Put::new("k", "before")).await?;
    let lease = host.acquire(LockRequest::new("job").ttl(Duration::from_secs(10))).await?;
    ensemble.leader().await?.kill()?;
    eventually("a write to succeed", async || Ok(config.put(Put::new("k", "after")).await.is_ok()))
        .await?;
    assert_eq!(&config.get("k").await?.unwrap().value[..], b"after");
    eventually("the lease to be renewed", async || Ok(lease.status() == LeaseStatus::Held)).await?;
    assert!(lease.release().await?, "it was held all the time");
    assert_eq!(host.counter("expirations").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_left_for_another() -> Result<()> {
    let (mut ensemble, host) = start().await?;
    let config = host.config()?;
    config.put(Put::new("k", "0")).await?;
    // Whichever serves it: each falls silent once, and none is the only one left.
    for member in 0..3 {
        ensemble.members()[member].pause()?;
        eventually("a write to succeed", async || {
            let value = format!("{member}");
            Ok(config.put(Put::new("k", value)).await.is_ok())
        })
        .await?;
        ensemble.members()[member].resume()?;
        ensemble.leader().await?;
    }
    assert!(host.counter("reconnects").await? >= 1);
    assert_eq!(host.counter("expirations").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_promised_and_afterwards_all_is_as_it_was() -> Result<()> {
    let (mut ensemble, host) = start().await?;
    let config = host.config()?.with_timeout(Duration::from_secs(2));
    config.put(Put::new("k", "1")).await?;
    for member in &mut ensemble.members()[..2] {
        member.kill()?;
    }
    eventually("the quorum to be missed", async || Ok(config.get("k").await.is_err())).await?;
    ensemble.members()[0].restart().await?;
    eventually("the value to be read", async || {
        Ok(config.get("k").await.is_ok_and(|entry| entry.is_some()))
    })
    .await
}
