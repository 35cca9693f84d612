//! `cargo xtask bench etcd`: the etcd plugin against the native Rust client, on one server.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, Txn as NativeTxn, TxnOp as NativeOp, WatchOptions,
    WatchStream,
};
use pintle::config::{Expect, Put, Txn, TxnOp, TxnOutcome};
use pintle_test_bench::{Comparison, Measure, Report, Row, Target as Wanted};
use pintle_test_services::{Etcd, EtcdOptions};
use pintle_test_suites::{
    arguments, growth, is_chosen,
    measured::{EVENT_LIMIT, Measured, WATCHED_BY_PEER},
};
use tokio::sync::Mutex;

const ROOT: &str = "/bench/";
const KEYS: usize = 1_000;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    arguments::bench();
    let server = Etcd::start(EtcdOptions::default()).await?;
    let stage = Stage::new(&server).await?;
    let mut report = Report::default();
    if ["P1-etcd", "P2-etcd", "P3-etcd"].into_iter().any(is_chosen) {
        report.extend(stage.gets().await?);
    }
    if is_chosen("P1w-etcd") {
        report.extend(stage.one_writer().await?);
    }
    if is_chosen("P1t-etcd") {
        report.extend(stage.one_transaction().await?);
    }
    if is_chosen("P4-etcd") {
        report.extend(stage.change_to_event().await?);
    }
    drop(stage);
    report.extend(growth::rows("etcd", &server.endpoint(), ROOT).await?);
    pintle_test_suites::finish(&report)
}

/// Both sides, connected to the same server, with the same keys.
struct Stage {
    ours: Measured,
    native: Client,
    /// A connection that neither side uses: it changes what both watch.
    writer: Client,
}

impl Stage {
    async fn new(server: &Etcd) -> Result<Self> {
        let endpoint = server.endpoint();
        let ours = Measured::start("etcd", &endpoint, ROOT).await?;
        let connect = async || Client::connect([&endpoint], None).await;
        let (native, mut writer) = (connect().await?, connect().await?);
        for number in 0..KEYS {
            writer.put(path(&key(number)), value(number), None).await?;
        }
        // Both connections are warm before anything is measured.
        ours.config.get(&key(0)).await?.context("the plugin reads what the native client wrote")?;
        Ok(Self { ours, native, writer })
    }

    /// P1 to P3, linearizable on both sides.
    async fn gets(&self) -> Result<Vec<Row>> {
        let mut number = 0;
        let ours = || {
            number += 1;
            let (config, key) = (self.ours.config.clone(), key(number));
            async move {
                let entry = config.get(&key).await?;
                entry.map(drop).with_context(|| format!("{key} is there"))
            }
        };
        let mut native_number = 0;
        let peer = || {
            native_number += 1;
            let (client, key) = (self.native.kv_client(), path(&key(native_number)));
            async move {
                let mut client = client;
                let response = client.get(key, Some(GetOptions::new())).await?;
                let kv = response.kvs().first().context("the key is there")?;
                // What a caller keeps: bytes of its own, as ours answers.
                drop(kv.value().to_vec());
                anyhow::Ok(())
            }
        };
        Measured::gets("etcd", "etcd-client", ours, peer).await
    }

    /// Not in the table of goals, but what everybody asks next: puts by one caller.
    async fn one_writer(&self) -> Result<Vec<Row>> {
        let comparison = Comparison::new("P1w-etcd", "config put, one caller; etcd-client")
            .target(Measure::P50, Wanted::AtMost(1.05))
            .operations(300);
        let ours = || {
            let config = self.ours.config.clone();
            async move { config.put(Put::new("put/ours", "value")).await.map(drop) }
        };
        let peer = || {
            let mut client = self.native.kv_client();
            async move { client.put(path("put/peer"), "value", None).await.map(drop) }
        };
        Ok(comparison.run(ours, peer).await?)
    }

    /// The same for transactions: a condition on one key, and puts of two.
    async fn one_transaction(&self) -> Result<Vec<Row>> {
        let what = "config txn of a condition and two puts, one caller; etcd-client";
        let comparison = Comparison::new("P1t-etcd", what)
            .target(Measure::P50, Wanted::AtMost(1.05))
            .operations(300);
        let put =
            |key: &str| TxnOp::Put { key: key.into(), value: "value".into(), content_type: None };
        let ours = || {
            let config = self.ours.config.clone();
            let conditions = vec![(key(0), Expect::Exists)];
            let ops = vec![put("txn/ours/1"), put("txn/ours/2")];
            async move {
                let outcome = config.txn(Txn { conditions, ops, held: Vec::new() }).await?;
                ensure!(matches!(outcome, TxnOutcome::Committed(_)), "{outcome:?}");
                Ok(())
            }
        };
        let peer = || {
            let mut client = self.native.kv_client();
            let is_there = Compare::create_revision(path(&key(0)), CompareOp::Greater, 0);
            let put = |key: &str| NativeOp::put(path(key), "value", None);
            let txn =
                NativeTxn::new().when([is_there]).and_then([put("txn/peer/1"), put("txn/peer/2")]);
            async move {
                ensure!(client.txn(txn).await?.succeeded(), "the condition does not hold");
                Ok(())
            }
        };
        Ok(comparison.run(ours, peer).await?)
    }

    /// P4: from the sending of a put, by a third client, to the event with its value.
    async fn change_to_event(&self) -> Result<Vec<Row>> {
        let watched = path(WATCHED_BY_PEER);
        let stream = self.native.clone().watch(watched, Some(WatchOptions::new())).await?;
        let stream = Mutex::new(stream);
        let comparison = Comparison::new("P4-etcd", "put to event, one watcher; native watch");
        let write = async |key: &str, value: &str| -> Result<()> {
            self.writer.clone().put(path(key), value, None).await?;
            Ok(())
        };
        let native_sees = async |value: &str| native_sees(&mut *stream.lock().await, value).await;
        self.ours.change_to_event(comparison, write, native_sees).await
    }
}

async fn native_sees(stream: &mut WatchStream, value: &str) -> Result<()> {
    loop {
        let next = tokio::time::timeout(EVENT_LIMIT, stream.message()).await;
        let response = next.context("no event came")??.context("the native watch ended")?;
        if response
            .events()
            .iter()
            .any(|event| event.kv().is_some_and(|kv| kv.value() == value.as_bytes()))
        {
            return Ok(());
        }
    }
}

fn path(key: &str) -> String {
    format!("{ROOT}{key}")
}

fn key(number: usize) -> String {
    format!("get/{:04}", number % KEYS)
}

/// A hundred bytes, as a setting has.
fn value(number: usize) -> String {
    format!("{number:0100}")
}
