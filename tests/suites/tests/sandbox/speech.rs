//! What a hostile plugin says.

use anyhow::{Context, Result, ensure};
use pintle_fixture_hostile::{Behaviour, PROVOKE};
use pintle_test_suites::{
    hostile::{Options, SECRET, Stage, log},
    within,
};

/// Lines of a flood that got through; of the 50,000 that were said.
const LINES_MAX: usize = 3_000;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_lines_is_dropped() -> Result<()> {
    let stage = Stage::with(Behaviour::LogFlood, Options::default()).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report == "50000 lines", "{report}");
    let lines = log::lines_with(&["a line that says nothing"]).len();
    ensure!((1..LINES_MAX).contains(&lines), "{lines} lines");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_empty_lines_is_dropped() -> Result<()> {
    let stage = Stage::with(Behaviour::EmptyLogFlood, Options::default()).await?;
    within("the report", stage.provoke()).await??;
    let lines = log::lines_with(&["\"message\":\"\"", "pintle::plugin"]).len();
    ensure!((1..LINES_MAX).contains(&lines), "{lines} lines");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn no_line_can_be_forged() -> Result<()> {
    let stage = Stage::with(Behaviour::LogForgery, Options::default()).await?;
    within("the report", stage.provoke()).await??;
    let lines = log::lines_with(&["forged line"]);
    let line = lines.first().context("the line was not logged")?;
    // Escaped by the host, and once more by the form of the log.
    ensure!(line.contains("quiet\\\\n2026") && line.contains("\\\\u{1b}"), "{line}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_output_goes_nowhere() -> Result<()> {
    let stage = Stage::with(Behaviour::OutputFlood, Options::default()).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report == "16 MiB", "{report}");
    ensure!(
        log::lines_with(&["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\n"])
            .is_empty()
    );
    stage.goes_on()?;
    stage.is_unharmed().await
}

/// The spellings of the secret that no text may hold.
fn spellings() -> [&'static str; 4] {
    // The percent-encoding of every byte is found by its beginning.
    [SECRET, "czNjcmV0L3dpdGg", "%73%33%63%72%65%74", "s3cret%2Fwith"]
}

fn hides_the_secret(text: &str) -> Result<()> {
    for spelling in spellings() {
        ensure!(!text.contains(spelling), "{spelling} in {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_secret_in_a_log_line_is_taken_out() -> Result<()> {
    let stage = Stage::with(Behaviour::SecretInLog, Options::default()).await?;
    within("the report", stage.provoke()).await??;
    let lines = log::lines_with(&["plain [secret]"]);
    ensure!(!lines.is_empty(), "the line was not logged");
    let fields = log::lines_with(&["a field password=[secret]"]);
    ensure!(!fields.is_empty(), "the field was not logged");
    for line in log::lines_with(&["pintle::plugin"]) {
        hides_the_secret(&line)?;
        // Where a long line is cut, half a secret is one too.
        ensure!(!line.contains("xs3cret"), "{line}");
    }
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_secret_in_an_error_is_taken_out() -> Result<()> {
    let stage = Stage::with(Behaviour::SecretInError, Options::default()).await?;
    let error = within("the error", stage.provoke()).await?.unwrap_err();
    ensure!(error.to_string().contains("plain [secret]"), "{error}");
    hides_the_secret(&format!("{error} {error:?}"))?;
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_secret_in_a_health_report_is_taken_out() -> Result<()> {
    let stage = Stage::with(Behaviour::SecretInHealth, Options::default()).await?;
    let check = within("the check", stage.pintle.check_backend("culprit")).await??;
    let health = check.health?;
    ensure!(health.message.contains("plain [secret]"), "{health:?}");
    hides_the_secret(&format!("{health:?}"))?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_secret_in_last_words_is_taken_out() -> Result<()> {
    let stage = Stage::with(Behaviour::SecretInPanic, Options::default()).await?;
    stage.is_ended_for("so ends [secret]").await?;
    for line in log::lines_with(&["so ends"]) {
        hides_the_secret(&line)?;
    }
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_error_is_cut_off() -> Result<()> {
    let stage = Stage::with(Behaviour::HugeError, Options::default()).await?;
    let error = within("the error", stage.provoke()).await?.unwrap_err();
    ensure!(error.code() == "invalid" && error.to_string().len() < 9 << 10);
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_facts_is_cut_off() -> Result<()> {
    let stage = Stage::with(Behaviour::HealthFlood, Options::default()).await?;
    let check = within("the check", stage.pintle.check_backend("culprit")).await??;
    let health = check.health?;
    ensure!((health.details.len(), health.counters.len()) == (64, 64), "{}", health.details.len());
    ensure!(stage.pintle.config("culprit")?.get(PROVOKE).await.is_ok());
    stage.is_unharmed().await
}
