//! Beside others: what they wrote is served, and what the plugin writes they can read.

use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{GetOptions, WatchOptions};
use pintle::{
    config::{Delete, Expect, ListRequest, Put, PutOutcome, Target, WatchEvent},
    lock::LockRequest,
    registry::Instance,
};
use pintle_test_suites::{
    follow::{next_event, snapshot, text},
    within,
};

use crate::{config::put, stage::Stage};

#[tokio::test(flavor = "multi_thread")]
async fn what_etcdctl_wrote_is_read_changed_and_watched() -> Result<()> {
    let stage = Stage::new().await?;
    stage.etcd.ctl(&["put", &stage.key("app/db/url"), "postgres://one"]).await?;
    stage.etcd.ctl(&["put", &stage.key("app/db/pool"), "10"]).await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let entry = config.get("app/db/url").await?.context("app/db/url")?;
    assert_eq!(entry.value, "postgres://one");
    let mut watch = config.watch(Target::Prefix("app".into())).await?;
    assert_eq!(snapshot(&mut watch).await?.len(), 2);

    let changed = Put::new("app/db/url", "postgres://two").expect(Expect::Version(entry.version));
    assert!(matches!(config.put(changed).await?, PutOutcome::Stored { .. }));
    let printed = stage.etcd.ctl(&["get", &stage.key("app/db/url"), "--print-value-only"]).await?;
    assert_eq!(printed, "postgres://two");
    assert!(matches!(next_event(&mut watch).await?, WatchEvent::Put { .. }));

    stage.etcd.ctl(&["put", &stage.key("app/db/pool"), "20"]).await?;
    let WatchEvent::Put { entry, previous } = next_event(&mut watch).await? else {
        anyhow::bail!("no put")
    };
    assert_eq!((&*entry.key, text(&entry.value)), ("app/db/pool", "20".into()));
    assert_eq!(text(&previous.context("the value before")?.value), "10");
    stage.etcd.ctl(&["del", &stage.key("app/db/pool")]).await?;
    let WatchEvent::Removed { key, previous, .. } = next_event(&mut watch).await? else {
        anyhow::bail!("no removal")
    };
    assert_eq!(&*key, "app/db/pool");
    assert_eq!(text(&previous.context("the value before")?.value), "20");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_writes_is_plain_to_a_native_client() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    let options = WatchOptions::new().with_prefix();
    let mut events = within("a watch", client.watch(stage.root.as_str(), Some(options))).await??;
    put(config, "n/é b", "wert").await?;
    config.delete(Delete::new("n/é b")).await?;
    let mut told = Vec::new();
    while told.len() < 2 {
        let message = within("events", events.message()).await??;
        for event in message.context("the end of the watch")?.events() {
            let pair = event.kv().context("a key")?;
            let key = pair.key_str()?.strip_prefix(&stage.root).context("the root")?.to_owned();
            told.push((format!("{:?}", event.event_type()), key, pair.value_str()?.to_owned()));
        }
    }
    let key = || "n/é b".to_owned();
    assert_eq!(told[0], ("Put".into(), key(), "wert".into()));
    assert_eq!(told[1], ("Delete".into(), key(), String::new()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_root_keys_are_the_servers_own() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.start(stage.settings("a").without_root()).await?;
    let config = &node.config;
    let name = format!("bare-{}", stage.root.trim_matches('/'));
    put(config, &format!("{name}/k"), "1").await?;
    let printed = stage.etcd.ctl(&["get", &format!("{name}/k"), "--print-value-only"]).await?;
    assert_eq!(printed, "1");
    // A key with a leading separator has no name here.
    let slashed = format!("/{name}");
    stage.etcd.ctl(&["put", &slashed, "1"]).await?;
    let page = config.list(ListRequest { prefix: name.clone(), ..Default::default() }).await?;
    assert_eq!(page.entries.len(), 1);
    config.delete_prefix(&name, None).await?;
    stage.etcd.ctl(&["del", &slashed]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pintle_stores_for_itself_is_no_configuration() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    put(&node.config, "k", "1").await?;
    let mut watch = node.config.watch(Target::Prefix(String::new())).await?;
    assert_eq!(snapshot(&mut watch).await?.len(), 1);
    let lease = node.hold(LockRequest::new("l")).await?;
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let registration = node.register(instance, Duration::from_secs(15)).await?;
    assert!(stage.leased_keys().await?.len() >= 2);
    let page = node.config.list(ListRequest::default()).await?;
    let keys: Vec<_> = page.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["k"]);
    put(&node.config, "k", "2").await?;
    assert!(
        matches!(next_event(&mut watch).await?, WatchEvent::Put { entry, .. } if &*entry.key == "k")
    );

    // And deleting all configuration leaves it.
    node.config.delete_prefix("", None).await?;
    assert!(stage.leased_keys().await?.len() >= 2);
    assert!(lease.is_held());
    lease.release().await?;
    registration.deregister().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_leaves_nothing_but_configuration() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    put(&node.config, "k", "1").await?;
    let _lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(600))).await?;
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let _registration = node.register(instance, Duration::from_secs(600)).await?;
    let before: Vec<i64> = stage.leased_keys().await?.iter().map(|pair| pair.lease()).collect();
    assert!(!before.is_empty());
    within("the shutdown", node.pintle.shutdown()).await?;
    let options = GetOptions::new().with_prefix().with_keys_only();
    let left = stage.client().await?.get(stage.root.as_str(), Some(options)).await?;
    let left: Vec<&str> = left.kvs().iter().filter_map(|pair| pair.key_str().ok()).collect();
    assert_eq!(left, [stage.key("k")]);
    let leases = stage.client().await?.leases().await?;
    let leases: Vec<i64> = leases.leases().iter().map(|lease| lease.id()).collect();
    assert!(before.iter().all(|lease| !leases.contains(lease)), "{before:?} of {leases:?}");
    Ok(())
}
