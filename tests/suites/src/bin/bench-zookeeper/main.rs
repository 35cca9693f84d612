//! `cargo xtask bench zookeeper`: the ZooKeeper plugin against native Rust clients, on one server.

mod peers;

use std::{cell::Cell, process::ExitCode};

use anyhow::{Context, Result, ensure};
use futures::TryFutureExt;
use pintle::config::{Consistency, Expect, Put, PutOutcome, ReadOptions};
use pintle_test_bench::{Comparison, Measure, Report, Row, Target as Wanted};
use pintle_test_services::{ZooKeeper, ZooKeeperOptions};
use pintle_test_suites::{
    arguments, growth, is_chosen,
    measured::{Measured, WATCHED_BY_OURS, WATCHED_BY_PEER},
};
use tokio::sync::Mutex;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::peers::Peer;

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
    report.extend(stage.against::<Client>(&server).await?);
    report.extend(stage.against::<zookeeper_async::ZooKeeper>(&server).await?);
    drop(stage);
    report.extend(growth::rows("zookeeper", &server.endpoint(), ROOT).await?);
    pintle_test_suites::finish(&report)
}

/// Our side, and nodes that all sides read.
struct Stage {
    ours: Measured,
    /// A session that neither side uses: it changes what both watch.
    writer: Client,
    /// Numbers of keys that were never there.
    next_key: Cell<usize>,
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
        for name in [
            "put",
            "put/peer",
            "watched",
            WATCHED_BY_OURS,
            WATCHED_BY_PEER,
            "create",
            "create/ours",
            "create/peer",
        ] {
            writer.create(&path(name), b"", &options).await?;
        }
        let ours = Measured::start("zookeeper", &endpoint, ROOT).await?;
        // It is warm before anything is measured.
        ours.config.get(&key(0)).await?.context("the plugin reads what another client wrote")?;
        Ok(Self { ours, writer, next_key: Cell::new(0) })
    }

    /// All rows but those of growth.
    async fn against<P: Peer>(&self, server: &ZooKeeper) -> Result<Vec<Row>> {
        let id = |row: &str| format!("{row}-{}", P::ID);
        let mut rows = Vec::new();
        let native = P::connect(&server.endpoint()).await?;
        native.get(&path(&key(0))).await?;
        if ["P1", "P2", "P3"].into_iter().any(|row| is_chosen(&id(row))) {
            rows.extend(self.gets(&native).await?);
        }
        if is_chosen(&id("P1w")) {
            rows.extend(self.one_writer(&native, &id("P1w")).await?);
        }
        if is_chosen(&id("P1c")) {
            rows.extend(self.one_creator(&native, &id("P1c")).await?);
        }
        if is_chosen(&id("P4")) {
            rows.extend(self.change_to_event(&native, &id("P4")).await?);
        }
        Ok(rows)
    }

    /// P1 to P3, sequential on both sides: what the connected server knows.
    async fn gets<P: Peer>(&self, native: &P) -> Result<Vec<Row>> {
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
            let path = path(&key(native_number));
            async move { native.get(&path).await }
        };
        Measured::gets(P::ID, P::NAME, ours, peer).await
    }

    /// Not in the table of goals, but what everybody asks next: puts by one caller.
    async fn one_writer<P: Peer>(&self, native: &P, id: &str) -> Result<Vec<Row>> {
        let comparison = one_caller(id, &format!("config put, one caller; set of {}", P::NAME));
        let ours = || self.ours.config.put(Put::new("put/ours", "value")).map_ok(drop);
        let node = path("put/peer");
        let peer = || native.set(&node, "value");
        Ok(comparison.run(ours, peer).await?)
    }

    /// The same for keys that are new.
    async fn one_creator<P: Peer>(&self, native: &P, id: &str) -> Result<Vec<Row>> {
        let what = format!("config put of a new key, one caller; create of {}", P::NAME);
        let comparison = one_caller(id, &what);
        let new = || self.next_key.replace(self.next_key.get() + 1);
        let ours = || {
            let put = Put::new(format!("create/ours/{}", new()), "value").expect(Expect::Absent);
            async move {
                let outcome = self.ours.config.put(put).await?;
                ensure!(matches!(outcome, PutOutcome::Stored { .. }), "{outcome:?}");
                Ok(())
            }
        };
        let peer = || {
            let path = path(&format!("create/peer/{}", new()));
            async move { native.create(&path, "value").await }
        };
        Ok(comparison.run(ours, peer).await?)
    }

    /// P4: from the sending of a change, by a third session, to the event with its value.
    async fn change_to_event<P: Peer>(&self, native: &P, id: &str) -> Result<Vec<Row>> {
        let node = path(WATCHED_BY_PEER);
        let watch = Mutex::new(native.watch(&node).await?);
        let what = format!("change to event, one watcher; watch and read of {}", P::NAME);
        let comparison = Comparison::new(id, &what);
        let write = async |key: &str, value: &str| -> Result<()> {
            self.writer.set_data(&path(key), value.as_bytes(), None).await?;
            Ok(())
        };
        let native_sees = async |value: &str| -> Result<()> {
            native.sees(&mut *watch.lock().await, &node, value).await
        };
        self.ours.change_to_event(comparison, write, native_sees).await
    }
}

fn one_caller(id: &str, what: &str) -> Comparison {
    Comparison::new(id, what).target(Measure::P50, Wanted::AtMost(1.05)).operations(300)
}

fn key(number: usize) -> String {
    format!("get/{:04}", number % KEYS)
}

fn path(key: &str) -> String {
    format!("{ROOT}/{key}")
}
