//! Measures every plugin of this project and writes `docs/capabilities.md`; see
//! `cargo xtask capabilities`. With names of plugins it measures these, and keeps what is written of
//! the others.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use pintle_conformance::{Options, Verdict};
use pintle_test_suites::capabilities;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for name in &wanted {
        let there = capabilities::PLUGINS;
        ensure!(there.contains(&name.as_str()), "no plugin `{name}`; there are {there:?}");
    }
    let known = if wanted.is_empty() { Vec::new() } else { capabilities::checked_in()? };
    let mut reports = Vec::new();
    for plugin in capabilities::PLUGINS {
        let kept = known.iter().find(|report| report.plugin == plugin);
        if let Some(kept) = kept.filter(|_| !wanted.iter().any(|name| name == plugin)) {
            reports.push(kept.clone());
            continue;
        }
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
    eprintln!("wrote docs/capabilities.md, docs/capabilities.json, and the overview in README.md");
    let broken = reports.iter().any(|report| !report.passed());
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
