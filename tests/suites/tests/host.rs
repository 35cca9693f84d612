//! The host with a plugin in memory: what every capability does, and what happens when it fails.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use pintle::{
    Pintle,
    config::{
        Delete, DeleteOutcome, Expect, ListRequest, Put, PutOutcome, Target, Version, WatchEvent,
    },
    lock::{AcquireOutcome, Lease, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_test_suites::{Sandbox, within};

const ONE_BACKEND: &str = "[backends.main]\nplugin = \"memory\"\n";

async fn host() -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start(ONE_BACKEND).await?;
    Ok((sandbox, pintle))
}

async fn acquire(pintle: &Pintle, name: &str) -> Result<Lease> {
    match pintle.lock("main")?.acquire(LockRequest::new(name)).await? {
        AcquireOutcome::Held(lease) => Ok(lease),
        AcquireOutcome::Busy(holders) => anyhow::bail!("{name} is held by {holders:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_written_read_listed_and_deleted() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    assert!(config.get("app/a").await?.is_none());
    let PutOutcome::Stored { version, .. } = config.put(Put::new("app/a", "1")).await? else {
        panic!("not stored")
    };
    let entry = config.get("app/a").await?.unwrap();
    assert_eq!((&entry.value[..], &entry.version), (&b"1"[..], &version));
    config.put(Put::new("app/b", "2")).await?;
    let page = config.list(ListRequest { prefix: "app".into(), ..Default::default() }).await?;
    let keys: Vec<_> = page.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["app/a", "app/b"]);
    assert!(matches!(config.delete(Delete::new("app/a")).await?, DeleteOutcome::Deleted(_)));
    assert_eq!(config.delete(Delete::new("app/a")).await?, DeleteOutcome::Absent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_who_expect_the_same_version_one_is_stale() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    let put = |value: &'static str| config.put(Put::new("k", value).expect(Expect::Absent));
    let outcomes = futures::future::join_all((0..16).map(|_| put("v"))).await;
    let mut stored = 0;
    for outcome in outcomes {
        if let PutOutcome::Stored { .. } = outcome? {
            stored += 1;
        }
    }
    assert_eq!(stored, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_a_snapshot_and_follows_changes() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let config = pintle.config("main")?;
    config.put(Put::new("w/a", "1")).await?;
    let mut watch = config.watch(Target::Prefix("w".into())).await?;
    let mut next =
        async || within("an event", watch.next()).await?.unwrap().map_err(anyhow::Error::from);
    assert_eq!(next().await?, WatchEvent::SnapshotBegin);
    assert!(matches!(next().await?, WatchEvent::Put { entry, .. } if &*entry.key == "w/a"));
    assert_eq!(next().await?, WatchEvent::SnapshotEnd);
    config.put(Put::new("w/a", "2")).await?;
    config.put(Put::new("wide", "not below")).await?;
    config.delete(Delete::new("w/a")).await?;
    let WatchEvent::Put { entry, previous } = next().await? else { panic!("no put") };
    assert_eq!((&entry.value[..], &previous.unwrap().value[..]), (&b"2"[..], &b"1"[..]));
    assert!(matches!(next().await?, WatchEvent::Removed { key, .. } if &*key == "w/a"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_needs_the_feature() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let target = Target::Prefix("w".into());
    let refused = pintle.config("main")?.watch_from(target, Version::from("1")).await;
    let error = refused.err().unwrap();
    assert_eq!(error.code(), "unsupported");
    assert!(error.to_string().contains("`watch.from-version`"), "{error}");
    Ok(())
}

/// A host with the embedded backend.
async fn local() -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("local").display().to_string();
    let settings = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
    let pintle = sandbox.start(&settings).await?;
    Ok((sandbox, pintle))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_delivers_each_change_once_however_slowly_it_is_read() -> Result<()>
{
    let (_sandbox, pintle) = local().await?;
    let config = pintle.config("main")?;
    let PutOutcome::Stored { version, .. } = config.put(Put::new("w/a", "0")).await? else {
        panic!("not stored")
    };
    let mut changes = config.watch_from(Target::Prefix("w".into()), version).await?;
    // More than wait for a reader who does not read.
    let puts = 3_000;
    for first in (1..=puts).step_by(100) {
        let put = |count: i32| config.put(Put::new(format!("w/{count}"), "v"));
        futures::future::try_join_all((first..first + 100).map(put)).await?;
    }
    let mut keys = std::collections::BTreeSet::new();
    while keys.len() < puts as usize {
        match within("a change", changes.next()).await?.unwrap()? {
            WatchEvent::Put { entry, .. } => assert!(keys.insert(entry.key.to_string())),
            other => panic!("{other:?}"),
        }
    }
    // Whoever continues there sees what comes, and nothing twice.
    let position = changes.position();
    config.put(Put::new("w/last", "v")).await?;
    let mut other = config.watch_from(Target::Prefix("w".into()), position).await?;
    for changes in [&mut changes, &mut other] {
        let event = within("a change", changes.next()).await?.unwrap()?;
        assert!(matches!(event, WatchEvent::Put { entry, .. } if &*entry.key == "w/last"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_excludes_until_it_is_released_and_tokens_rise() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let lock = pintle.lock("main")?;
    let first = acquire(&pintle, "job").await?;
    let busy = lock.acquire(LockRequest::new("job").owner("second")).await?;
    assert!(matches!(busy, AcquireOutcome::Busy(_)));
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire(LockRequest::new("job").wait(Duration::from_secs(10))).await }
    });
    let token = first.token().cloned().unwrap();
    assert!(first.release().await?);
    let AcquireOutcome::Held(second) = within("the waiter", waiting).await??? else {
        panic!("the waiter did not get the lock")
    };
    assert!(second.token().unwrap().value > token.value);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_lease_is_released_in_the_background() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    drop(acquire(&pintle, "job").await?);
    let wait = LockRequest::new("job").wait(Duration::from_secs(10));
    let again = pintle.lock("main")?.acquire(wait).await?;
    assert!(matches!(again, AcquireOutcome::Held(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_acquire_leaves_nothing_behind() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let lock = pintle.lock("main")?;
    let held = acquire(&pintle, "job").await?;
    let waiting = lock.acquire(LockRequest::new("job").wait(Duration::from_secs(60)));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    held.release().await?;
    within("the lock to be free", async {
        while !lock.inspect("job").await?.waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    })
    .await??;
    assert!(acquire(&pintle, "job").await?.is_held());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_listed_while_it_is_registered() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let registry = pintle.registry("main")?;
    let instance = Instance::new("web", "1", "127.0.0.1", 80);
    let ttl = Duration::from_secs(5);
    let RegisterOutcome::Registered(registration) =
        registry.register(instance.clone(), ttl).await?
    else {
        panic!("not registered")
    };
    assert_eq!(registry.instances("web", None, 0, None).await?.instances.len(), 1);
    let taken = registry.register(instance, ttl).await?;
    assert!(matches!(taken, RegisterOutcome::Taken(owner) if owner.instance.id == "1"));
    registration.deregister().await?;
    assert!(registry.instances("web", None, 0, None).await?.instances.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_are_refused_with_what_exists() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let error = pintle.config("mian").err().unwrap();
    let text = "no backend is named \"mian\"; known: main; did you mean \"main\"?";
    assert_eq!(error.to_string(), text);
    let error = pintle.tracing("main").err().unwrap();
    assert_eq!(error.code(), "no-capability");
    assert!(pintle.config("default").is_ok());
    let error = pintle.config("main")?.get("/a").await.unwrap_err();
    assert_eq!(error.code(), "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_plugin_names_the_directory_and_what_is_in_it() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start("[backends.main]\nplugin = \"etcd\"\n").await?;
    let status = pintle.backend("main")?;
    assert_eq!(status.state.as_str(), "refused");
    let dir = sandbox.plugins_dir();
    let expected =
        format!("no plugin \"etcd\": there is no etcd.wasm in {}; it holds memory", dir.display());
    assert_eq!(status.reason, expected);
    let error =
        sandbox.start("[backends.main]\nplugin = \"etcd\"\nrequired = true\n").await.err().unwrap();
    assert!(error.to_string().contains("backend main is required"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_shutdown_calls_are_refused() -> Result<()> {
    let (_sandbox, pintle) = host().await?;
    let lease = acquire(&pintle, "job").await?;
    let mut watch = pintle.config("main")?.watch(Target::Prefix("w".into())).await?;
    while within("an event", watch.next()).await?.unwrap()? != WatchEvent::SnapshotEnd {}
    within("the shutdown", pintle.shutdown()).await?;
    assert!(!lease.is_held());
    let end = within("the end of the watch", watch.next()).await?.unwrap();
    assert_eq!(end.unwrap_err().code(), "shutting-down");
    assert!(within("nothing", watch.next()).await?.is_none());
    let error = pintle.config("main")?.get("a").await.unwrap_err();
    assert_eq!(error.code(), "shutting-down");
    Ok(())
}
