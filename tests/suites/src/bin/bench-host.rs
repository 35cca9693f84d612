//! `cargo xtask bench host`: what the host itself costs, and the embedded backend against a bare
//! store on the same disk.

use std::{
    collections::HashMap,
    hint::black_box,
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use pintle::{
    BackendState, Config, Pintle,
    config::{Put, Target},
};
use pintle_test_bench::{Bounds, Comparison, Report, Row, Target as Wanted, resident_bytes};
use pintle_test_suites::{Sandbox, arguments, is_chosen};
use redb::{Database, TableDefinition};

const KEYS: usize = 10_000;
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bench");

#[tokio::main]
async fn main() -> Result<ExitCode> {
    arguments::bench();
    let mut report = Report::default();
    if is_chosen("P5-map") {
        report.push(cached_reads().await?);
    }
    if is_chosen("P8-one") {
        report.push(one_start().await?);
    }
    if is_chosen("P8-six") {
        report.push(six_starts().await?);
    }
    if is_chosen("P10-six") || is_chosen("P10-extra") {
        report.extend(memory().await?);
    }
    if is_chosen("local-one") {
        report.push(one_writer().await?);
    }
    if is_chosen("local-group") {
        report.push(many_writers().await?);
    }
    pintle_test_suites::finish(&report)
}

/// P5: a read from the mirror against a look-up in a hash map behind an `ArcSwap`.
async fn cached_reads() -> Result<Row> {
    const READS: usize = 1_000_000;
    let (_sandbox, pintle) = start(&["memory"]).await?;
    let config = pintle.config("memory")?;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("bench/{number:05}")).collect();
    for key in &keys {
        config.put(Put::new(key, "value")).await?;
    }
    let mirror = config.mirror(Target::Prefix("bench".into())).await?;
    let map: HashMap<Arc<str>, Arc<[u8]>> =
        keys.iter().map(|key| (key.as_str().into(), b"value".as_slice().into())).collect();
    let map = ArcSwap::from_pointee(map);
    let per_read = |read: &dyn Fn(&str) -> bool| {
        let begin = Instant::now();
        for number in 0..READS {
            let found = keys.get(number % KEYS).is_some_and(|key| read(key));
            assert!(black_box(found), "every key is there");
        }
        begin.elapsed().as_secs_f64() * 1e9 / to_f64(READS)
    };
    let ours = || {
        per_read(&|key| mirror.cached(key, Duration::MAX).is_some_and(|hit| hit.entry.is_some()))
    };
    let peer = || per_read(&|key| map.load().get(key).cloned().is_some());
    let comparison =
        Comparison::new("P5-map", "cached read of 10,000 keys; a hash map behind ArcSwap")
            .rounds(20);
    let row = comparison
        .run_values(
            "ns",
            Wanted::AtMost(2.0),
            async || anyhow::Ok(ours()),
            async || anyhow::Ok(peer()),
        )
        .await?;
    Ok(row)
}

/// P8: one more backend from the compiled cache against starting an empty process.
async fn one_start() -> Result<Row> {
    const MORE: usize = 20;
    let names: Vec<String> = (0..=MORE).map(|number| format!("m{number}")).collect();
    let sandbox = sandbox_of(&["memory"])?;
    let settings = |count: usize| -> String {
        let backend = |name: &String| format!("[backends.{name}]\nplugin = \"memory\"\n");
        names.iter().take(count).map(backend).collect()
    };
    let (one, many) = (settings(1), settings(MORE + 1));
    let ours = async || -> Result<f64> {
        let alone = timed_start(&sandbox, &one).await?;
        let together = timed_start(&sandbox, &many).await?;
        Ok((together - alone).max(0.0) / to_f64(MORE))
    };
    let comparison =
        Comparison::new("P8-one", "a backend more, compiled before; spawn of an empty process");
    let row =
        comparison.rounds(20).run_values("ms", Wanted::AtMost(2.0), ours, spawn_process).await?;
    Ok(row)
}

/// P8: a host with six plugins that are ready, against starting an empty process.
async fn six_starts() -> Result<Row> {
    let six = ["p1", "p2", "p3", "p4", "p5", "p6"];
    let sandbox = sandbox_of(&six)?;
    let settings: String = six.map(backend).concat();
    let ours = async || timed_start(&sandbox, &settings).await;
    let comparison =
        Comparison::new("P8-six", "a host with six plugins ready; spawn of an empty process");
    let row =
        comparison.rounds(20).run_values("ms", Wanted::AtMost(60.0), ours, spawn_process).await?;
    Ok(row)
}

/// P10: memory of an idle host with six plugins, and of each backend more.
async fn memory() -> Result<Vec<Row>> {
    const MORE: usize = 20;
    let six = ["p1", "p2", "p3", "p4", "p5", "p6"];
    let sandbox = sandbox_of(&six)?;
    let base: String = six.map(backend).concat();
    let more = |number| format!("[backends.extra{number}]\nplugin = \"p1\"\n");
    let extended = base.clone() + &(0..MORE).map(more).collect::<String>();
    // Processes of their own: what this one has measured so far must not count.
    let alone = resident_of_child(&sandbox, &base)?;
    let together = resident_of_child(&sandbox, &extended)?;
    let each = (together - alone).max(0.0) / to_f64(MORE);
    let exactly = |value| Bounds { estimate: value, low: value, high: value };
    let six = ("P10-six", "resident memory of an idle host with six plugins", "MiB");
    let extra = ("P10-extra", "resident memory of a backend more", "MiB");
    Ok(vec![
        Row::absolute(six, exactly(alone), None, Wanted::AtMost(60.0)),
        Row::absolute(extra, exactly(each), None, Wanted::AtMost(2.0)),
    ])
}

