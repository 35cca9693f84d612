//! `cargo xtask bench mirror`: what the mirror saves, against a native client of the same etcd.

use std::{
    hint::black_box,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions, WatchOptions, WatchStream};
use futures::StreamExt;
use pintle::{
    Config,
    config::{Target, WatchEvent},
};
use pintle_test_bench::{Comparison, Report, Row, Target as Wanted};
use pintle_test_services::{Etcd, EtcdOptions};
use pintle_test_suites::{arguments, is_chosen, measured::Measured};
use tokio::sync::{Mutex, Notify};

const ROOT: &str = "/bench/";
const KEYS: usize = 1_000;
const SUBSCRIBERS: usize = 10_000;
/// Number of watches that a server keeps.
const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";
/// Longest wait for a change to reach everybody.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    arguments::bench();
    let server = Etcd::start(EtcdOptions::default()).await?;
    let stage = Stage::new(&server).await?;
    let mut report = Report::default();
    if is_chosen("P5-etcd") {
        report.push(stage.cached_read().await?);
    }
    if is_chosen("P6-etcd") {
        report.push(stage.fan_out(&server).await?);
    }
    pintle_test_suites::finish(&report)
}

/// Both sides on the same server, with the same keys.
struct Stage {
    ours: Measured,
    native: Client,
}

impl Stage {
    async fn new(server: &Etcd) -> Result<Self> {
        let endpoint = server.endpoint();
        let ours = Measured::start("etcd", &endpoint, ROOT).await?;
        let mut native = Client::connect([&endpoint], None).await?;
        for number in 0..KEYS {
            native.put(format!("{ROOT}{}", key(number)), "value", None).await?;
        }
        Ok(Self { ours, native })
    }

    /// P5: a read from the mirror against a native get. The native one is serializable, the cheapest
    /// that there is.
    async fn cached_read(&self) -> Result<Row> {
        const READS: usize = 200_000;
        const GETS: usize = 200;
        let mirror = self.ours.config.mirror(Target::Prefix("read".into())).await?;
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let ours = || {
            let begin = Instant::now();
            for key in keys.iter().cycle().take(READS) {
                let cached = mirror.cached(key, Duration::MAX);
                assert!(black_box(cached).is_some_and(|hit| hit.entry.is_some()), "{key}");
            }
            to_f64(READS) / begin.elapsed().as_secs_f64()
        };
        let peer = async || -> Result<f64> {
            let mut native = self.native.clone();
            let begin = Instant::now();
            for key in keys.iter().take(GETS) {
                let options = GetOptions::new().with_serializable();
                let found = native.get(format!("{ROOT}{key}"), Some(options)).await?;
                ensure!(found.kvs().len() == 1, "{key} is not there");
            }
            Ok(to_f64(GETS) / begin.elapsed().as_secs_f64())
        };
        let what = "cached read of 1,000 keys; serializable get by etcd-client";
        let comparison = Comparison::new("P5-etcd", what).rounds(20);
        let ours = async || anyhow::Ok(ours());
        Ok(comparison.run_values("read/s", Wanted::AtLeast(1_000.0), ours, peer).await?)
    }

    /// P6: from a put to its event at each of 10,000 subscribers, against as many watches of the
    /// native client, all on one stream, which costs it least.
    async fn fan_out(&self, server: &Etcd) -> Result<Row> {
        let before = server.metric(WATCHERS, &[]).await?;
        let audience = Audience::gather(&self.ours.config).await?;
        let upstream = server.metric(WATCHERS, &[]).await? - before;
        ensure!((upstream - 1.0).abs() < 0.5, "{upstream} upstream watches instead of one");
        let stream = Mutex::new(native_watches(self.native.clone()).await?);
        let put = async |key: &str| -> Result<Instant> {
            let begin = Instant::now();
            self.native.clone().put(format!("{ROOT}{key}"), "changed", None).await?;
            Ok(begin)
        };
        let ours = async || -> Result<f64> {
            audience.expect();
            let begin = put("ours").await?;
            audience.served().await?;
            Ok(to_f64(SUBSCRIBERS) / begin.elapsed().as_secs_f64())
        };
        let peer = async || -> Result<f64> {
            let mut stream = stream.lock().await;
            let begin = put("native").await?;
            let mut seen = 0;
            while seen < SUBSCRIBERS {
                let message = tokio::time::timeout(DELIVERY_LIMIT, stream.message()).await;
                let message = message.context("an event is missing")??;
                seen += message.context("the native watch ended")?.events().len();
            }
            Ok(to_f64(SUBSCRIBERS) / begin.elapsed().as_secs_f64())
        };
        let what = "one change to 10,000 subscribers; 10,000 watches of etcd-client";
        let comparison = Comparison::new("P6-etcd", what).rounds(20);
        Ok(comparison.run_values("event/s", Wanted::AtLeast(20.0), ours, peer).await?)
    }
}

/// Subscribers, each a task of its own, that count how many of them saw the newest change.
struct Audience {
    seen: Arc<AtomicUsize>,
    all: Arc<Notify>,
}

impl Audience {
    async fn gather(config: &Config) -> Result<Self> {
        let audience = Self { seen: Arc::default(), all: Arc::default() };
        for _ in 0..SUBSCRIBERS {
            let mut watch = config.watch(Target::Key("ours".into())).await?;
            while watch.next().await.context("the watch ended")?? != WatchEvent::SnapshotEnd {}
            let (seen, all) = (Arc::clone(&audience.seen), Arc::clone(&audience.all));
            tokio::spawn(async move {
                while let Some(Ok(WatchEvent::Put { .. })) = watch.next().await {
                    if seen.fetch_add(1, Ordering::Relaxed) + 1 == SUBSCRIBERS {
                        all.notify_one();
                    }
                }
            });
        }
        Ok(audience)
    }

    fn expect(&self) {
        self.seen.store(0, Ordering::Relaxed);
    }

    async fn served(&self) -> Result<()> {
        let waited = tokio::time::timeout(DELIVERY_LIMIT, self.all.notified()).await;
        waited.with_context(|| format!("{} were served", self.seen.load(Ordering::Relaxed)))
    }
}

async fn native_watches(mut client: Client) -> Result<WatchStream> {
    let watched = format!("{ROOT}native");
    let mut stream = client.watch(&*watched, Some(WatchOptions::new())).await?;
    for _ in 1..SUBSCRIBERS {
        stream.watch(&*watched, Some(WatchOptions::new())).await?;
        let answer = stream.message().await?.context("the native watch ended")?;
        ensure!(answer.created(), "a watch was not created");
    }
    Ok(stream)
}

fn key(number: usize) -> String {
    format!("read/{number:04}")
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
