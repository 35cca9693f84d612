//! P12: what ten to ten thousand keys, watches, instances and leases cost.
//!
//! Every measurement has a host of its own: what an earlier one left open does not weigh on it.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use pintle::{
    Config,
    config::{ListRequest, Put, Target, Watch, WatchEvent},
    lock::{AcquireOutcome, Lease, LockRequest},
    registry::{Instance, RegisterOutcome, Registration},
};
use pintle_test_bench::{Cost, Growth, Row, cpu_seconds};

use crate::{follow, measured::Measured};

const SIZES: [u64; 4] = [10, 100, 1_000, 10_000];
/// Calls under way at once.
const AT_ONCE: usize = 64;
/// Of what must not be renewed while it is measured.
const LONG: Duration = Duration::from_secs(600);
/// Of leases whose renewals are measured.
const TTL: Duration = Duration::from_secs(6);
/// In which each lease is renewed once.
const RENEWAL_PERIOD: Duration = Duration::from_secs(2);

const TIME: Cost = Cost { suffix: "-time", unit: "ms" };
const CPU: Cost = Cost { suffix: "-cpu", unit: "CPU ms" };
const SENT: Cost = Cost { suffix: "-sent", unit: "bytes" };

/// Measures a plugin on the server at `endpoint`, with everything below `root`.
///
/// # Errors
///
/// The first call that fails.
pub async fn rows(plugin: &str, endpoint: &str, root: &str) -> Result<Vec<Row>> {
    let growing = &Growing { plugin, endpoint, root };
    let is_chosen = |of: &str| crate::is_chosen(&growing.id(of));
    let mut rows = Vec::new();
    if is_chosen("keys") {
        rows.extend(growing.keys().await?);
    }
    if is_chosen("watches") {
        rows.extend(growing.watches().await?);
    }
    if is_chosen("instances") {
        rows.extend(growing.instances().await?);
    }
    if is_chosen("leases") {
        rows.extend(growing.leases().await?);
    }
    Ok(rows)
}

struct Growing<'a> {
    plugin: &'a str,
    endpoint: &'a str,
    root: &'a str,
}

impl Growing<'_> {
    fn id(&self, of: &str) -> String {
        format!("P12-{}-{of}", self.plugin)
    }

    fn growth(&self, of: &str, what: &str, rounds: usize) -> Growth {
        eprintln!("    {}", self.id(of));
        Growth::new(&self.id(of), what, &SIZES).rounds(rounds)
    }

    /// A host that is connected.
    async fn host(&self) -> Result<Measured> {
        let host = Measured::start(self.plugin, self.endpoint, self.root).await?;
        host.config.get("growth/nothing").await?;
        Ok(host)
    }

    async fn keys(&self) -> Result<Vec<Row>> {
        let writer = self.host().await?;
        for size in SIZES {
            write(&writer.config, size).await?;
        }
        writer.end().await?;
        let measure = |size| async move {
            let host = self.host().await?;
            let spent = Spent::begin();
            load(&host.config, size).await?;
            let spent = spent.end();
            host.end().await?;
            anyhow::Ok(spent)
        };
        let what = "a listing of n keys page by page, and a mirror of them";
        Ok(self.growth("keys", what, 8).run([TIME, CPU], measure).await?)
    }

    async fn watches(&self) -> Result<Vec<Row>> {
        let measure = |size| async move {
            let host = self.host().await?;
            let spent = Spent::begin();
            let opening = (0..size).map(|number| watched(&host.config, number));
            let watches: Vec<_> = at_once(opening).try_collect().await?;
            let changing = watches.into_iter().enumerate().map(|(number, mut watch)| {
                let config = &host.config;
                async move {
                    config.put(Put::new(format!("growth/watched/{number}"), "changed")).await?;
                    let event = follow::next_event(&mut watch).await?;
                    ensure!(matches!(event, WatchEvent::Put { .. }), "{event:?}");
                    anyhow::Ok(watch)
                }
            });
            let watches: Vec<_> = at_once(changing).try_collect().await?;
            let spent = spent.end();
            drop(watches);
            host.config.delete_prefix("growth/watched", None).await?;
            host.end().await?;
            anyhow::Ok(spent)
        };
        let what = "n watches on a key each, opened, and a change to each that reaches it";
        Ok(self.growth("watches", what, 4).run([TIME, CPU], measure).await?)
    }

    async fn instances(&self) -> Result<Vec<Row>> {
        let measure = |size| async move {
            let host = self.host().await?;
            let spent = Spent::begin();
            let registering = (0..size).map(|number| register(&host, number));
            let registrations: Vec<Registration> = at_once(registering).try_collect().await?;
            listed(&host, size).await?;
            let spent = spent.end();
            let leaving = registrations.into_iter().map(Registration::deregister);
            at_once(leaving).try_for_each(|()| async { Ok(()) }).await?;
            host.end().await?;
            anyhow::Ok(spent)
        };
        let what = "n instances of a service, registered and listed";
        Ok(self.growth("instances", what, 4).run([TIME, CPU], measure).await?)
    }

    async fn leases(&self) -> Result<Vec<Row>> {
        let measure = |size| async move {
            let host = self.host().await?;
            let acquiring = (0..size).map(|number| acquire(&host, number));
            let leases: Vec<Lease> = at_once(acquiring).try_collect().await?;
            let (sent, spent) = (host.sent_bytes()?, Spent::begin());
            tokio::time::sleep(RENEWAL_PERIOD).await;
            let [_, cpu] = spent.end();
            let sent = host.sent_bytes()? - sent;
            if let Some(lost) = leases.iter().find(|lease| !lease.is_held()) {
                bail!("{} of {size} leases: {lost:?}", leases.len());
            }
            at_once(leases.into_iter().map(Lease::release))
                .try_for_each(|_| async { Ok(()) })
                .await?;
            host.end().await?;
            anyhow::Ok([sent as f64, cpu])
        };
        let what = "n locks that are held, over the period in which each is renewed once";
        Ok(self.growth("leases", what, 3).run([SENT, CPU], measure).await?)
    }
}