/// Durable puts by one writer: the embedded backend against a bare `redb` on the same disk.
async fn one_writer() -> Result<Row> {
    const PUTS: usize = 100;
    let local = Local::start().await?;
    let dir = tempfile::tempdir()?;
    let database = Database::create(dir.path().join("bare.redb"))?;
    let mut number = 0;
    let mut bare = || -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..PUTS {
            number += 1;
            let write = database.begin_write()?;
            write.open_table(TABLE)?.insert(format!("bench/{number}").as_str(), &b"value"[..])?;
            write.commit()?;
        }
        Ok(to_f64(PUTS) / begin.elapsed().as_secs_f64())
    };
    let comparison =
        Comparison::new("local-one", "durable puts by one writer; bare redb on the same disk");
    let ours = async || local.puts_per_second(1, PUTS).await;
    let peer = || std::future::ready(bare());
    let row = comparison.rounds(15).run_values("put/s", Wanted::AtLeast(0.7), ours, peer).await?;
    Ok(row)
}

/// Group commit: 64 writers against one, both on the embedded backend.
async fn many_writers() -> Result<Row> {
    let local = Local::start().await?;
    let comparison = Comparison::new("local-group", "durable puts by 64 writers; by one writer");
    let ours = async || local.puts_per_second(64, 16).await;
    let peer = async || local.puts_per_second(1, 64).await;
    let row = comparison.rounds(15).run_values("put/s", Wanted::AtLeast(5.0), ours, peer).await?;
    Ok(row)
}

/// A host with the embedded backend.
struct Local {
    config: Config,
    _pintle: Pintle,
    _sandbox: Sandbox,
}

impl Local {
    async fn start() -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/local"])?;
        let dir = sandbox.path().join("store");
        let settings = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {dir:?}\n");
        let pintle = sandbox.start(&settings).await?;
        let config = pintle.config("main")?.with_timeout(Duration::from_secs(30));
        Ok(Self { config, _pintle: pintle, _sandbox: sandbox })
    }

    async fn puts_per_second(&self, writers: usize, puts_each: usize) -> Result<f64> {
        let begin = Instant::now();
        let write = |writer: usize| {
            let config = self.config.clone();
            tokio::spawn(async move {
                for number in 0..puts_each {
                    config.put(Put::new(format!("bench/{writer}/{number}"), "value")).await?;
                }
                anyhow::Ok(())
            })
        };
        let writing: Vec<_> = (0..writers).map(write).collect();
        for written in writing {
            written.await??;
        }
        Ok(to_f64(writers * puts_each) / begin.elapsed().as_secs_f64())
    }
}

fn backend(name: &str) -> String {
    format!("[backends.{name}]\nplugin = \"{name}\"\n")
}

/// A folder with copies of the memory plugin under these names.
fn sandbox_of(names: &[&str]) -> Result<Sandbox> {
    let sandbox = Sandbox::new(&[])?;
    for name in names {
        sandbox.add_plugin("fixtures", "memory", name)?;
    }
    Ok(sandbox)
}

async fn start(names: &[&str]) -> Result<(Sandbox, Pintle)> {
    let sandbox = sandbox_of(names)?;
    let settings: String = names.iter().map(|name| backend(name)).collect();
    let pintle = sandbox.start(&settings).await?;
    Ok((sandbox, pintle))
}

/// Milliseconds until all backends serve.
async fn timed_start(sandbox: &Sandbox, settings: &str) -> Result<f64> {
    let settings = sandbox.settings(settings)?;
    let begin = Instant::now();
    let pintle = Pintle::builder().settings(settings).start().await?;
    let took = begin.elapsed();
    for status in pintle.backends() {
        ensure!(status.state == BackendState::Serving, "{}: {}", status.name, status.reason);
    }
    pintle.shutdown().await;
    Ok(took.as_secs_f64() * 1e3)
}

async fn spawn_process() -> Result<f64> {
    let begin = Instant::now();
    let status = Command::new("true").status().context("cannot start `true`")?;
    ensure!(status.success(), "`true` failed");
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// MiB that a `pintle serve` with these settings holds once it answers.
fn resident_of_child(sandbox: &Sandbox, settings: &str) -> Result<f64> {
    let file = sandbox.path().join("pintle.toml");
    std::fs::write(&file, settings)?;
    let pintle = std::env::current_exe()?.with_file_name("pintle");
    ensure!(
        pintle.exists(),
        "{} is not built; run `cargo build --release --bin pintle`",
        pintle.display()
    );
    let mut child = Command::new(pintle)
        .args(["--settings".as_ref(), file.as_os_str()])
        .arg("serve")
        .env("PINTLE_SERVER__LISTEN", "127.0.0.1:0")
        .env("PINTLE_PLUGINS__DIR", sandbox.plugins_dir())
        .env("PINTLE_DATA_DIR", sandbox.path().join("data"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let runtime_file = sandbox.path().join("data/run/server.json");
    let begin = Instant::now();
    let serves =
        || std::fs::read_to_string(&runtime_file).is_ok_and(|text| text.contains("serving"));
    while !serves() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // What was only needed to start has been given back after a moment.
    std::thread::sleep(Duration::from_secs(2));
    let resident = resident_bytes(Some(child.id()));
    child.kill()?;
    child.wait()?;
    std::fs::remove_file(runtime_file).context("the host did not start")?;
    #[allow(clippy::cast_precision_loss, reason = "bytes of memory fit")]
    Ok(resident? as f64 / f64::from(1 << 20))
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
