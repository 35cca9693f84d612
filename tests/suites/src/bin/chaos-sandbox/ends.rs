//! R11 and R13: ends in the middle of work, and what a host leaves when it stops.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use pintle::{
    BackendState, Pintle,
    config::{Put, Target, WatchEvent},
    lock::{AcquireOutcome, Lease, LockRequest},
    registry::{Instance, RegisterOutcome, Registration},
};
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{
    Sandbox,
    arguments::{PART, part},
    eventually, within,
};

use pintle_test_suites::chaos::{Size, p99};

pub(crate) async fn restarts(size: Size) -> Result<ChaosRow> {
    let p99_max = size.time(Duration::from_millis(50));
    let traps = size.of(1_000, 30);
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start("[backends.main]\nplugin = \"memory\"\n").await?;
    let config = pintle.config("main")?;
    let mut watch = config.watch(Target::Prefix("w".into())).await?;
    let (mut times, mut silent, mut unsaid) = (Vec::new(), 0_u64, 0_u64);
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> =
        (0..LOAD).map(|_| tokio::spawn(work(pintle.clone(), Arc::clone(&stop)))).collect();
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
    stop.store(true, Ordering::Relaxed);
    let (mut calls, mut ended, mut strange) = (0, 0, 0);
    for task in load {
        let worked = within("the end of the load", task).await???;
        (calls, ended, strange) =
            (calls + worked.calls, ended + worked.ended, strange + worked.strange);
    }
    let slowest = p99(times);
    let late = u64::from(slowest > p99_max);
    let target =
        format!("restart p99 <= {} ms, locks reported lost, no silent gap", p99_max.as_millis());
    let done = traps as u64;
    Ok(ChaosRow::new("R11", "traps in the middle of work", &target, done, done)
        .violations(late + silent + unsaid + strange)
        .detail(format!(
            "p99 {} ms, {unsaid} locks not reported, {silent} silent watches, {calls} calls beside \
             them of which {ended} were told of an end, {strange} late or with another answer",
            slowest.as_millis()
        )))
}

/// Who works on the backend while its plugin ends.
const LOAD: usize = 4;
/// How long a call may take in all: its limit and its grace.
const CALL_MAX: Duration = Duration::from_secs(6);

#[derive(Default)]
struct Work {
    calls: u64,
    /// Calls that were told that the plugin has ended, or is being started.
    ended: u64,
    /// Calls that nobody answered in time, or with what no caller can use.
    strange: u64,
}

async fn work(pintle: Pintle, stop: Arc<AtomicBool>) -> Result<Work> {
    let config = pintle.config("main")?;
    let mut work = Work::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = config.put(Put::new("load", "v")).await;
        work.calls += 1;
        let is_late = begun.elapsed() > CALL_MAX;
        match answer {
            Ok(_) => work.strange += u64::from(is_late),
            Err(error) if !is_late && ["plugin-ended", "not-running"].contains(&error.code()) => {
                work.ended += 1;
            }
            Err(_) => work.strange += 1,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(work)
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
    let pintle = with_local(&sandbox, &sandbox.path().join("main")).await?;
    let held = hold(&pintle, count, Duration::from_secs(120)).await?;
    let begun = Instant::now();
    let report = within("the shutdown", pintle.shutdown()).await?;
    let took = begun.elapsed();
    drop((held, pintle));
    let next = with_local(&sandbox, &sandbox.path().join("main")).await?;
    let left = left(&next).await?;
    let late = u64::from(took > limit);
    let what = "leases and registrations at the end of a host";
    let target = format!("released <= {} s", limit.as_secs());
    let done = 2 * count as u64;
    Ok(ChaosRow::new("R13-local", what, &target, done, done)
        .violations(late + left + report.unclean.len() as u64)
        .detail(format!("{} ms, {left} left", took.as_millis())))
}

async fn with_local(sandbox: &Sandbox, data_dir: &Path) -> Result<Pintle> {
    let data_dir = data_dir.display().to_string();
    let text = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
    sandbox.start(&text).await
}

/// Leases and registrations that the backend shows.
async fn left(pintle: &Pintle) -> Result<u64> {
    let (lock, registry) = (pintle.lock("main")?, pintle.registry("main")?);
    let (mut count, mut page) = (0, None);
    loop {
        let locks = lock.list("job", page, 0).await?;
        count += locks.names.len() as u64;
        page = locks.next;
        if page.is_none() {
            break;
        }
    }
    loop {
        let found = registry.instances("web", page, 0, None).await?;
        count += found.instances.len() as u64;
        page = found.next;
        if page.is_none() {
            return Ok(count);
        }
    }
}

/// Takes so many leases and registrations.
async fn hold(pintle: &Pintle, count: usize, ttl: Duration) -> Result<Vec<(Lease, Registration)>> {
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
    stream::iter(taking).buffer_unordered(32).try_collect().await
}

/// How long leases and registrations live without their host.
const TTL: Duration = Duration::from_secs(10);
/// From the end of the TTL until they are gone.
const GONE_MAX: Duration = Duration::from_secs(1);
/// The part of the host that is to be killed: `holder FOLDER COUNT`.
const HOLDER: &str = "holder";

/// A host that holds as much as it is told, until it is killed.
pub(crate) async fn holder() -> Result<bool> {
    let [HOLDER, data_dir, count] = part()[..] else { return Ok(false) };
    let count = count.parse()?;
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let pintle = with_local(&sandbox, Path::new(data_dir)).await?;
    let _held = hold(&pintle, count, TTL).await?;
    println!("{}", left(&pintle).await?);
    std::future::pending().await
}

pub(crate) async fn kill(size: Size) -> Result<ChaosRow> {
    let count = size.of(1_000, 50);
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("main");
    let mut host = Command::new(std::env::current_exe()?)
        .args([PART, HOLDER])
        .arg(&data_dir)
        .arg(count.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = host.stdout.take().context("no standard output")?;
    let held = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        anyhow::Ok(line.trim().parse::<u64>()?)
    });
    let held = held.await?.context("the host holds nothing");
    host.kill()?;
    let killed = Instant::now();
    host.wait()?;
    let held = held?;
    let next = with_local(&sandbox, &data_dir).await?;
    // By the time at which the last renewal counts no more.
    let mut found = left(&next).await?;
    while found > 0 && killed.elapsed() < TTL + size.time(GONE_MAX) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        found = left(&next).await?;
    }
    let took = killed.elapsed();
    let what = "leases and registrations of a host that is killed";
    let target = format!("gone {} s after the end of their TTL", size.time(GONE_MAX).as_secs());
    Ok(ChaosRow::new("R13-local-kill", what, &target, 2 * count as u64, held)
        .violations(found)
        .detail(format!("{} ms after the kill, {found} left", took.as_millis())))
}
