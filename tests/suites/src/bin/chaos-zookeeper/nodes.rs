//! R3: watches of many nodes over many disconnects show what is there at last.

use std::{
    collections::BTreeMap,
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
use pintle_test_proxy::Cut;
use pintle_test_suites::{
    chaos::{
        Size,
        backend::Control,
        stage::{Host, Stage},
    },
    follow::Follower,
};
use tokio::task::JoinHandle;

use crate::zookeeper::{Native, OnZooKeeper};

/// Between two writes.
const PACE: Duration = Duration::from_millis(5);
/// How long watchers may take to the final state after the last disconnect.
const FINAL_LIMIT: Duration = Duration::from_secs(60);

/// Each backend watches its part of the nodes one by one, and all of them as a tree. What is written
/// last is written while all are cut off.
pub(crate) async fn final_states(size: Size) -> Result<ChaosRow> {
    let (backends, nodes, cuts) = (size.of(20, 4), size.of(1_000, 200), size.of(50, 4));
    let stage = Stage::<OnZooKeeper>::start(backends).await?;
    let control = stage.control().await?;
    for number in 0..nodes {
        control.put(&key(number), "first").await?;
    }
    let mut watched = Vec::new();
    for backend in 0..backends {
        let config = stage.host.pintle.config(&Host::name(backend))?;
        let own = (0..nodes).filter(|number| number % backends == backend);
        let targets = own.map(|number| Target::Key(key(number)));
        for target in targets.chain([Target::Prefix("n".into())]) {
            let of = format!("{target:?} of {backend}");
            watched.push((target.clone(), Follower::open(&config, &of, target).await?));
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writing = write(control.clone(), nodes, Arc::clone(&stop));
    try_join_all((0..backends).map(|number| disconnect(&stage, number, cuts - 1))).await?;
    stop.store(true, Ordering::Relaxed);
    writing.await??;
    let state = write_unseen(&stage, &control, nodes).await?;
    let missed = missed(&watched, &state).await;
    let resyncs: usize = watched.iter().map(|(_, one)| one.now().resyncs.len()).sum();
    let what = format!("{nodes} nodes, watched alone and as a tree, over disconnects");
    let wanted = size.of(1_000, 16);
    Ok(ChaosRow::new(
        "R3-zookeeper",
        &what,
        "0 missed final states",
        wanted,
        (backends * cuts) as u64,
    )
    .violations(missed.len() as u64)
    .detail(format!(
        "{} watches, {resyncs} resyncs; {}",
        watched.len(),
        missed.first().cloned().unwrap_or_default()
    )))
}

/// Cuts a backend off again and again, each time when it is connected again, and now and then for
/// longer.
async fn disconnect(stage: &Stage<OnZooKeeper>, number: usize, cuts: usize) -> Result<()> {
    let proxy = stage.host.proxy(number)?;
    for turn in 0..cuts {
        let before = proxy.counts().accepted;
        if (turn + number).is_multiple_of(2) {
            proxy.refuse().await?;
            proxy.cut_all(Cut::Reset).await?;
            tokio::time::sleep(20 * PACE).await;
            proxy.heal().await?;
        } else {
            proxy.cut_all(Cut::Close).await?;
        }
        proxy.wait_until("a connection after the cut", |now| now.accepted > before).await?;
    }
    Ok(())
}

/// Writes node after node until it is told to stop; some are created again.
fn write(control: Native, nodes: usize, stop: Arc<AtomicBool>) -> JoinHandle<Result<()>> {
    tokio::spawn(async move {
        let mut turn = 0_usize;
        while !stop.load(Ordering::Relaxed) {
            // Neighbours are of different backends.
            let key = key(turn * 7 % nodes);
            if turn.is_multiple_of(5) {
                control.delete(&key).await?;
            }
            control.put(&key, &turn.to_string()).await?;
            turn += 1;
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    })
}

/// Writes or deletes every node while nobody is connected; what is there then.
async fn write_unseen(
    stage: &Stage<OnZooKeeper>,
    control: &Native,
    nodes: usize,
) -> Result<BTreeMap<String, String>> {
    for proxy in &stage.host.proxies {
        proxy.refuse().await?;
        proxy.cut_all(Cut::Reset).await?;
    }
    let mut state = BTreeMap::new();
    for number in 0..nodes {
        let key = key(number);
        if number.is_multiple_of(10) {
            control.delete(&key).await?;
        } else {
            control.put(&key, "last").await?;
            state.insert(key, "last".to_owned());
        }
    }
    for proxy in &stage.host.proxies {
        proxy.heal().await?;
    }
    Ok(state)
}

/// Waits for the final state of each; whose it did not become.
async fn missed(watched: &[(Target, Follower)], state: &BTreeMap<String, String>) -> Vec<String> {
    let begun = Instant::now();
    let mut missed = Vec::new();
    for (target, follower) in watched {
        let is_final = || {
            let now = follower.now();
            let has_ended = now.ended.is_some();
            let is_there = match target {
                Target::Key(key) => now.state.get(&**key) == state.get(&**key),
                Target::Prefix(_) => now.state == *state,
            };
            is_there && !has_ended
        };
        while !is_final() && begun.elapsed() < FINAL_LIMIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if !is_final() {
            missed.push(format!("{target:?}: {:?}", follower.now().ended));
        }
    }
    missed
}

fn key(number: usize) -> String {
    format!("n/{number:04}")
}
