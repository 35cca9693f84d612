//! `cargo xtask bench zookeeper`: the ZooKeeper plugin against a native Rust client, on one server.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use pintle::config::{Consistency, Expect, Put, PutOutcome, ReadOptions};
use pintle_test_bench::{Comparison, Measure, Report, Row, Target as Wanted};
use pintle_test_services::{ZooKeeper, ZooKeeperOptions};
use pintle_test_suites::{
    arguments, growth, is_chosen,
    measured::{EVENT_LIMIT, Measured},
};
use tokio::sync::Mutex;
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode};

const ROOT: &str = "/bench";
const KEYS: usize = 1_000;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    arguments::bench();
    // What is measured of leases says how long they are kept, as long as it asks for.
    let settings = vec!["maxSessionTimeout=3600000".to_owned()];
    let options = ZooKeeperOptions { settings, ..ZooKeeperOptions::default() };
    let server = ZooKeeper::start(options).await?;
    let stage = Stage::new(&server).await?;
    let mut report = Report::default();
    if ["P1-zookeeper", "P2-zookeeper", "P3-zookeeper"].into_iter().any(is_chosen) {
        report.extend(stage.gets().await?);
    }
    if is_chosen("P1w-zookeeper") {
        report.extend(stage.one_writer().await?);
    }
    if is_chosen("P1c-zookeeper") {
        report.extend(stage.one_creator().await?);
    }
    if is_chosen("P4-zookeeper") {
        report.extend(stage.change_to_event().await?);
    }
    drop(stage);
    report.extend(growth::rows("zookeeper", &server.endpoint(), ROOT).await?);
    pintle_test_suites::finish(&report)
}

/// Both sides, connected to the same server, with the same nodes.
struct Stage {
    ours: Measured,
    native: Client,
    /// A session that neither side uses: it changes what both watch.
    writer: Client,
}

impl Stage {
    async fn new(server: &ZooKeeper) -> Result<Self> {
        let endpoint = server.endpoint();
        let writer = Client::connect(&endpoint).await?;
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        writer.mkdir(&path("get"), &options).await?;
        for number in 0..KEYS {
            let value = format!("{number:0100}");
            writer.create(&path(&key(number)), value.as_bytes(), &options).await?;
        }
        for name in ["put", "watched", "create", "create/ours", "create/peer"] {
            writer.create(&path(name), b"", &options).await?;
        }
        writer.create(&path("put/peer"), b"", &options).await?;
        let native = Client::connect(&endpoint).await?;
        let ours = Measured::start("zookeeper", &endpoint, ROOT).await?;
        // Both sessions are warm before anything is measured.
        ours.config.get(&key(0)).await?.context("the plugin reads what another client wrote")?;
        native.get_data(&path(&key(0))).await?;
        Ok(Self { ours, native, writer })
    }

    /// P1 to P3, sequential on both sides: what the connected server knows.
    async fn gets(&self) -> Result<Vec<Row>> {
        let mut number = 0;
        let ours = || {
            number += 1;
            let (config, key) = (self.ours.config.clone(), key(number));
            async move {
                let consistency = Some(Consistency::Sequential);
                let options = ReadOptions { consistency, ..ReadOptions::default() };
                let entry = config.get_with(&key, options).await?;
                entry.map(drop).with_context(|| format!("{key} is there"))
            }
        };
        let mut native_number = 0;
        let peer = || {
            native_number += 1;
            let (client, path) = (self.native.clone(), path(&key(native_number)));
            async move { client.get_data(&path).await.map(drop) }
        };
        Measured::gets("zookeeper", "native client", ours, peer).await
    }

    /// Not in the table of goals, but what everybody asks next: puts by one caller.
    async fn one_writer(&self) -> Result<Vec<Row>> {
        let comparison =
            Comparison::new("P1w-zookeeper", "config put, one caller; native set-data")
                .target(Measure::P50, Wanted::AtMost(1.05))
                .operations(300);
        let ours = || {
            let config = self.ours.config.clone();
            async move { config.put(Put::new("put/ours", "value")).await.map(drop) }
        };
        let peer = || {
            let client = self.native.clone();
            async move { client.set_data(&path("put/peer"), b"value", None).await.map(drop) }
        };
        Ok(comparison.run(ours, peer).await?)
    }

    /// The same for keys that are new.
    async fn one_creator(&self) -> Result<Vec<Row>> {
        let what = "config put of a new key, one caller; native create";
        let comparison = Comparison::new("P1c-zookeeper", what)
            .target(Measure::P50, Wanted::AtMost(1.05))
            .operations(300);
        let (mut number, mut native_number) = (0, 0);
        let ours = || {
            number += 1;
            let put = Put::new(format!("create/ours/{number}"), "value").expect(Expect::Absent);
            let config = self.ours.config.clone();
            async move {
                let outcome = config.put(put).await?;
                ensure!(matches!(outcome, PutOutcome::Stored { .. }), "{outcome:?}");
                Ok(())
            }
        };
        let peer = || {
            native_number += 1;
            let (client, path) =
                (self.native.clone(), path(&format!("create/peer/{native_number}")));
            async move {
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                client.create(&path, b"value", &options).await.map(drop)
            }
        };
        Ok(comparison.run(ours, peer).await?)
    }

    /// P4: from the sending of a change, by a third session, to the event with its value. The native
    /// watch only notifies: its reader has to ask for the value.
    async fn change_to_event(&self) -> Result<Vec<Row>> {
        let watcher = self.native.watch(&path("watched"), AddWatchMode::Persistent).await?;
        let watcher = Mutex::new(watcher);
        let what = "change to event, one watcher; native watch and read";
        let comparison = Comparison::new("P4-zookeeper", what);
        let write = async |value: &str| -> Result<()> {
            self.writer.set_data(&path("watched"), value.as_bytes(), None).await?;
            Ok(())
        };
        let native_sees = async |value: &str| -> Result<()> {
            let mut watcher = watcher.lock().await;
            loop {
                let changed = tokio::time::timeout(EVENT_LIMIT, watcher.changed()).await;
                changed.context("no event came")?;
                let (data, _) = self.native.get_data(&path("watched")).await?;
                if data == value.as_bytes() {
                    return Ok(());
                }
            }
        };
        self.ours.change_to_event(comparison, "watched", write, native_sees).await
    }
}

fn key(number: usize) -> String {
    format!("get/{:04}", number % KEYS)
}

fn path(key: &str) -> String {
    format!("{ROOT}/{key}")
}
