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

    /// P4: from the sending of a change to `key`, by `write` on a connection that neither side uses, to
    /// the event with its value; `native_sees` waits until the native watch has it.
    ///
    /// Both sides watch all the time; each takes the time of its own event, then waits for the other's.
    ///
    /// # Errors
    ///
    /// A change fails, or does not come.
    pub async fn change_to_event(
        &self,
        comparison: Comparison,
        key: &str,
        write: impl AsyncFn(&str) -> Result<()>,
        native_sees: impl AsyncFn(&str) -> Result<()>,
    ) -> Result<Vec<Row>> {
        let mut watch = self.config.watch(Target::Key(key.into())).await?;
        while event(&mut watch).await? != WatchEvent::SnapshotEnd {}
        let (watch, number) = (Mutex::new(watch), Cell::new(0_u64));
        let change = async |timed: Side| -> Result<Duration> {
            let mut watch = watch.lock().await;
            let value = number.replace(number.get() + 1).to_string();
            let begin = Instant::now();
            let ours = async { sees(&mut watch, &value).await.map(|()| begin.elapsed()) };
            let native = async { native_sees(&value).await.map(|()| begin.elapsed()) };
            let (written, ours, native) = tokio::join!(write(&value), ours, native);
            written?;
            match timed {
                Side::Ours => ours,
                Side::Peer => native,
            }
        };
        let comparison = comparison
            .target(Measure::P50, Wanted::AtMost(1.0))
            .target(Measure::P99, Wanted::AtMost(1.1))
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
