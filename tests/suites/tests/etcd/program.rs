//! `pintle` as a process of its own: what is left when it is killed, and its commands over a
//! failover.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use pintle::lock::{AcquireOutcome, LockRequest};
use pintle_client::{
    Client,
    api::{lock::Acquire, registry::InstanceSpec},
    lock::AcquireOutcome as ClientAcquire,
    registry::{InstanceName, RegisterOutcome},
};
use pintle_test_services::{EtcdCluster, EtcdOptions};
use pintle_test_suites::{built, eventually, within};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    lock::waiting,
    stage::{NodeSettings, Stage},
};

/// A running `pintle`; it is killed when this is dropped.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(stage: &Stage, settings: &NodeSettings, arguments: &[&str]) -> Result<Self> {
        // Beside the folder of this test's program.
        let here = std::env::current_exe()?;
        let program = here.ancestors().nth(2).context("a folder")?.join("pintle");
        ensure!(program.exists(), "{} is not built", program.display());
        let file: PathBuf = stage.folder().join(format!("{}.toml", settings.name()));
        std::fs::write(&file, settings.text())?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PINTLE_SETTINGS", file)
            .env("PINTLE_DATA_DIR", stage.folder().join(settings.name()))
            .env("PINTLE_PLUGINS__DIR", built("plugins"))
            .env("PINTLE_PLUGINS__CACHE_DIR", built("test-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("standard output")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    async fn line(&mut self) -> Result<String> {
        within("a line", self.lines.next_line()).await??.context("it printed no more")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_host_kept_is_free_after_its_ttl() -> Result<()> {
    let stage = Stage::new().await?;
    let serve = ["serve", "--listen", "127.0.0.1:0", "-o", "json"];
    let mut server = Program::start(&stage, &stage.settings("killed"), &serve)?;
    let said: serde_json::Value = serde_json::from_str(&server.line().await?)?;
    let client = Client::http(said.get("url").and_then(|url| url.as_str()).context("a url")?)?;
    let name = InstanceName { service: "web".into(), id: "1".into() };
    let spec = InstanceSpec::new("127.0.0.1", 80);
    let registered = client.registry("main").register(name, spec, 2_000).await?;
    assert!(matches!(registered, RegisterOutcome::Registered(_)));
    let acquire = Acquire { ttl_ms: 2_000, ..Acquire::default() };
    let held = client.lock("main").acquire("job", acquire).await?;
    let ClientAcquire::Held(held) = held else { anyhow::bail!("busy") };

    let other = stage.node("other").await?;
    assert_eq!(other.instances("web").await?.len(), 1);
    let busy = other.lock.acquire(LockRequest::new("job")).await?;
    assert!(matches!(busy, AcquireOutcome::Busy(_)));
    server.child.kill().await?;
    let next = within("the lock", other.lock.acquire(waiting("job"))).await??;
    let AcquireOutcome::Held(next) = next else { anyhow::bail!("it waited in vain") };
    assert!(!held.is_held(), "two holders");
    let before = held.token().context("a token")?.value;
    assert!(next.token().context("a token")?.value > before);
    eventually("no instance", async || Ok(other.instances("web").await?.is_empty().then_some(())))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_under_a_lock_goes_on_while_the_leader_is_killed() -> Result<()> {
    let mut cluster = EtcdCluster::start(EtcdOptions::default()).await?;
    // Its own server is not used: it gives root and folder.
    let stage = Stage::new().await?;
    let settings = |name: &str| stage.settings(name).endpoints(cluster.endpoints());
    let script = "echo token $PINTLE_TOKEN; read line; echo went on";
    let run = ["lock", "run", "nightly", "--ttl", "10s", "--", "sh", "-c", script];
    let mut holder = Program::start(&stage, &settings("holder"), &run)?;
    let token: u64 = holder.line().await?.strip_prefix("token ").context("a token")?.parse()?;
    let other = stage.start(settings("other")).await?;
    cluster.leader().await?.kill()?;
    cluster.leader().await?;
    let outcome = eventually("an answer", async || {
        Ok(other.lock.acquire(LockRequest::new("nightly")).await.ok())
    });
    assert!(matches!(outcome.await?, AcquireOutcome::Busy(_)), "two holders");

    let mut input = holder.child.stdin.take().context("standard input")?;
    input.write_all(b"now\n").await?;
    assert_eq!(holder.line().await?, "went on");
    assert!(within("the end", holder.child.wait()).await??.success());
    let next = LockRequest::new("nightly").wait(Duration::from_secs(15));
    let next = other.hold(next).await?;
    assert!(next.token().context("a token")?.value > token);
    Ok(())
}
