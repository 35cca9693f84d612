//! Files that replace each other while everything is in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use pintle::{
    BackendState, Pintle,
    config::{Put, Target, WatchEvent},
    lock::{AcquireOutcome, LeaseStatus, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{Sandbox, built, eventually, hostile::bytes::variant, within};

use pintle_test_suites::chaos::Size;

/// The longest that a read may take: the limit of a call.
const CALL: Duration = Duration::from_secs(5);

/// Keys that are written in turn.
const KEYS: u64 = 7;

/// What a watcher saw.
#[derive(Default)]
struct Seen {
    resyncs: u64,
    /// Versions that went back, or came twice.
    wrong: u64,
    /// Versions that did not come, without a resync that covers them.
    missed: u64,
}

/// What those saw who worked meanwhile.
#[derive(Default)]
struct Worked {
    calls: u64,
    /// Calls that took longer than a call may.
    late: u64,
    /// Looks that did not find the registration.
    gaps: u64,
}

/// What became of locks.
#[derive(Default)]
struct Locks {
    released: u64,
    /// Lost, and their holders were told.
    told: u64,
    /// Lost in silence.
    silent: u64,
}

pub(crate) async fn under_load(size: Size) -> Result<ChaosRow> {
    let (replacements, watchers) = (size.of(200, 5), size.of(50, 5));
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let file = fs::read(built("plugins").join("local.wasm"))?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let cache = sandbox.path().join("cache").display().to_string();
    let text = format!(
        "[plugins]\ndrain = \"20ms\"\ncache_dir = {cache:?}\n\
         [backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n"
    );
    let pintle = sandbox.start(&text).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let registered = pintle
        .registry("main")?
        .register(Instance::new("web", "1", "127.0.0.1", 80), Duration::from_secs(60))
        .await?;
    let RegisterOutcome::Registered(_registration) = registered else { bail!("taken") };
    let writing = tokio::spawn(write(pintle.clone(), Arc::clone(&stop)));
    let reading = tokio::spawn(read(pintle.clone(), Arc::clone(&stop)));
    let locking = tokio::spawn(lock(pintle.clone(), Arc::clone(&stop)));
    let (tell_written, told_written) = tokio::sync::watch::channel(None);
    let watching: Vec<_> =
        (0..watchers).map(|_| tokio::spawn(follow(pintle.clone(), told_written.clone()))).collect();
    let begun = Instant::now();
    for number in 0..replacements {
        let unfinished = sandbox.path().join("unfinished");
        fs::write(&unfinished, variant(&file, &number.to_string()))?;
        fs::rename(&unfinished, sandbox.plugins_dir().join("local.wasm"))?;
        let next = within("the file", pintle.plugin("local")).await??.sha256;
        eventually("the new file", async || {
            let status = pintle.backend("main")?;
            let runs = status.plugin_info.is_some_and(|info| info.sha256 == next);
            Ok((runs && status.state == BackendState::Serving).then_some(()))
        })
        .await?;
    }
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let written = within("the writer", writing).await???;
    let (written, late_writes) = written;
    let Worked { calls, late, gaps } = within("the reader", reading).await???;
    let Locks { released, told, silent } = within("the holder", locking).await???;
    let last = written.values().copied().max().unwrap_or_default();
    tell_written.send_replace(Some(written));
    let mut seen = Vec::new();
    for watcher in watching {
        seen.push(within("a watcher", watcher).await???);
    }
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let (wrong, missed, resyncs) = (sum(|it| it.wrong), sum(|it| it.missed), sum(|it| it.resyncs));
    let done = replacements as u64;
    // A gap is told once.
    let excess = seen.iter().map(|seen| seen.resyncs.saturating_sub(done)).sum::<u64>();
    let target = "each version once or covered by a resync of which there is one for each file, no \
                  call beyond its deadline, no gap, locks released or told";
    let restarts = pintle.backend("main")?.restarts;
    Ok(ChaosRow::new("reload", "files that replace each other under load", target, done, done)
        .violations(wrong + missed + excess + late_writes + late + gaps + silent + restarts)
        .detail(format!(
            "{} ms each, {last} writes with {late_writes} late, {watchers} watchers with {resyncs} \
             resyncs, {wrong} wrong versions and {missed} that were missed, {calls} reads with \
             {late} late, {gaps} gaps of a registration, {released} locks released and {told} lost \
             with a notice, {silent} in silence, {restarts} ends of the plugin",
            took.as_millis() / u128::from(done.max(1))
        )))
}

/// A hundred writes a second; what is written under each key grows. Answers what was written last, and
/// how many writes were late.
async fn write(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<(BTreeMap<String, u64>, u64)> {
    let config = pintle.config("main")?;
    let mut written = BTreeMap::new();
    let mut late = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for count in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let key = format!("w/{}", count % KEYS);
        let begun = Instant::now();
        config.put(Put::new(key.clone(), count.to_string())).await?;
        late += u64::from(begun.elapsed() > CALL);
        written.insert(key, count);
    }
    Ok((written, late))
}

/// Reads of the registration and of what is written.
async fn read(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<Worked> {
    let (registry, config) = (pintle.registry("main")?, pintle.config("main")?);
    let mut worked = Worked::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let page = registry.instances("web", None, 0, None).await?;
        worked.late += u64::from(begun.elapsed() > CALL);
        worked.gaps += u64::from(page.instances.len() != 1);
        let begun = Instant::now();
        config.get("w/1").await?;
        worked.late += u64::from(begun.elapsed() > CALL);
        worked.calls += 2;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(worked)
}

/// Takes a lock and holds it for a while, again and again.
async fn lock(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<Locks> {
    let lock = pintle.lock("main")?;
    let mut locks = Locks::default();
    while !stop.load(Ordering::Relaxed) {
        let wait = LockRequest::new("job").wait(Duration::from_secs(5));
        let Ok(AcquireOutcome::Held(lease)) = lock.acquire(wait).await else { continue };
        // It is released well, or its holder has been told.
        let lost = tokio::time::timeout(Duration::from_millis(50), lease.lost()).await;
        if lost.is_ok() || matches!(lease.status(), LeaseStatus::Lost(_)) {
            locks.told += 1;
            continue;
        }
        match lease.release().await {
            Ok(true) => locks.released += 1,
            Ok(false) => locks.silent += 1,
            // Who releases is told that it may not have worked.
            Err(_) => locks.told += 1,
        }
    }
    Ok(locks)
}

/// Follows a watch until it has shown what was written last.
async fn follow(
    pintle: Pintle,
    mut written: tokio::sync::watch::Receiver<Option<BTreeMap<String, u64>>>,
) -> Result<Seen> {
    let mut watch = pintle.config("main")?.watch(Target::Prefix("w".into())).await?;
    let mut seen = Seen::default();
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
    // Keys of which versions may have been missed since the last resync.
    let mut uncertain = BTreeSet::new();
    loop {
        if written.borrow().as_ref() == Some(&shown) {
            return Ok(seen);
        }
        let event = tokio::select! {
            event = watch.next() => event.context("the watch ended")??,
            _ = written.wait_for(Option::is_some), if written.borrow().is_none() => continue,
        };
        match event {
            WatchEvent::Put { entry, .. } => {
                let count: u64 = std::str::from_utf8(&entry.value)?.parse()?;
                let is_covered = uncertain.remove(&*entry.key);
                let Some(before) = shown.insert(entry.key.to_string(), count) else { continue };
                seen.wrong += u64::from(before >= count);
                // Each key is written in its turn.
                if !is_covered && count > before {
                    seen.missed += ((count - before) / KEYS).saturating_sub(1);
                }
            }
            WatchEvent::Resync(_) => {
                seen.resyncs += 1;
                uncertain = shown.keys().cloned().collect();
            }
            WatchEvent::SnapshotBegin | WatchEvent::SnapshotEnd => {}
            other => bail!("{other:?}"),
        }
    }
}
