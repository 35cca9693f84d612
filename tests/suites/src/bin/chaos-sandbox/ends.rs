//! R11 and R13: ends in the middle of work, and what a host leaves when it stops.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use pintle::{
    BackendState,
    config::{Put, Target, WatchEvent},
    lock::{AcquireOutcome, LockRequest},
    registry::{Instance, RegisterOutcome},
};
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{Sandbox, eventually, within};

use pintle_test_suites::chaos::{Size, p99};

pub(crate) async fn restarts(size: Size) -> Result<ChaosRow> {
    let p99_max = size.time(Duration::from_millis(50));
    let traps = size.of(1_000, 30);
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start("[backends.main]\nplugin = \"memory\"\n").await?;
    let config = pintle.config("main")?;
    let mut watch = config.watch(Target::Prefix("w".into())).await?;
    let (mut times, mut silent, mut unsaid) = (Vec::new(), 0_u64, 0_u64);
    for number in 0..traps {
        let lock = pintle.lock("main")?;
        let AcquireOutcome::Held(lease) =
            patiently("a lock", async || lock.acquire(LockRequest::new("job")).await).await?
        else {
            bail!("the lock is not free")
        };
        let begun = Instant::now();
        ensure!(config.get("do/panic").await.is_err(), "it did not trap");
        let value = number.to_string();
        patiently("an answer", async || config.put(Put::new("w/k", value.clone())).await).await?;
        times.push(begun.elapsed());
        unsaid += u64::from(lease.is_held());
        // The watch goes on, with a resync where something may be missing.
        let seen = within("the watch", async {
            while let Some(event) = watch.next().await {
                if let WatchEvent::Put { entry, .. } = event?
                    && entry.value == number.to_string().as_bytes()
                {
                    return anyhow::Ok(true);
                }
            }
            Ok(false)
        });
        silent += u64::from(!seen.await??);
        // Its budget is for plugins that nobody ends on purpose.
        let before = pintle.backend("main")?.since;
        pintle.restart_backend("main")?;
        eventually("the service", async || {
            let status = pintle.backend("main")?;
            let again = status.state == BackendState::Serving && status.since > before;
            Ok(again.then_some(()))
        })
        .await?;
    }
    let slowest = p99(times);
    let late = u64::from(slowest > p99_max);
    let target =
        format!("restart p99 <= {} ms, locks reported lost, no silent gap", p99_max.as_millis());
    let done = traps as u64;
    Ok(ChaosRow::new("R11", "traps in the middle of work", &target, done, done)
        .violations(late + silent + unsaid)
        .detail(format!(
            "p99 {} ms, {unsaid} locks not reported, {silent} silent watches",
            slowest.as_millis()
        )))
}

/// Asks until there is an answer: who meets the plugin while it ends is told so.
async fn patiently<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, pintle::Error>,
) -> Result<T> {
    within(what, async {
        loop {
            if let Ok(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

pub(crate) async fn shutdown(size: Size) -> Result<ChaosRow> {
    let limit = size.time(Duration::from_secs(1));
    let count = size.of(1_000, 50);
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
    let pintle = sandbox.start(&text).await?;
    let ttl = Duration::from_secs(120);
    let taking = (0..count).map(|number| {
        let pintle = pintle.clone();
        async move {
            let request = LockRequest::new(format!("job/{number}")).ttl(ttl);
            let lease = match within("a lease", pintle.lock("main")?.acquire(request)).await?? {
                AcquireOutcome::Held(lease) => lease,
                AcquireOutcome::Busy(_) => bail!("busy"),
            };
            let instance = Instance::new("web", number.to_string(), "127.0.0.1", 80);
            let registry = pintle.registry("main")?;
            match within("a registration", registry.register(instance, ttl)).await?? {
                RegisterOutcome::Registered(registration) => Ok((lease, registration)),
                RegisterOutcome::Taken(_) => bail!("taken"),
            }
        }
    });
    let held: Vec<_> = stream::iter(taking).buffer_unordered(32).try_collect().await?;
    let begun = Instant::now();
    let report = within("the shutdown", pintle.shutdown()).await?;
    let took = begun.elapsed();
    drop((held, pintle));
    let next = sandbox.start(&text).await?;
    let left = next.lock("main")?.list("job", None, 0).await?.names.len()
        + next.registry("main")?.instances("web", None, 0, None).await?.instances.len();
    let late = u64::from(took > limit);
    let what = "leases and registrations at the end of a host";
    let target = format!("released <= {} s", limit.as_secs());
    let done = 2 * count as u64;
    Ok(ChaosRow::new("R13-local", what, &target, done, done)
        .violations(late + left as u64 + report.unclean.len() as u64)
        .detail(format!("{} ms, {left} left", took.as_millis())))
}
