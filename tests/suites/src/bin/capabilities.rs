//! Measures every plugin of this project and writes `docs/capabilities.md`; see
//! `cargo xtask capabilities`.

use std::process::ExitCode;

use anyhow::Result;
use pintle_conformance::{Options, Verdict};
use pintle_test_suites::capabilities;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut reports = Vec::new();
    for plugin in capabilities::PLUGINS {
        let report = capabilities::report(plugin, &Options::default(), |progress| {
            if progress.check.verdict != Verdict::Pass {
                eprintln!("{plugin}: {}", progress.check.line());
            }
        })
        .await?;
        println!("{}\n", report.text());
        reports.push(report);
    }
    capabilities::write(&reports)?;
    let broken = reports.iter().any(|report| !report.passed());
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
