//! `cargo xtask chaos etcd`: what the etcd plugin promises while connections, members and holders
//! fail. With `--smoke` the loads are small.

mod lives;
mod locks;
mod register;
mod replies;
mod stage;
mod watches;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::chaos::{Size, row};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size::from_arguments();
    let mut report = Report::default();
    report.push(row("R1-etcd", register::linearizable(size)).await);
    report.push(row("R2-etcd", watches::complete(size)).await);
    report.push(row("R4-etcd", locks::fenced(size)).await);
    report.push(row("R5-etcd", locks::told_in_time(size)).await);
    report.extend(replies::lost(size).await);
    report.push(row("R7-etcd", lives::restarts(size)).await);
    report.push(row("R8-etcd", watches::converges(size)).await);
    report.push(row("R13-etcd", lives::shutdown(size)).await);
    pintle_test_suites::finish(&report)
}

/// Whole milliseconds, for texts.
fn millis(duration: std::time::Duration) -> u128 {
    duration.as_millis()
}
