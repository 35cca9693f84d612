//! Each plugin of this project keeps, on a real server, what `docs/capabilities.md` says.
//!
//! A suite of its own: the faults of the conformance suite are noticed by what comes in which order,
//! and have nothing heavy beside them.

use anyhow::{Context, Result, ensure};
use pintle_conformance::{CheckReport, Options, Report, Verdict};
use pintle_test_suites::capabilities;

/// A plugin of this project passes, and the checked-in table says what it is measured to keep.
async fn keeps_all_that_it_promises(plugin: &str) -> Result<()> {
    let report = capabilities::report(plugin, &Options::default(), |_| {}).await?;
    let skipped = |check: &CheckReport| check.verdict == Verdict::Skipped;
    ensure!(report.passed(), "{}", capabilities::shortcomings(&report, skipped));
    let known = capabilities::checked_in()?.into_iter().find(|known| known.plugin == plugin);
    let known = known.context("it is missing from docs/capabilities.json")?;
    let verdicts = |report: &Report| -> Vec<(String, Verdict)> {
        report.checks.iter().map(|check| (check.id.clone(), check.verdict)).collect()
    };
    ensure!(verdicts(&known) == verdicts(&report), "run `cargo xtask capabilities` again");
    Ok(())
}

#[test]
fn the_table_of_capabilities_is_made_from_its_data() -> Result<()> {
    let (page, _) = capabilities::files();
    let remade = capabilities::page(&capabilities::checked_in()?);
    ensure!(std::fs::read_to_string(page)? == remade, "run `cargo xtask capabilities` again");
    let readme = std::fs::read_to_string(capabilities::readme())?;
    let remade = capabilities::readme_with(&readme, &capabilities::checked_in()?)?;
    ensure!(readme == remade, "run `cargo xtask capabilities` again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn local_keeps_all_that_it_promises() -> Result<()> {
    keeps_all_that_it_promises("local").await
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_all_that_it_promises() -> Result<()> {
    keeps_all_that_it_promises("etcd").await
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_keeps_all_that_it_promises() -> Result<()> {
    keeps_all_that_it_promises("zookeeper").await
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_keeps_all_that_it_promises() -> Result<()> {
    keeps_all_that_it_promises("otlp").await
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkin_keeps_all_that_it_promises() -> Result<()> {
    keeps_all_that_it_promises("zipkin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn skywalking_keeps_all_that_it_promises() -> Result<()> {
    keeps_all_that_it_promises("skywalking").await
}
