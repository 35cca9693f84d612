//! `cargo xtask chaos etcd`: what the etcd plugin promises while connections, members and holders
//! fail. With `--smoke` the loads are small.

mod lives;
mod locks;
mod register;
mod replies;
mod stage;
mod watches;

use std::{future::Future, process::ExitCode};

use anyhow::Result;
use pintle_test_bench::{ChaosRow, Report};

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    is_smoke: bool,
}

impl Size {
    /// The load of the goals, or the small one.
    fn of(self, full: u64, smoke: u64) -> u64 {
        if self.is_smoke { smoke } else { full }
    }

    fn count(self, full: usize, smoke: usize) -> usize {
        if self.is_smoke { smoke } else { full }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size { is_smoke: std::env::args().any(|argument| argument == "--smoke") };
    let mut report = Report::default();
    report.push(row("R1-etcd", register::linearizable(size)).await);
    report.push(row("R2-etcd", watches::complete(size)).await);
    report.push(row("R4-etcd", locks::fenced(size)).await);
    report.push(row("R5-etcd", locks::told_in_time(size)).await);
    report.extend(replies::lost(size).await);
    report.push(row("R7-etcd", lives::restarts(size)).await);
    report.push(row("R8-etcd", watches::converges(size)).await);
    report.push(row("R13-etcd", lives::shutdown(size)).await);
    report.print();
    if let Some(file) = pintle_test_suites::json_file() {
        report.write_json(&file)?;
    }
    Ok(report.exit_code())
}

/// A row, or one that says why there is none: the others are wanted all the same.
async fn row(id: &str, run: impl Future<Output = Result<ChaosRow>>) -> ChaosRow {
    eprintln!("    {id}");
    match run.await {
        Ok(row) => row,
        Err(error) => ChaosRow::new(id, "it did not come to its end", "", 1, 0)
            .violations(1)
            .detail(format!("{error:#}")),
    }
}

/// Whole milliseconds, for texts.
fn millis(duration: std::time::Duration) -> u128 {
    duration.as_millis()
}
