//! R13, the other half: what a host that is killed leaves is gone by its TTL.
//!
//! The host that is killed is this program once more.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pintle_test_bench::ChaosRow;

use super::{
    Size,
    backend::{Backend, Control},
    lives::{self, BACKENDS},
    stage::Host,
};
use crate::{
    arguments::{PART, part},
    eventually,
};

/// The part of holding leases and registrations until it is killed: `hold SERVER COUNT`.
const HOLD: &str = "hold";
const READY: &str = "ready";
const TTL: Duration = Duration::from_secs(4);
/// What servers take to notice that a TTL is over.
const SLACK: Duration = Duration::from_secs(2);

/// Holds what [`by_ttl`] counts, if this is the program that it has started; it does not end then.
///
/// # Errors
///
/// Fails when something cannot be registered or taken.
#[allow(clippy::print_stdout, reason = "the one who waits for it reads that")]
pub async fn hold_if_told<B: Backend>() -> Result<Option<ExitCode>> {
    let [HOLD, server, count] = part()[..] else { return Ok(None) };
    let (server, count): (SocketAddr, usize) = (server.parse()?, count.parse()?);
    let host = Host::start::<B>(server, BACKENDS).await?;
    let registrations = lives::register(&host, count, TTL).await?;
    let leases = lives::acquire(&host, count, TTL).await?;
    println!("{READY}");
    std::future::pending::<()>().await;
    drop((registrations, leases));
    Ok(Some(ExitCode::SUCCESS))
}

/// R13: a host with many leases and registrations is killed.
///
/// # Errors
///
/// Fails when it does not come to its end.
pub async fn by_ttl<B: Backend>(size: Size) -> Result<ChaosRow> {
    let count = size.of(500, 100);
    let server = B::start().await?;
    let address = B::address(&server).to_string();
    let control = B::Control::connect(std::slice::from_ref(&address)).await?;
    let mut holder = Command::new(std::env::current_exe()?)
        .args([PART, HOLD, &address, &count.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(holder.stdout.take().context("its output")?);
    let ready = tokio::task::spawn_blocking(move || output.lines().next()).await?;
    let ready = ready.transpose()?.is_some_and(|line| line == READY);
    let before = control.leased().await?.len();
    holder.kill()?;
    let begun = Instant::now();
    holder.wait()?;
    ensure!(ready, "the host that was to be killed did not start");
    let gone =
        eventually("all to go", async || Ok(control.leased().await?.is_empty().then_some(())));
    let gone = gone.await;
    let took = begun.elapsed();
    let left = control.leased().await?.len();
    let late = u64::from(gone.is_err() || took > TTL + size.time(SLACK));
    let what = "leases and registrations of a host that is killed";
    let wanted = size.of(1_000, 200);
    Ok(ChaosRow::new(
        &format!("{}-killed", B::id("R13")),
        what,
        "all gone by their TTL",
        wanted,
        before as u64,
    )
    .violations(left as u64 + late)
    .detail(format!(
        "{left} left; TTL {} s, gone after {} ms",
        TTL.as_secs(),
        took.as_millis()
    )))
}
