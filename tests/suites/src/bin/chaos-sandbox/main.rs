//! `cargo xtask chaos sandbox`: what plugins do to a host that attack it, end in the middle of work,
//! are tampered with, and are replaced under load. With `--smoke` the loads are small.

mod attacks;
mod ends;
mod handover;
mod tampering;
mod victim;

use std::{future::Future, process::ExitCode, time::Duration};

use anyhow::Result;
use pintle_test_bench::{ChaosRow, Report};

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    is_smoke: bool,
}

impl Size {
    /// The load of the goals, or the small one.
    fn of(self, full: usize, smoke: usize) -> usize {
        if self.is_smoke { smoke } else { full }
    }

    /// The time of the goals, or ten times as much where a busy machine runs it among its tests.
    fn time(self, goal: Duration) -> Duration {
        if self.is_smoke { goal * 10 } else { goal }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size { is_smoke: std::env::args().any(|argument| argument == "--smoke") };
    let mut report = Report::default();
    report.push(row("R10", attacks::contained(size)).await);
    // A comparison of times, which says nothing on a machine that runs the tests.
    if !size.is_smoke {
        report.push(row("P11", victim::undisturbed(size)).await);
    }
    report.push(row("R11", ends::restarts(size)).await);
    report.push(row("R13-local", ends::shutdown(size)).await);
    report.push(row("R14", tampering::refused(size)).await);
    report.push(row("reload", handover::under_load(size)).await);
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

/// The duration below which 99 of 100 lie.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times
        .get((times.len() * 99 / 100).min(times.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