/// Time and processor time of this process, in which no server runs.
struct Spent {
    begun: Instant,
    cpu_seconds: f64,
}

impl Spent {
    fn begin() -> Self {
        Self { cpu_seconds: cpu_seconds(), begun: Instant::now() }
    }

    /// In milliseconds.
    fn end(self) -> [f64; 2] {
        let time = self.begun.elapsed().as_secs_f64();
        [time * 1e3, (cpu_seconds() - self.cpu_seconds) * 1e3]
    }
}

/// Does all of it, some at a time.
fn at_once<F: Future>(all: impl Iterator<Item = F>) -> impl Stream<Item = F::Output> {
    stream::iter(all).buffer_unordered(AT_ONCE)
}

fn key(size: u64, number: u64) -> String {
    format!("growth/keys/{size}/{number}")
}

async fn write(config: &Config, size: u64) -> Result<()> {
    // A hundred bytes, as a setting has.
    let puts =
        (0..size).map(|number| config.put(Put::new(key(size, number), format!("{number:0100}"))));
    Ok(at_once(puts).try_for_each(|_| async { Ok(()) }).await?)
}

/// Reads all pages of a listing, then fills a mirror.
async fn load(config: &Config, size: u64) -> Result<()> {
    let prefix = format!("growth/keys/{size}");
    let (mut found, mut page) = (0, None);
    loop {
        let request = ListRequest { prefix: prefix.clone(), page, ..ListRequest::default() };
        let part = config.list(request).await?;
        found += part.entries.len() as u64;
        page = part.next;
        if page.is_none() {
            break;
        }
    }
    ensure!(found == size, "{found} of {size} keys are listed");
    let mirror = config.mirror(Target::Prefix(prefix)).await?;
    let last = mirror.cached(&key(size, size - 1), LONG).context("a key in the mirror")?;
    ensure!(last.entry.is_some(), "a key is missing in the mirror");
    Ok(())
}

/// A watch on a key that is not there, behind its snapshot.
async fn watched(config: &Config, number: u64) -> Result<Watch> {
    let key = format!("growth/watched/{number}");
    let mut watch = config.watch(Target::Key(key)).await?;
    let found = follow::snapshot(&mut watch).await?;
    ensure!(found.is_empty(), "an earlier measurement left {found:?}");
    Ok(watch)
}

async fn register(host: &Measured, number: u64) -> Result<Registration> {
    let instance = Instance::new("growth", number.to_string(), "127.0.0.1", 1);
    match host.pintle.registry("main")?.register(instance, LONG).await? {
        RegisterOutcome::Registered(registration) => Ok(registration),
        RegisterOutcome::Taken(owner) => bail!("taken by {owner:?}"),
    }
}

/// Reads all pages of the service.
async fn listed(host: &Measured, size: u64) -> Result<()> {
    let registry = host.pintle.registry("main")?;
    let (mut found, mut page) = (0, None);
    loop {
        let part = registry.instances("growth", page, 0, None).await?;
        found += part.instances.len() as u64;
        page = part.next;
        if page.is_none() {
            break;
        }
    }
    ensure!(found == size, "{found} of {size} instances are listed");
    Ok(())
}

async fn acquire(host: &Measured, number: u64) -> Result<Lease> {
    let request = LockRequest::new(format!("growth/{number}")).ttl(TTL);
    match host.pintle.lock("main")?.acquire(request).await? {
        AcquireOutcome::Held(lease) => Ok(lease),
        AcquireOutcome::Busy(holders) => bail!("held by {holders:?}"),
    }
}
