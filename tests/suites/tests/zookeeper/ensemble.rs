//! Three servers: leaders die, followers fall silent.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pintle::config::{Config, Consistency, Put, ReadOptions};
use pintle::lock::{AcquireOutcome, LeaseStatus, LockRequest};
use pintle::registry::{Instance, RegisterOutcome, RegistrationStatus};
use pintle_test_services::{ZooKeeperEnsemble, ZooKeeperOptions};
use pintle_test_suites::{peers::ZooKeeperPeers, within};

use crate::support::{Host, eventually, other_client_of};

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

/// Three servers of which the last can be cut off from the others, a host that reaches only that one,
/// and one that reaches the others.
struct Divided {
    peers: ZooKeeperPeers,
    minority: Host,
    majority: Host,
    majority_endpoint: String,
    _ensemble: ZooKeeperEnsemble,
}

impl Divided {
    async fn start(root: &str) -> Result<Self> {
        // Slow to notice, so that it is asked while it does not know: 8 s.
        let options = ZooKeeperOptions { sync_ticks: 16, ..ZooKeeperOptions::default() };
        let (ensemble, peers) = ZooKeeperPeers::start(options).await?;
        let endpoints = ensemble.endpoints();
        let [majority @ .., minority] = &endpoints[..] else { bail!("no members") };
        let settings = format!("root = \"{root}\"\nsession_timeout_ms = 6000");
        Ok(Self {
            peers,
            minority: Host::start(std::slice::from_ref(minority), &settings).await?,
            majority: Host::start(majority, &settings).await?,
            majority_endpoint: majority[0].clone(),
            _ensemble: ensemble,
        })
    }
}

async fn sequential(config: &Config, key: &str) -> Result<String> {
    let options =
        ReadOptions { consistency: Some(Consistency::Sequential), ..ReadOptions::default() };
    let entry = config.get_with(key, options).await?.context("nothing there")?;
    Ok(String::from_utf8_lossy(&entry.value).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_answers_no_linearizable_read_with_what_is_old() -> Result<()> {
    let divided = Divided::start("/cut-read").await?;
    let minority = divided.minority.config()?.with_timeout(Duration::from_secs(1));
    let majority = divided.majority.config()?;
    majority.put(Put::new("k", "old")).await?;
    assert_eq!(&minority.get("k").await?.context("nothing there")?.value[..], b"old");
    divided.peers.cut_off_last();
    majority.put(Put::new("k", "new")).await?;
    // It does not know yet, and says what it knows.
    assert_eq!(sequential(&minority, "k").await?, "old", "the follower is gone already");
    let error = minority.get("k").await.unwrap_err();
    assert!(matches!(error.code(), "unavailable" | "timeout"), "{error}");
    let put = minority.put(Put::new("k", "lost")).await;
    assert!(put.is_err(), "no quorum took it");
    divided.peers.heal().await?;
    eventually("the new value", async || {
        Ok(minority.get("k").await.is_ok_and(|entry| {
            // What was not answered may have been done all the same, but nothing older comes back.
            entry.is_some_and(|entry| matches!(&entry.value[..], b"new" | b"lost"))
        }))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_a_follower_that_is_cut_off_is_suspect_and_then_lost_in_time() -> Result<()> {
    let divided = Divided::start("/cut-lease").await?;
    let ttl = Duration::from_secs(4);
    let request = move || LockRequest::new("job").ttl(ttl);
    let lease = divided.minority.acquire(request()).await?;
    let registry = divided.minority.pintle.registry("main")?;
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let RegisterOutcome::Registered(registration) = registry.register(instance, ttl).await? else {
        bail!("taken")
    };
    let other = other_client_of(&divided.majority_endpoint).await?;
    let node = "/cut-lease/.pintle/v1/registry/instances/web/1";
    assert!(other.check_stat(node).await?.is_some());

    divided.peers.cut_off_last();
    let next = tokio::spawn({
        let lock = divided.majority.pintle.lock("main")?;
        async move { lock.acquire(request().wait(Duration::from_secs(15))).await }
    });
    let doubted = async {
        let mut doubted = false;
        loop {
            match lease.changed().await {
                LeaseStatus::Suspect(_) => doubted = true,
                LeaseStatus::Lost(_) => return (doubted, std::time::Instant::now()),
                LeaseStatus::Held | LeaseStatus::Released => {}
            }
        }
    };
    let held = async {
        let outcome = within("the next holder", next).await???;
        let held_at = std::time::Instant::now();
        let AcquireOutcome::Held(next) = outcome else { bail!("it did not get it") };
        anyhow::Ok((next, held_at))
    };
    let (doubted, held) = tokio::join!(within("the loss", doubted), held);
    let ((doubted, lost_at), (next, held_at)) = (doubted?, held?);
    assert!(doubted, "a doubt comes before the loss");
    assert!(lost_at < held_at, "two believed to hold it");
    assert!(next.token().unwrap().value > lease.token().unwrap().value);

    eventually("the instance to go", async || Ok(other.check_stat(node).await?.is_none())).await?;
    assert_ne!(registration.status(), RegistrationStatus::Registered, "it is not listed");
    divided.peers.heal().await?;
    eventually("the instance to be registered again", async || {
        Ok(registration.status() == RegistrationStatus::Registered
            && other.check_stat(node).await?.is_some())
    })
    .await?;
    assert!(!lease.is_held(), "what is lost stays lost");
    assert!(next.is_held());
    Ok(())
}
