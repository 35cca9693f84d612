//! R5: leases of a plugin that computes without end and renews nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use pintle::{
    Pintle,
    lock::{AcquireOutcome, Lease, LockRequest},
};
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{Sandbox, chaos::Size, within};

const TTL: Duration = Duration::from_secs(5);
/// By how much the host counts a lease of this TTL as lost before the backend does.
const MARGIN: Duration = Duration::from_millis(500);
/// A plugin that does not spin answers sooner.
const ANSWER: Duration = Duration::from_millis(300);
/// The plugin may spin for longer than its leases live, so that only their clocks can end them.
const SETTINGS: &str = "[backends.main]\nplugin = \"memory\"\n\
                        limits = { call = \"1min\", more = { unyielded_max = \"1min\" } }\n";

pub(crate) async fn told_in_time(size: Size) -> Result<ChaosRow> {
    let (rounds, leases) = size.of((10, 100), (1, 20));
    let (mut told, mut late, mut earliest) = (0, 0, Duration::MAX);
    for _ in 0..rounds {
        for before in round(leases).await? {
            told += 1;
            match before {
                Some(before) => earliest = earliest.min(before),
                None => late += 1,
            }
        }
    }
    let what = "leases of a plugin that spins";
    let target = "lost is told before the backend lets go";
    Ok(ChaosRow::new("R5-spinning", what, target, (rounds * leases) as u64, told)
        .violations(late)
        .detail(format!("the latest was told {} ms before its end", earliest.as_millis())))
}

/// How long before the end of its TTL the loss of each lease was told; nothing when it was after.
async fn round(leases: usize) -> Result<Vec<Option<Duration>>> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start(SETTINGS).await?;
    let held: Vec<_> = stream::iter((0..leases).map(|number| hold(&pintle, number)))
        .buffer_unordered(32)
        .try_collect()
        .await?;
    let asking = |key: &'static str| {
        let config = pintle.config("main");
        tokio::spawn(async move { config?.get(key).await })
    };
    let spinning = asking("do/spin");
    // When a question is not answered it spins, and no renewal comes any more. The question stays
    // asked: a call that is given up ends a plugin that does not notice.
    let is_answered = async || tokio::time::timeout(ANSWER, asking("a")).await.is_ok();
    within("the plugin to spin", async { while is_answered().await {} }).await?;
    let told = join_all(held.iter().map(|lease| async {
        ensure!(lease.is_held(), "lost before it was over: {:?}", lease.status());
        let ends = Instant::now() + lease.remaining() + MARGIN;
        within("the notice", lease.lost()).await?;
        Ok(ends.checked_duration_since(Instant::now()))
    }));
    let told = told.await.into_iter().collect::<Result<_>>()?;
    ensure!(!spinning.is_finished(), "it did not spin for long enough");
    spinning.abort();
    Ok(told)
}

async fn hold(pintle: &Pintle, number: usize) -> Result<Lease> {
    let request = LockRequest::new(format!("job/{number}")).ttl(TTL);
    match within("a lease", pintle.lock("main")?.acquire(request)).await?? {
        AcquireOutcome::Held(lease) => Ok(lease),
        AcquireOutcome::Busy(_) => bail!("busy"),
    }
}
