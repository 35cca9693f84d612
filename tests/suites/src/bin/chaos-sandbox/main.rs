//! `cargo xtask chaos sandbox`: what plugins do to a host that attack it, end in the middle of work,
//! are tampered with, and are replaced under load. With `--smoke` the loads are small.

mod attacks;
mod ends;
mod handover;
mod spinning;
mod tampering;
mod victim;

use std::process::ExitCode;

use anyhow::Result;
use pintle_test_bench::Report;
use pintle_test_suites::chaos::{Size, row};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size::from_arguments();
    if ends::holder().await? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report::default();
    report.extend(row("R5-spinning", spinning::told_in_time(size)).await);
    report.extend(row("R10", attacks::contained(size)).await);
    // A comparison of times, which says nothing on a machine that runs the tests.
    if !size.is_smoke {
        report.extend(row("P11", victim::undisturbed(size)).await);
    }
    report.extend(row("R11", ends::restarts(size)).await);
    report.extend(row("R13-local", ends::shutdown(size)).await);
    report.extend(row("R13-local-kill", ends::kill(size)).await);
    report.extend(row("R14", tampering::refused(size)).await);
    report.extend(row("reload", handover::under_load(size)).await);
    pintle_test_suites::finish(&report)
}
