//! Files that replace each other while everything is in use.

use std::{
    collections::BTreeMap,
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

/// What a watcher saw.
struct Seen {
    resyncs: u64,
    /// Versions that went back, or came twice.
    wrong: u64,
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
    let (reads, slow, gaps) = within("the reader", reading).await???;
    let (locks, silent) = within("the holder", locking).await???;
    let last = written.values().copied().max().unwrap_or_default();
    tell_written.send_replace(Some(written));
    let mut seen = Vec::new();
    for watcher in watching {
        seen.push(within("a watcher", watcher).await???);
    }
    let wrong: u64 = seen.iter().map(|seen| seen.wrong).sum();
    let resyncs: u64 = seen.iter().map(|seen| seen.resyncs).sum();
    let target = "each version once or a resync, no read beyond its deadline, no gap, locks told";
    let done = replacements as u64;
    Ok(ChaosRow::new("reload", "files that replace each other under load", target, done, done)
        .violations(wrong + slow + gaps + silent)
        .detail(format!(
            "{} ms each, {last} writes, {watchers} watchers with {resyncs} resyncs and {wrong} wrong \
             versions, {reads} reads with {slow} late, {gaps} gaps of a registration, {locks} locks \
             with {silent} lost in silence",
            took.as_millis() / u128::from(done.max(1))
        )))
}

/// A hundred writes a second; what is written under each key grows.
async fn write(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<BTreeMap<String, u64>> {
    let config = pintle.config("main")?;
    let mut written = BTreeMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for count in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let key = format!("w/{}", count % 7);
        config.put(Put::new(key.clone(), count.to_string())).await?;
        written.insert(key, count);
    }
    Ok(written)
}

/// Reads, and how many of them came late; and how often the registration was not there.
async fn read(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<(u64, u64, u64)> {
    let registry = pintle.registry("main")?;
    let (mut reads, mut slow, mut gaps) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let page = registry.instances("web", None, 0, None).await?;
        reads += 1;
        slow += u64::from(begun.elapsed() > CALL);
        gaps += u64::from(page.instances.len() != 1);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((reads, slow, gaps))
}

/// Locks that were held, and how many were lost without a notice.
async fn lock(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<(u64, u64)> {
    let lock = pintle.lock("main")?;
    let (mut locks, mut silent) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let wait = LockRequest::new("job").wait(Duration::from_secs(5));
        let Ok(AcquireOutcome::Held(lease)) = lock.acquire(wait).await else { continue };
        locks += 1;
        // Held for a while: it is released well, or its holder has been told.
        let lost = tokio::time::timeout(Duration::from_millis(50), lease.lost()).await;
        let told = lost.is_ok() || matches!(lease.status(), LeaseStatus::Lost(_));
        if !told && !lease.release().await.unwrap_or(true) {
            silent += 1;
        }
    }
    Ok((locks, silent))
}

/// Follows a watch until it has shown what was written last.
async fn follow(
    pintle: Pintle,
    mut written: tokio::sync::watch::Receiver<Option<BTreeMap<String, u64>>>,
) -> Result<Seen> {
    let mut watch = pintle.config("main")?.watch(Target::Prefix("w".into())).await?;
    let mut seen = Seen { resyncs: 0, wrong: 0 };
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
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
                let before = shown.insert(entry.key.to_string(), count);
                seen.wrong += u64::from(before.is_some_and(|before| before >= count));
            }
            WatchEvent::Resync(_) => seen.resyncs += 1,
            WatchEvent::SnapshotBegin | WatchEvent::SnapshotEnd => {}
            other => bail!("{other:?}"),
        }
    }
}
