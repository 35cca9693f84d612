//! What every plugin promises, measured on the plugins for traces.

use anyhow::Result;
use pintle_conformance::Options;
use pintle_test_suites::capabilities;

async fn keeps_all(plugin: &str) -> Result<()> {
    let report = capabilities::report(plugin, &Options::default(), |_| {}).await?;
    assert!(report.passed(), "{}", report.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkin_keeps_what_it_promises() -> Result<()> {
    keeps_all("zipkin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_keeps_what_it_promises() -> Result<()> {
    keeps_all("otlp").await
}

#[tokio::test(flavor = "multi_thread")]
async fn skywalking_keeps_what_it_promises() -> Result<()> {
    keeps_all("skywalking").await
}
