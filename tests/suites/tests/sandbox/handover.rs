//! From one file of a plugin to the next, while everything is in use.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use pintle::{
    BackendState, Config, Pintle,
    config::{Put, PutOutcome, Target, WatchEvent},
    lock::{AcquireOutcome, Lease, LeaseStatus, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_fixture_hostile::{ALIVE, Behaviour, PROVOKE, RESUMED};
use pintle_test_suites::{
    Sandbox, built, eventually,
    hostile::bytes::{hostile, marked, variant},
    log, within,
};

use crate::tamper::{put, taken_over, waits};

/// Replacements of the test under load; `cargo xtask chaos sandbox` does more.
const REPLACEMENTS: usize = 4;

fn local() -> Result<Vec<u8>> {
    Ok(fs::read(built("plugins").join("local.wasm"))?)
}

async fn with_local(host: &str) -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!("{host}\n[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
    let pintle = sandbox.start(&text).await?;
    Ok((sandbox, pintle))
}

async fn value(pintle: &Pintle, key: &str) -> Result<String> {
    let entry = within("a read", pintle.config("main")?.get(key)).await??;
    Ok(String::from_utf8_lossy(&entry.context("it is gone")?.value).into_owned())
}

/// Digest of a file that lies in the plugins' directory.
async fn digest(pintle: &Pintle) -> Result<String> {
    Ok(within("the file", pintle.plugin("local")).await??.sha256)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_there_takes_over_and_finds_what_was_stored() -> Result<()> {
    let (sandbox, pintle) = with_local("").await?;
    pintle.config("main")?.put(Put::new("k", "kept")).await?;
    put(&sandbox, "local", &variant(&local()?, "moved"))?;
    taken_over(&pintle, &digest(&pintle).await?).await?;
    ensure!(value(&pintle, "k").await? == "kept");
    // It is no end that counts against the plugin.
    ensure!(pintle.backend("main")?.restarts == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_copied_there_takes_over_when_it_is_whole() -> Result<()> {
    let (sandbox, pintle) = with_local("").await?;
    let before = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    let file = variant(&local()?, "copied");
    let path = sandbox.plugins_dir().join("local.wasm");
    let (first, rest) = file.split_at(file.len() / 3);
    fs::write(&path, first)?;
    // It stays so for longer than anybody copies.
    waits(&pintle, "not a component that this host can run").await?;
    ensure!(pintle.backend("main")?.plugin_info.context("no plugin")?.sha256 == before);
    pintle.config("main")?.put(Put::new("k", "meanwhile")).await?;
    std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(&path)?, rest)?;
    let whole = eventually("the whole file", async || {
        Ok(pintle.plugin("local").await.ok().map(|info| info.sha256))
    });
    taken_over(&pintle, &whole.await?).await?;
    ensure!(value(&pintle, "k").await? == "meanwhile");
    ensure!(pintle.backend("main")?.reason.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_reload_off_a_new_file_waits_for_the_next_start() -> Result<()> {
    let (sandbox, pintle) = with_local("[plugins]\nreload = \"off\"").await?;
    let before = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    put(&sandbox, "local", &variant(&local()?, "off"))?;
    pintle.restart_backend("main")?;
    pintle.config("main")?.put(Put::new("k", "v")).await?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    ensure!(pintle.backend("main")?.plugin_info.context("no plugin")?.sha256 == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_is_told_with_who_uses_it() -> Result<()> {
    let (sandbox, pintle) = with_local("").await?;
    fs::remove_file(sandbox.plugins_dir().join("local.wasm"))?;
    waits(&pintle, "its file local.wasm was removed").await?;
    pintle.config("main")?.put(Put::new("k", "v")).await?;
    // Not even an end is the end of it.
    pintle.restart_backend("main")?;
    ensure!(value(&pintle, "k").await? == "v");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_that_does_not_start_gives_way_to_the_old_one() -> Result<()> {
    let (sandbox, pintle) = with_hostile("lifecycle.start").await?;
    let before = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    put(&sandbox, "hostile", &marked(hostile()?, Behaviour::TrapIn)?)?;
    waits(&pintle, "the earlier one runs again").await?;
    ensure!(pintle.backend("main")?.plugin_info.context("no plugin")?.sha256 == before);
    ensure!(within("an answer", pintle.config("main")?.get("alive")).await??.is_some());
    Ok(())
}

/// A backend of the hostile plugin that misbehaves in `export` when its file is marked.
async fn with_hostile(export: &str) -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["fixtures/hostile"])?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!(
        "[backends.main]\nplugin = \"hostile\"\ndata_dir = {data_dir:?}\n\
         settings = {{ export = \"{export}\" }}\n"
    );
    let pintle = sandbox.start(&text).await?;
    Ok((sandbox, pintle))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_while_the_earlier_file_takes_over_again() -> Result<()> {
    let (sandbox, pintle) = with_hostile("lock.poll").await?;
    // It starts, serves, and ends at its first poll.
    put(&sandbox, "hostile", &marked(hostile()?, Behaviour::TrapIn)?)?;
    let config = pintle.config("main")?;
    within("the earlier file", async {
        loop {
            // Without a pause: nothing serves for a few milliseconds only.
            if let Err(error) = config.get(ALIVE).await {
                ensure!(error.code() == "plugin-ended", "{error}");
            }
            let status = pintle.backend("main")?;
            let runs_again = status.reason.contains("the earlier one runs again");
            if runs_again && status.state == BackendState::Serving {
                return Ok(());
            }
        }
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn what_a_new_file_left_is_not_for_the_earlier_one() -> Result<()> {
    let (sandbox, pintle) = with_hostile("").await?;
    put(&sandbox, "hostile", &marked(hostile()?, Behaviour::PoisonCheckpoint)?)?;
    waits(&pintle, "the earlier one runs again").await?;
    let resumed = within("an answer", pintle.config("main")?.get(RESUMED)).await??;
    ensure!(resumed.context("it has lost its mind")?.value.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_left_waits_until_a_plugin_has_taken_it_over() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/hostile"])?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!(
        "[shutdown]\nregistrations = \"keep\"\n\
         [backends.main]\nplugin = \"hostile\"\ndata_dir = {data_dir:?}\n\
         limits = {{ more = {{ checkpoint_bytes = \"1MiB\" }} }}\n\
         settings = {{ behaviour = \"large-checkpoint\" }}\n"
    );
    let pintle = within("the start", sandbox.start(&text)).await??;
    within("the checkpoint", pintle.config("main")?.get(PROVOKE)).await??;
    ensure!(within("the shutdown", pintle.shutdown()).await?.is_clean());
    // Nothing runs on the next host.
    put(&sandbox, "hostile", b"no plugin")?;
    let pintle = within("the start", sandbox.start(&text)).await??;
    ensure!(pintle.backend("main")?.state == BackendState::Refused);
    within("the shutdown", pintle.shutdown()).await?;
    put(&sandbox, "hostile", &hostile()?)?;
    let pintle = within("the start", sandbox.start(&text)).await??;
    let resumed = within("an answer", pintle.config("main")?.get(RESUMED)).await??;
    ensure!(resumed.context("it has lost its mind")?.value.len() == 1 << 20);
    // Taken over, it is nobody else's.
    ensure!(fs::read_dir(sandbox.path().join("data/checkpoints"))?.count() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_is_lifted_by_a_new_file_and_by_a_restart() -> Result<()> {
    let sandbox = Sandbox::new(&[])?;
    let broken = marked(hostile()?, Behaviour::TrapIn)?;
    fs::write(sandbox.plugins_dir().join("hostile.wasm"), &broken)?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!(
        "[backends.main]\nplugin = \"hostile\"\ndata_dir = {data_dir:?}\n\
         settings = {{ export = \"lifecycle.start\" }}\n"
    );
    let pintle = within("the start", sandbox.start(&text)).await??;
    let quarantined = async || {
        eventually("the quarantine", async || {
            let status = pintle.backend("main")?;
            Ok((status.state == BackendState::Quarantined).then_some(status.restarts))
        })
        .await
    };
    let restarts = quarantined().await?;
    let error = pintle.config("main")?.get("alive").await.unwrap_err();
    ensure!(error.code() == "not-running" && error.to_string().contains("quarantined"), "{error}");
    // It is tried again, and no better.
    pintle.restart_backend("main")?;
    eventually("another try", async || {
        Ok((pintle.backend("main")?.restarts > restarts).then_some(()))
    })
    .await?;
    quarantined().await?;
    put(&sandbox, "hostile", &hostile()?)?;
    eventually("the service", async || {
        Ok((pintle.backend("main")?.state == BackendState::Serving).then_some(()))
    })
    .await?;
    ensure!(within("an answer", pintle.config("main")?.get("alive")).await??.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_waits_for_locks_that_are_held() -> Result<()> {
    let (sandbox, pintle) = with_local("").await?;
    let lease = held(&pintle, LockRequest::new("job")).await?;
    put(&sandbox, "local", &variant(&local()?, "patient"))?;
    let next = digest(&pintle).await?;
    // Long enough to be noticed.
    tokio::time::sleep(Duration::from_millis(600)).await;
    ensure!(lease.status() == LeaseStatus::Held, "{:?}", lease.status());
    ensure!(pintle.backend("main")?.plugin_info.context("no plugin")?.sha256 != next);
    pintle.config("main")?.put(Put::new("k", "v")).await?;
    ensure!(lease.release().await?);
    taken_over(&pintle, &next).await
}

async fn held(pintle: &Pintle, request: LockRequest) -> Result<Lease> {
    match within("the lock", pintle.lock("main")?.acquire(request)).await?? {
        AcquireOutcome::Held(lease) => Ok(lease),
        AcquireOutcome::Busy(holders) => anyhow::bail!("{holders:?} hold it"),
    }
}

/// Waits until a file has been noticed that may take over.
async fn noticed(sha256: &str) -> Result<()> {
    let told = || log::lines_with(&["a new file takes over", sha256]);
    eventually("the new file", async || Ok((!told().is_empty()).then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_waited_for_is_granted_while_a_new_file_waits() -> Result<()> {
    log::begin();
    let (sandbox, pintle) = with_local("").await?;
    let other = held(&pintle, LockRequest::new("other")).await?;
    let waiting = tokio::spawn({
        let pintle = pintle.clone();
        let request = LockRequest::new("other").wait(Duration::from_secs(20));
        async move { held(&pintle, request).await }
    });
    eventually("the one who waits", async || {
        let state = pintle.lock("main")?.inspect("other").await?;
        Ok((!state.waiters.is_empty()).then_some(()))
    })
    .await?;
    // Asked for after the other, it is looked at after it.
    let job = held(&pintle, LockRequest::new("job")).await?;
    put(&sandbox, "local", &variant(&local()?, "waited for"))?;
    let next = digest(&pintle).await?;
    noticed(&next).await?;
    // It waits for what is held, and looks again and again.
    pintle.config("main")?.put(Put::new("k", "v")).await?;
    ensure!(other.release().await?);
    let granted = within("the grant", waiting).await???;
    ensure!(granted.status() == LeaseStatus::Held, "{:?}", granted.status());
    ensure!(job.release().await? && granted.release().await?);
    taken_over(&pintle, &next).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_taken_back_does_not_take_over() -> Result<()> {
    log::begin();
    let (sandbox, pintle) = with_local("").await?;
    let before = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    let lease = held(&pintle, LockRequest::new("job")).await?;
    put(&sandbox, "local", &variant(&local()?, "taken back"))?;
    noticed(&digest(&pintle).await?).await?;
    put(&sandbox, "local", &local()?)?;
    let told = || log::lines_with(&["the new file was taken back"]);
    eventually("the host to notice", async || Ok((!told().is_empty()).then_some(()))).await?;
    ensure!(lease.release().await?);
    for _ in 0..20 {
        pintle.config("main")?.put(Put::new("k", "v")).await?;
    }
    let status = pintle.backend("main")?;
    ensure!(status.state == BackendState::Serving, "{:?}: {}", status.state, status.reason);
    ensure!(status.plugin_info.context("no plugin")?.sha256 == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_too_long_is_reported_lost() -> Result<()> {
    let (sandbox, pintle) = with_local("[plugins]\ndrain = \"50ms\"").await?;
    let lease = held(&pintle, LockRequest::new("job")).await?;
    put(&sandbox, "local", &variant(&local()?, "hasty"))?;
    let reason = within("the loss", lease.lost()).await?;
    ensure!(reason.contains("replaced by local"), "{reason}");
    taken_over(&pintle, &digest(&pintle).await?).await?;
    // The successor has removed it: nobody waits for its TTL.
    let again = within("the lock", pintle.lock("main")?.acquire(LockRequest::new("job"))).await??;
    ensure!(matches!(again, AcquireOutcome::Held(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_nothing_is_lost_while_files_replace_each_other() -> Result<()> {
    let (sandbox, pintle) = with_local("[plugins]\ndrain = \"50ms\"").await?;
    let config = pintle.config("main")?;
    let registered = pintle
        .registry("main")?
        .register(Instance::new("web", "1", "127.0.0.1", 80), Duration::from_secs(30))
        .await?;
    let RegisterOutcome::Registered(_registration) = registered else { anyhow::bail!("taken") };
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = || {
        let stop = std::sync::Arc::clone(&stop);
        move || stop.load(std::sync::atomic::Ordering::Relaxed)
    };
    let (tell_written, told_written) = tokio::sync::watch::channel(None);
    let following = tokio::spawn(follow(config.clone(), told_written));
    // What is written under each key is a number that grows.
    let writing = tokio::spawn({
        let (config, is_over) = (config.clone(), is_over());
        async move {
            let mut written = BTreeMap::new();
            let mut count = 0_u64;
            while !is_over() {
                count += 1;
                let key = format!("w/{}", count % 7);
                let outcome = config.put(Put::new(key.clone(), count.to_string())).await?;
                ensure!(matches!(outcome, PutOutcome::Stored { .. }));
                written.insert(key, count);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(written)
        }
    });
    let listing = tokio::spawn({
        let (registry, is_over) = (pintle.registry("main")?, is_over());
        async move {
            while !is_over() {
                let page = registry.instances("web", None, 0, None).await?;
                ensure!(page.instances.len() == 1, "the registration had a gap");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
    });
    for number in 0..REPLACEMENTS {
        put(&sandbox, "local", &variant(&local()?, &format!("load-{number}")))?;
        taken_over(&pintle, &digest(&pintle).await?).await?;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let written = within("the writer", writing).await???;
    within("the reader", listing).await???;
    tell_written.send_replace(Some(written));
    let resyncs = within("the watcher", following).await???;
    ensure!((1..=REPLACEMENTS).contains(&resyncs), "{resyncs} resyncs");
    ensure!(pintle.backend("main")?.restarts == 0);
    Ok(())
}

/// Follows a watch until it has shown what was written last: each value once and in order, or
/// covered by one of the resyncs, which it counts.
async fn follow(
    config: Config,
    mut written: tokio::sync::watch::Receiver<Option<BTreeMap<String, u64>>>,
) -> Result<usize> {
    let mut watch = config.watch(Target::Prefix("w".into())).await?;
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut resyncs = 0;
    loop {
        if written.borrow().as_ref() == Some(&seen) {
            return Ok(resyncs);
        }
        let event = tokio::select! {
            event = watch.next() => event.context("the watch ended")??,
            _ = written.wait_for(Option::is_some), if written.borrow().is_none() => continue,
        };
        match event {
            WatchEvent::Put { entry, .. } => {
                let count: u64 = std::str::from_utf8(&entry.value)?.parse()?;
                let before = seen.insert(entry.key.to_string(), count);
                ensure!(before.is_none_or(|before| before < count), "{before:?}, then {count}");
            }
            WatchEvent::Resync(_) => resyncs += 1,
            WatchEvent::SnapshotBegin | WatchEvent::SnapshotEnd => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
}
