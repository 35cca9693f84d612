//! R2 and R8: watches are complete over reconnects and compaction, and right after a partition.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::future::try_join_all;
use pintle::config::Target;
use pintle_test_bench::ChaosRow;
use pintle_test_history::{Promise, Report};
use pintle_test_proxy::{Cut, Fault};
use tokio::task::JoinHandle;

use super::{
    Size,
    backend::{Backend, Control},
    stage::{Host, Stage},
};
use crate::follow::{Followed, Follower, Record};

const WATCHERS: usize = 50;
const KEYS: usize = 10;
/// Between two writes.
const PACE: Duration = Duration::from_millis(10);
/// How long watchers may take to the final state after all is healed.
const FINAL_LIMIT: Duration = Duration::from_secs(60);

/// R2: many watchers of what changes all the time, over cut connections and compaction.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn complete<B: Backend>(size: Size) -> Result<ChaosRow> {
    // A connection that lives for seconds only is made again later and later: many backends give
    // many reconnects.
    let (backends, cuts) = (size.of(25, 5), size.of(40, 4));
    let stage = Stage::<B>::start(backends).await?;
    let mut followers = Vec::new();
    for number in 0..WATCHERS {
        let config = stage.host.pintle.config(&Host::name(number % backends))?;
        let target = Target::Prefix(format!("w/{}", number % 5));
        followers.push(Follower::open(&config, &format!("watcher {number}"), target).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writing = write(stage.control().await?, Arc::clone(&stop));
    let cutting = (0..backends).map(|number| {
        let own: Vec<_> = followers.iter().skip(number).step_by(backends).collect();
        let stage = &stage;
        async move { cut(stage, &own, number, cuts).await }
    });
    let cut: Vec<Cuts> = try_join_all(cutting).await?;
    stop.store(true, Ordering::Relaxed);
    let record = writing.await??;
    let promise = if B::EVERY_CHANGE { Promise::EveryChange } else { Promise::FinalState };
    let report = check(&followers, &record, promise, cuts).await;
    let resyncs: usize = followers.iter().map(|one| one.now().resyncs.len()).sum();
    // Nothing is proved when nothing came, or nothing was lost underneath.
    let compacted = cut.iter().any(|cuts| cuts.compactions > 0) || !B::EVERY_CHANGE;
    let is_proof = report.checked > 0 && compacted;
    let reconnects = if is_proof { (backends * cuts) as u64 } else { 0 };
    let first = report.violations.first().map(ToString::to_string);
    let unmarked: Vec<&String> = cut.iter().flat_map(|cuts| &cuts.unmarked).collect();
    let undecided = report.undecided.first().or(unmarked.first().copied()).cloned();
    let first = first.or(undecided).unwrap_or_default();
    let events = report.checked;
    let (what, counted) = if B::EVERY_CHANGE {
        let compactions: usize = cut.iter().map(|cuts| cuts.compactions).sum();
        let what = "50 watchers over cut connections and compaction: each change once, or a resync";
        (what, format!("{compactions} compactions"))
    } else {
        let what = "50 watchers over cut connections: final states, and a resync for each gap";
        (what, format!("{} gaps not marked", unmarked.len()))
    };
    let violations = report.violations.len() + report.undecided.len() + unmarked.len();
    Ok(ChaosRow::new(&B::id("R2"), what, "0 violations", size.of(1_000, 20), reconnects)
        .violations(violations as u64)
        .detail(format!("{events} events, {resyncs} resyncs, {counted}; {first}")))
}

/// What came of cutting one backend's connections.
#[derive(Default)]
struct Cuts {
    compactions: usize,
    /// Gaps after which no resync came.
    unmarked: Vec<String>,
}

/// Cuts one backend's connections again and again, each time when they are there again. Now and then
/// what it misses meanwhile is compacted.
async fn cut<B: Backend>(
    stage: &Stage<B>,
    own: &[&Follower],
    number: usize,
    cuts: usize,
) -> Result<Cuts> {
    let (proxy, control) = (stage.host.proxy(number)?, stage.control().await?);
    let mut done = Cuts::default();
    for turn in 0..cuts {
        let before = proxy.counts().accepted;
        if (turn + number).is_multiple_of(3) {
            proxy.refuse().await?;
            proxy.cut_all(Cut::Reset).await?;
            tokio::time::sleep(20 * PACE).await;
            done.compactions += usize::from(control.compact().await?);
            proxy.heal().await?;
        } else {
            proxy.cut_all(Cut::Close).await?;
        }
        proxy.wait_until("a connection after the cut", |now| now.accepted > before).await?;
        if B::EVERY_CHANGE {
            continue;
        }
        // Whoever cannot say what was in between has to say that something may have been.
        for follower in own {
            let marked = follower.until("a resync", |followed| followed.resyncs.len() > turn);
            if let Err(error) = marked.await {
                // Each further one would be waited for as long.
                done.unmarked.push(format!("{error:#}"));
                return Ok(done);
            }
        }
    }
    Ok(done)
}

/// Writes natively until it is told to stop; what was written.
fn write(control: impl Control, stop: Arc<AtomicBool>) -> JoinHandle<Result<Record>> {
    tokio::spawn(async move {
        let mut record = Record::default();
        let mut turn = 0_usize;
        while !stop.load(Ordering::Relaxed) {
            let key = format!("w/{}/{}", turn % 5, turn % KEYS);
            let value = turn.to_string();
            control.put(&key, &value).await?;
            record.put(&key, &value);
            if turn % 13 == 5 {
                control.delete(&key).await?;
                record.removed(&key);
            }
            turn += 1;
            tokio::time::sleep(PACE).await;
        }
        Ok(record)
    })
}

/// Waits for the final state of each, and checks what it saw.
async fn check(
    followers: &[Follower],
    record: &Record,
    promise: Promise,
    resyncs_max: usize,
) -> Report {
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
        report.absorb(follower.check_for(promise, &record.written, resyncs_max));
    }
    report
}

/// R8: configuration that changes during a partition.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn converges<B: Backend>(size: Size) -> Result<ChaosRow> {
    const LIMIT: Duration = Duration::from_secs(2);
    let (keys, changed) = (size.of(1_000, 300), size.of(100, 30));
    let partition = Duration::from_secs(size.of(60, 6));
    let stage = Stage::<B>::start(1).await?;
    let config = stage.host.pintle.config(&Host::name(0))?;
    let control = stage.control().await?;
    let mut record = Record::default();
    for number in 0..keys {
        let key = format!("c/{number}");
        control.put(&key, "before").await?;
        record.put(&key, "before");
    }
    let follower = Follower::open(&config, "watcher", Target::Prefix("c".into())).await?;
    let proxy = stage.host.proxy(0)?;
    proxy.set(Fault::Blackhole);
    let begun = Instant::now();
    for number in 0..changed {
        let key = format!("c/{}", number * keys / changed.max(1));
        control.put(&key, "changed").await?;
        record.put(&key, "changed");
    }
    tokio::time::sleep(partition.saturating_sub(begun.elapsed())).await;
    proxy.heal().await?;
    let healed = Instant::now();
    let converged = follower.until_state(&record.state).await;
    let took = healed.elapsed();
    let late = u64::from(converged.is_err() || took > LIMIT);
    let what = "configuration after a partition: all that changed meanwhile is there";
    Ok(ChaosRow::new(&B::id("R8"), what, "100 % within 2 s of healing", 1, 1)
        .violations(late)
        .detail(format!(
            "{changed} of {keys} keys changed in {} s; right after {} ms, {} resyncs",
            partition.as_secs(),
            took.as_millis(),
            follower.now().resyncs.len()
        )))
}
