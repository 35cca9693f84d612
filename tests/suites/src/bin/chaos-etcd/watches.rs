//! R2 and R8: watches are complete over reconnects and compaction, and right after a partition.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use etcd_client::Client;
use futures::future::try_join_all;
use pintle::config::Target;
use pintle_test_bench::ChaosRow;
use pintle_test_history::Report;
use pintle_test_proxy::{Cut, Fault};
use pintle_test_suites::follow::{Followed, Follower, Record};
use tokio::task::JoinHandle;

use crate::{
    Size, millis,
    stage::{Host, ROOT, Stage},
};

const WATCHERS: usize = 50;
const KEYS: usize = 10;
/// Between two writes.
const PACE: Duration = Duration::from_millis(10);
/// How long watchers may take to the final state after all is healed.
const FINAL_LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn complete(size: Size) -> Result<ChaosRow> {
    // A connection that lives for seconds only is made again later and later: many backends give
    // many reconnects.
    let (backends, cuts) = (size.of(25, 5), size.of(40, 4));
    let stage = Stage::start(backends).await?;
    let mut followers = Vec::new();
    for number in 0..WATCHERS {
        let config = stage.host.pintle.config(&Host::name(number % backends))?;
        let target = Target::Prefix(format!("w/{}", number % 5));
        followers.push(Follower::open(&config, &format!("watcher {number}"), target).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writing = write(stage.client().await?, Arc::clone(&stop));
    let cutting = (0..backends).map(|number| cut(&stage, number, cuts));
    let compactions: usize = try_join_all(cutting).await?.into_iter().sum();
    stop.store(true, Ordering::Relaxed);
    let record = writing.await??;
    let report = check(&followers, &record, cuts).await;
    let resyncs: usize = followers.iter().map(|one| one.now().resyncs.len()).sum();
    let reconnects = (backends * cuts) as u64;
    let first = report.violations.first().map(ToString::to_string);
    let first = first.or(report.undecided.first().cloned()).unwrap_or_default();
    let events = report.checked;
    let what = "50 watchers over cut connections and compaction: each change once, or a resync";
    let violations = report.violations.len() + report.undecided.len();
    Ok(ChaosRow::new("R2-etcd", what, "0 violations", size.of(1_000, 20), reconnects)
        .violations(violations as u64)
        .detail(format!("{events} events, {resyncs} resyncs, {compactions} compactions; {first}")))
}

/// Cuts one backend's connections again and again, each time when they are there again. Now and then
/// what it misses meanwhile is compacted; how often.
async fn cut(stage: &Stage, number: usize, cuts: usize) -> Result<usize> {
    let (proxy, mut client) = (stage.host.proxy(number)?, stage.client().await?);
    let mut compactions = 0;
    for turn in 0..cuts {
        let before = proxy.counts().accepted;
        if (turn + number).is_multiple_of(3) {
            proxy.refuse().await?;
            proxy.cut_all(Cut::Reset).await?;
            tokio::time::sleep(20 * PACE).await;
            compactions += usize::from(compact(&mut client).await?);
            proxy.heal().await?;
        } else {
            proxy.cut_all(Cut::Close).await?;
        }
        proxy.wait_until("a connection after the cut", |now| now.accepted > before).await?;
    }
    Ok(compactions)
}

/// Compacts everything before the present; false when another just did.
async fn compact(client: &mut Client) -> Result<bool> {
    let now = client.get(ROOT, None).await?.header().context("a header")?.revision();
    match client.compact(now, None).await {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains("has been compacted") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes natively until it is told to stop; what was written.
fn write(mut client: Client, stop: Arc<AtomicBool>) -> JoinHandle<Result<Record>> {
    tokio::spawn(async move {
        let mut record = Record::default();
        let mut turn = 0_usize;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("w/{}/{}", turn % 5, turn % KEYS);
            let (path, value) = (format!("{ROOT}{key}"), turn.to_string());
            client.put(path.as_str(), value.as_str(), None).await?;
            record.put(&key, &value);
            if turn % 13 == 5 {
                client.delete(path, None).await?;
                record.removed(&key);
            }
            turn += 1;
            tokio::time::sleep(PACE).await;
        }
        Ok(record)
    })
}

/// Waits for the final state of each, and checks what it saw.
async fn check(followers: &[Follower], record: &Record, resyncs_max: usize) -> Report {
    let is_final = |follower: &Followed, number: usize| {
        let below = format!("w/{}/", number % 5);
        let wanted = record.state.iter().filter(|(key, _)| key.starts_with(&below));
        follower.state.iter().eq(wanted)
    };
    let begun = Instant::now();
    let mut report = Report::default();
    for (number, follower) in followers.iter().enumerate() {
        // What is late is told by the checker.
        while !is_final(&follower.now(), number) && begun.elapsed() < FINAL_LIMIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        report.absorb(follower.check(&record.written, resyncs_max));
    }
    report
}

pub(crate) async fn converges(size: Size) -> Result<ChaosRow> {
    const LIMIT: Duration = Duration::from_secs(2);
    let (keys, changed) = (size.of(1_000, 300), size.of(100, 30));
    let partition = Duration::from_secs(size.of(60, 6));
    let stage = Stage::start(1).await?;
    let config = stage.host.pintle.config(&Host::name(0))?;
    let mut client = stage.client().await?;
    let mut record = Record::default();
    for number in 0..keys {
        let key = format!("c/{number}");
        client.put(format!("{ROOT}{key}"), "before", None).await?;
        record.put(&key, "before");
    }
    let follower = Follower::open(&config, "watcher", Target::Prefix("c".into())).await?;
    let proxy = stage.host.proxy(0)?;
    proxy.set(Fault::Blackhole);
    let begun = Instant::now();
    for number in 0..changed {
        let key = format!("c/{}", number * keys / changed.max(1));
        client.put(format!("{ROOT}{key}"), "changed", None).await?;
        record.put(&key, "changed");
    }
    tokio::time::sleep(partition.saturating_sub(begun.elapsed())).await;
    proxy.heal().await?;
    let healed = Instant::now();
    let converged = follower.until_state(&record.state).await;
    let took = healed.elapsed();
    let late = u64::from(converged.is_err() || took > LIMIT);
    let what = "configuration after a partition: all that changed meanwhile is there";
    Ok(ChaosRow::new("R8-etcd", what, "100 % within 2 s of healing", 1, 1).violations(late).detail(
        format!(
            "{changed} of {keys} keys changed in {} s; right after {} ms, {} resyncs",
            partition.as_secs(),
            millis(took),
            follower.now().resyncs.len()
        ),
    ))
}
