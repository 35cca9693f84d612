//! Registrations: ephemeral, exclusive, and there again after a loss.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use pintle::registry::{
    AddOutcome, Instance, InstanceEvent, Override, RegisterOutcome, Registration,
    RegistrationStatus, RemoveOutcome,
};
use pintle_test_proxy::{Action, Cut, Fault};
use pintle_test_suites::within;
use zookeeper_client::{Acls, CreateMode};

use crate::support::{Host, create, eventually, other_client, reply_to_done};

const TTL: Duration = Duration::from_secs(2);

fn shop(id: &str) -> Instance {
    Instance::new("shop/eu", id, "10.0.0.1", 8080)
}

async fn register(host: &Host, id: &str) -> Result<Registration> {
    match host.pintle.registry("main")?.register(shop(id), TTL).await? {
        RegisterOutcome::Registered(registration) => Ok(registration),
        RegisterOutcome::Taken(state) => bail!("taken by {}", state.owner),
    }
}

async fn listed(host: &Host) -> Result<Vec<String>> {
    let page = host.pintle.registry("main")?.instances("shop/eu", None, 0, None).await?;
    Ok(page.instances.iter().map(|state| state.instance.id.clone()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_instance_is_listed_at_once_and_gone_when_deregistered() -> Result<()> {
    let (host, other) = (Host::at("/reg-list").await?, other_client().await?);
    let registry = host.pintle.registry("main")?;
    let first = register(&host, "a").await?;
    let second = register(&host, "b/1").await?;
    assert_eq!(listed(&host).await?, ["a", "b/1"]);
    let services = registry.services(None, 0).await?.services;
    assert_eq!((services[0].name.as_str(), services[0].instances), ("shop/eu", 2));
    let path = "/reg-list/.pintle/v1/registry/instances/shop%2Feu/b%2F1";
    let stat = other.check_stat(path).await?.context("no node")?;
    assert_ne!(stat.ephemeral_owner, 0);
    second.update(Instance { weight: 7, ..shop("b/1") }).await?;
    let page = registry.instances("shop/eu", None, 1, None).await?;
    let page = registry.instances("shop/eu", page.next, 1, None).await?;
    assert_eq!((page.instances[0].instance.weight, page.next), (7, None));
    first.deregister().await?;
    assert_eq!(listed(&host).await?, ["b/1"]);
    drop(second);
    eventually("the dropped one to go", async || Ok(listed(&host).await?.is_empty())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_want_a_name_one_has_it() -> Result<()> {
    let (one, other) = (Host::at("/reg-two").await?, Host::at("/reg-two").await?);
    let held = register(&one, "a").await?;
    for host in [&other, &one] {
        let outcome = host.pintle.registry("main")?.register(shop("a"), TTL).await?;
        let RegisterOutcome::Taken(state) = outcome else { bail!("two have it") };
        assert_eq!(state.instance, shop("a"));
    }
    held.deregister().await?;
    register(&other, "a").await?.deregister().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_somebody_else_is_never_taken_over() -> Result<()> {
    let (host, other) = (Host::at("/reg-stranger").await?, other_client().await?);
    let path = "/reg-stranger/.pintle/v1/registry/instances/shop%2Feu/a";
    create(&other, "/reg-stranger/.pintle/v1/registry/instances/shop%2Feu/x", b"").await?;
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    other.create(path, b"not a record", &options).await?;
    let outcome = host.pintle.registry("main")?.register(shop("a"), TTL).await?;
    let RegisterOutcome::Taken(state) = outcome else { bail!("taken over") };
    assert!(state.owner.contains("not Pintle's"), "{}", state.owner);
    let (data, _) = other.get_data(path).await?;
    assert_eq!(data, b"not a record");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_session_expired_an_instance_registers_again_and_says_so() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/reg-expiry").await?, other_client().await?);
    let registration = register(&host, "a").await?;
    let path = "/reg-expiry/.pintle/v1/registry/instances/shop%2Feu/a";
    let before = other.check_stat(path).await?.context("no node")?;
    proxy.set(Fault::Blackhole);
    let lost = within("the loss", registration.lost()).await?;
    assert!(matches!(lost, RegistrationStatus::Lost(_)), "{lost:?}");
    eventually("the server to end the session", async || {
        Ok(other.check_stat(path).await?.is_none())
    })
    .await?;
    proxy.cut_all(Cut::Reset).await?;
    proxy.heal().await?;
    let is_there = |status: &RegistrationStatus| *status == RegistrationStatus::Registered;
    within("the registration", registration.wait_for(is_there)).await?;
    let after = other.check_stat(path).await?.context("no node")?;
    assert_ne!(before.ephemeral_owner, after.ephemeral_owner);
    assert_eq!(host.counter("expirations").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_broken_connection_the_node_stays_the_same() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/reg-break").await?, other_client().await?);
    let registration = register(&host, "a").await?;
    let path = "/reg-break/.pintle/v1/registry/instances/shop%2Feu/a";
    let before = other.check_stat(path).await?.context("no node")?;
    proxy.cut_all(Cut::Reset).await?;
    eventually("another connection", async || Ok(host.counter("reconnects").await? >= 2)).await?;
    registration.update(Instance { weight: 1, ..shop("a") }).await?;
    let after = other.check_stat(path).await?.context("no node")?;
    assert_eq!((before.czxid, before.ephemeral_owner), (after.czxid, after.ephemeral_owner));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_somebody_deleted_is_there_again() -> Result<()> {
    let (host, other) = (Host::at("/reg-deleted").await?, other_client().await?);
    let registration = register(&host, "a").await?;
    let path = "/reg-deleted/.pintle/v1/registry/instances/shop%2Feu/a";
    other.delete(path, None).await?;
    eventually("the node", async || Ok(other.check_stat(path).await?.is_some())).await?;
    registration.deregister().await?;
    assert!(other.check_stat(path).await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_leaves_neither_an_orphan_nor_a_double() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/reg-reply").await?, other_client().await?);
    register(&host, "warm").await?.deregister().await?;
    let lost = proxy.arm(reply_to_done(b"instances/shop%2Feu/a"), Action::CutBefore(Cut::Reset));
    let registration = register(&host, "a").await?;
    lost.fired().await?;
    assert_eq!(listed(&host).await?, ["a"]);
    registration.deregister().await?;
    let left = other.list_children("/reg-reply/.pintle/v1/registry/instances/shop%2Feu").await;
    assert!(left.is_ok_and(|left| left.is_empty()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_says_outlives_the_instance() -> Result<()> {
    let host = Host::at("/reg-operator").await?;
    let registry = host.pintle.registry("main")?;
    let operator = Override { enabled: Some(false), weight: None, note: "drained".into() };
    registry.set_override("shop/eu", "a", Some(operator.clone())).await?;
    for _ in 0..2 {
        let registration = register(&host, "a").await?;
        let page = registry.instances("shop/eu", None, 0, None).await?;
        assert_eq!(page.instances[0].operator.as_ref(), Some(&operator));
        assert!(!page.instances[0].enabled());
        registration.deregister().await?;
    }
    registry.set_override("shop/eu", "a", None).await?;
    registry.set_override("shop/eu", "a", None).await?;
    let _registration = register(&host, "a").await?;
    let page = registry.instances("shop/eu", None, 0, None).await?;
    assert_eq!(page.instances[0].operator, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn persistent_instances_stay_until_they_are_removed() -> Result<()> {
    let host = Host::at("/reg-persistent").await?;
    let registry = host.pintle.registry("main")?;
    assert!(matches!(registry.add(shop("p"), false).await?, AddOutcome::Stored));
    assert!(matches!(registry.add(shop("p"), false).await?, AddOutcome::Taken(_)));
    let heavier = Instance { weight: 9, ..shop("p") };
    assert!(matches!(registry.add(heavier, true).await?, AddOutcome::Stored));
    let page = registry.instances("shop/eu", None, 0, None).await?;
    assert_eq!((page.instances[0].instance.weight, page.instances[0].ephemeral), (9, false));
    let outcome = registry.register(shop("p"), TTL).await?;
    assert!(matches!(outcome, RegisterOutcome::Taken(_)), "a persistent one has the name");
    assert_eq!(registry.remove("shop/eu", "p").await?, RemoveOutcome::Removed);
    assert_eq!(registry.remove("shop/eu", "p").await?, RemoveOutcome::Absent);
    let _held = register(&host, "e").await?;
    assert_eq!(registry.remove("shop/eu", "e").await?, RemoveOutcome::Ephemeral);
    assert!(matches!(registry.add(shop("e"), true).await?, AddOutcome::Taken(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_registry_shows_instances_and_what_operators_say() -> Result<()> {
    let host = Host::at("/reg-watch").await?;
    let registry = host.pintle.registry("main")?;
    let mut watch = registry.watch(None).await?;
    let mut next = async || {
        let event = within("an event", watch.next()).await?.context("ended")??;
        anyhow::Ok(match event {
            InstanceEvent::SnapshotBegin => "begin".to_owned(),
            InstanceEvent::SnapshotEnd => "end".to_owned(),
            InstanceEvent::Put { state, .. } => {
                format!("{} {}", state.instance.id, state.weight())
            }
            InstanceEvent::Removed { id, .. } => format!("-{id}"),
            InstanceEvent::Resync(_) => "resync".to_owned(),
        })
    };
    assert_eq!([next().await?, next().await?], ["begin", "end"]);
    let registration = register(&host, "a").await?;
    assert_eq!(next().await?, "a 100");
    let operator = Override { enabled: None, weight: Some(3), note: String::new() };
    registry.set_override("shop/eu", "a", Some(operator)).await?;
    assert_eq!(next().await?, "a 3");
    registration.deregister().await?;
    assert_eq!(next().await?, "-a");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_when_a_host_shuts_down() -> Result<()> {
    let (host, other) = (Host::at("/reg-stop").await?, other_client().await?);
    let _registration = register(&host, "a").await?;
    host.pintle.shutdown().await;
    let left = other.list_children("/reg-stop/.pintle/v1/registry/instances/shop%2Feu").await;
    assert!(left.is_ok_and(|left| left.is_empty()), "at once, not by its TTL");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_that_the_servers_do_not_keep_to_is_refused() -> Result<()> {
    use pintle_test_services::{ZooKeeper, ZooKeeperOptions};
    let options = ZooKeeperOptions { tick_ms: 2_000, ..ZooKeeperOptions::default() };
    let server = ZooKeeper::start(options).await?;
    let host = Host::start(&[server.endpoint()], "").await?;
    let error = register(&host, "a").await.unwrap_err();
    assert!(format!("{error:#}").contains("at least 4000 ms"), "{error:#}");
    Ok(())
}
