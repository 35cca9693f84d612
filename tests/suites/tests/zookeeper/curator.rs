//! Apache Curator's own recipes on the same nodes: both exclude each other, and see who holds.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use pintle::lock::{AcquireOutcome, Lease, LockRequest, Mode};
use pintle_test_services::Artifact;
use pintle_test_suites::within;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::support::{Host, eventually, shared};

const TTL: Duration = Duration::from_secs(8);
/// So long that what is asked for has to come.
const LONG_MS: u32 = 15_000;

/// A program that takes one lock with one of Curator's recipes.
struct Contender {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Contender {
    async fn start(recipe: &str, path: &str) -> Result<Self> {
        let jars = Artifact::Curator57.fetch_in_background().await?.join("lib");
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zookeeper/programs");
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
            .arg("-cp")
            .arg(jars.join("*"))
            .arg(programs.join("Contender.java"))
            .args([shared().await?.endpoint().as_str(), recipe, path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = java.spawn()?;
        let commands = child.stdin.take().context("its input")?;
        let answers = BufReader::new(child.stdout.take().context("its output")?).lines();
        Ok(Self { commands, answers, _child: child })
    }

    async fn send(&mut self, command: &str) -> Result<()> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        Ok(self.commands.flush().await?)
    }

    async fn answer(&mut self) -> Result<String> {
        within("an answer of Curator", self.answers.next_line()).await??.context("Curator ended")
    }

    async fn ask(&mut self, command: &str) -> Result<String> {
        self.send(command).await?;
        self.answer().await
    }

    /// Takes what has to be free.
    async fn take(&mut self) -> Result<()> {
        let answer = self.ask(&format!("acquire {LONG_MS}")).await?;
        ensure!(answer == "held", "Curator: {answer}");
        Ok(())
    }

    /// Whether somebody else keeps it from holding.
    async fn is_kept_out(&mut self) -> Result<bool> {
        Ok(self.ask("acquire 300").await? == "busy")
    }
}

fn request(mode: Mode) -> LockRequest {
    LockRequest::new("job").mode(mode).ttl(TTL).owner("pintle")
}

/// Who holds, when we do not get it.
async fn holders(host: &Host, mode: Mode) -> Result<Vec<String>> {
    match host.pintle.lock("main")?.acquire(request(mode)).await? {
        AcquireOutcome::Busy(holders) => {
            Ok(holders.into_iter().map(|claim| claim.claim_id).collect())
        }
        AcquireOutcome::Held(_) => bail!("both hold it"),
    }
}

/// Our claims, as the lock's state tells them.
async fn claim_of(host: &Host, lease: &Lease) -> Result<String> {
    ensure!(lease.is_held());
    let state = host.pintle.lock("main")?.inspect("job").await?;
    let own = state.holders.into_iter().find(|claim| claim.owner == "pintle");
    Ok(own.context("we hold it")?.claim_id)
}

/// Waits for a lock that Curator holds, and gets it when Curator gives it back.
async fn get_after(host: &Host, mode: Mode, curator: &mut Contender) -> Result<Lease> {
    let waiter = tokio::spawn({
        let lock = host.pintle.lock("main")?;
        let wait = Duration::from_millis(LONG_MS.into());
        async move { lock.acquire(request(mode).wait(wait)).await }
    });
    let lock = host.pintle.lock("main")?;
    eventually("us to wait", async || Ok(lock.inspect("job").await?.waiters.len() == 1)).await?;
    assert_eq!(curator.ask("release").await?, "released");
    match within("the lock", waiter).await??? {
        AcquireOutcome::Held(lease) => Ok(lease),
        AcquireOutcome::Busy(holders) => bail!("held by {holders:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curators_mutex_and_an_exclusive_lock_exclude_each_other() -> Result<()> {
    let host = Host::at("/curator-mutex").await?;
    let path = "/curator-mutex/.pintle/v1/locks/job";
    let mut curator = Contender::start("mutex", path).await?;
    curator.take().await?;
    let held_by = curator.ask("participants").await?;
    let held_by = held_by.rsplit('/').next().unwrap_or_default();
    assert_eq!(holders(&host, Mode::Exclusive).await?, [held_by], "as Curator itself names it");

    let lease = get_after(&host, Mode::Exclusive, &mut curator).await?;
    assert!(curator.is_kept_out().await?, "both hold it");
    let seen = curator.ask("participants").await?;
    assert_eq!(seen, format!("{path}/{}", claim_of(&host, &lease).await?), "Curator sees ours");

    curator.send(&format!("acquire {LONG_MS}")).await?;
    let lock = host.pintle.lock("main")?;
    eventually("Curator to wait", async || Ok(lock.inspect("job").await?.waiters.len() == 1))
        .await?;
    assert!(lease.is_held());
    assert!(lease.release().await?);
    assert_eq!(curator.answer().await?, "held");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn curators_readers_and_writers_go_with_ours() -> Result<()> {
    let endpoint = shared().await?.endpoint();
    let settings = "root = \"/curator-rw\"\nexclusive_claims = \"read-write\"";
    let host = Host::start(&[endpoint], settings).await?;
    let path = "/curator-rw/.pintle/v1/locks/job";
    let (mut reader, mut writer) =
        (Contender::start("read", path).await?, Contender::start("write", path).await?);

    reader.take().await?;
    let shared = host.acquire(request(Mode::Shared)).await?;
    assert!(writer.is_kept_out().await?, "it writes while two read");
    assert_eq!(holders(&host, Mode::Exclusive).await?.len(), 2, "one of Curator's, one of ours");
    assert!(shared.release().await?);
    assert!(writer.is_kept_out().await?, "it writes while Curator reads");

    let exclusive = get_after(&host, Mode::Exclusive, &mut reader).await?;
    assert!(reader.is_kept_out().await?, "it reads while we write");
    assert!(writer.is_kept_out().await?, "two write");
    assert!(exclusive.release().await?);

    writer.take().await?;
    let held_by = holders(&host, Mode::Shared).await?;
    assert!(held_by.len() == 1 && held_by[0].contains("__WRIT__"), "{held_by:?}");
    get_after(&host, Mode::Shared, &mut writer).await?;
    Ok(())
}

/// The layouts differ, which the README says: neither takes the other's nodes for its own.
#[tokio::test(flavor = "multi_thread")]
async fn curators_semaphore_and_permits_do_not_see_each_other() -> Result<()> {
    let host = Host::at("/curator-permits").await?;
    let path = "/curator-permits/.pintle/v1/locks/job";
    let mut curator = Contender::start("semaphore", path).await?;
    curator.take().await?;
    let permit = host.acquire(request(Mode::Permit(1))).await?;
    let state = host.pintle.lock("main")?.inspect("job").await?;
    assert_eq!((state.holders.len(), state.waiters.len()), (1, 0));
    assert!(permit.release().await?);
    assert_eq!(curator.ask("release").await?, "released");
    Ok(())
}
