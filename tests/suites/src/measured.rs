//! A host with one backend, as the benchmarks measure it.

use std::{
    cell::Cell,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use pintle::{
    Config, Pintle,
    config::{Target, Watch, WatchEvent},
};
use pintle_test_bench::{Comparison, Measure, Row, Side, Target as Wanted};
use tokio::sync::Mutex;

use crate::Sandbox;

/// Longest wait for an event of a watch, ours or a native one.
pub const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// The key that our watch of [`Measured::change_to_event`] is on.
pub const WATCHED_BY_OURS: &str = "watched/ours";

/// The key that the native one is on.
pub const WATCHED_BY_PEER: &str = "watched/peer";

/// So many that the interval around a ratio of 99th percentiles is narrow enough to tell.
const ROUNDS: usize = 60;

/// A host whose backend `main` is one of the shipped plugins, with the limits that ship.
pub struct Measured {
    /// The backend's configuration.
    pub config: Config,
    /// The host.
    pub pintle: Pintle,
    _sandbox: Sandbox,
}

impl Measured {
    /// Starts a host that keeps its keys below `root` on the server at `endpoint`.
    ///
    /// # Errors
    ///
    /// The plugin is not built, or does not start.
    pub async fn start(plugin: &str, endpoint: &str, root: &str) -> Result<Self> {
        let sandbox = Sandbox::new(&[&format!("plugins/{plugin}")])?;
        let settings = format!(
            "[backends.main]\nplugin = {plugin:?}\nendpoints = [{endpoint:?}]\n\
             settings = {{ root = {root:?} }}\n"
        );
        let pintle = sandbox.start(&settings).await?;
        Ok(Self { config: pintle.config("main")?, pintle, _sandbox: sandbox })
    }

    /// Ends the host.
    ///
    /// # Errors
    ///
    /// It leaves something behind.
    pub async fn end(self) -> Result<()> {
        let report = self.pintle.shutdown().await;
        ensure!(report.is_clean(), "{report:?}");
        Ok(())
    }

    /// What the plugin has sent to its server.
    ///
    /// # Errors
    ///
    /// There is no such backend.
    pub fn sent_bytes(&self) -> Result<u64> {
        Ok(self.pintle.backend("main")?.network.bytes_sent)
    }

    /// P1 to P3: gets by one caller, then 64 outstanding on one connection. Each closure does one get.
    ///
    /// # Errors
    ///
    /// A get fails.
    pub async fn gets<A, B, FA, FB, E>(
        backend: &str,
        native: &str,
        mut ours: A,
        mut peer: B,
    ) -> Result<Vec<Row>>
    where
        A: FnMut() -> FA,
        B: FnMut() -> FB,
        FA: Future<Output = Result<()>>,
        FB: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let one = format!("config get, one caller; {native}");
        let one = Comparison::new(&format!("P1-{backend}"), &one)
            .target(Measure::P50, Wanted::AtMost(0.95))
            .target(Measure::P99, Wanted::AtMost(1.05))
            .rounds(ROUNDS)
            .operations(1_000);
        let many = |number: u8, what: &str| {
            let what = format!("{what}, 64 outstanding on one connection; {native}");
            let id = format!("P{number}-{backend}");
            Comparison::new(&id, &what).operations(10_000).outstanding(64)
        };
        let throughput = many(2, "gets").target(Measure::Throughput, Wanted::AtLeast(1.15));
        let cpu =
            many(3, "client CPU for a get").target(Measure::CpuPerOperation, Wanted::AtMost(1.2));
        let mut rows = Vec::new();
        for comparison in [one, throughput, cpu] {
            rows.extend(comparison.run(&mut ours, &mut peer).await?);
        }
        Ok(rows)
    }

    /// P4: from the sending of a change, by `write` of a key and a value on a connection that neither side
    /// uses, to the event with its value; `native_sees` waits until the native watch of [`WATCHED_BY_PEER`]
    /// has it.
    ///
    /// Both sides watch all the time, each a key of its own: an event of the other's would take the cores
    /// from the one that is timed.
    ///
    /// # Errors
    ///
    /// A change fails, or does not come.
    pub async fn change_to_event(
        &self,
        comparison: Comparison,
        write: impl AsyncFn(&str, &str) -> Result<()>,
        native_sees: impl AsyncFn(&str) -> Result<()>,
    ) -> Result<Vec<Row>> {
        let mut watch = self.config.watch(Target::Key(WATCHED_BY_OURS.into())).await?;
        while event(&mut watch).await? != WatchEvent::SnapshotEnd {}
        let (watch, number) = (Mutex::new(watch), Cell::new(0_u64));
        let change = async |side: Side| -> Result<Duration> {
            let value = number.replace(number.get() + 1).to_string();
            let key = match side {
                Side::Ours => WATCHED_BY_OURS,
                Side::Peer => WATCHED_BY_PEER,
            };
            let begin = Instant::now();
            let seen = async {
                match side {
                    Side::Ours => sees(&mut *watch.lock().await, &value).await?,
                    Side::Peer => native_sees(&value).await?,
                }
                anyhow::Ok(begin.elapsed())
            };
            let (written, seen) = tokio::join!(write(key, &value), seen);
            written?;
            seen
        };
        let comparison = comparison
            .target(Measure::P50, Wanted::AtMost(1.0))
            .target(Measure::P99, Wanted::AtMost(1.1))
            .rounds(ROUNDS)
            .operations(300);
        Ok(comparison.run_timed(|| change(Side::Ours), || change(Side::Peer)).await?)
    }
}

async fn sees(watch: &mut Watch, value: &str) -> Result<()> {
    let event = event(watch).await?;
    let seen =
        matches!(&event, WatchEvent::Put { entry, .. } if &entry.value[..] == value.as_bytes());
    ensure!(seen, "expected {value}, got {event:?}");
    Ok(())
}

async fn event(watch: &mut Watch) -> Result<WatchEvent> {
    let next = tokio::time::timeout(EVENT_LIMIT, watch.next()).await.context("no event came")?;
    Ok(next.context("the watch ended")??)
}
