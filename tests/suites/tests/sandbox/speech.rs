//! What a hostile plugin says.

use anyhow::{Context, Result, ensure};
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::{
    hostile::{Options, SECRET, Stage},
    log, within,
};

/// Lines of a flood, and the most that get through.
const LINES: usize = 50_000;
const LINES_MAX: usize = 3_000;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_lines_is_dropped() -> Result<()> {
    let lines = lines_that_get_through("").await?;
    ensure!((1..LINES_MAX).contains(&lines), "{lines} lines");
    let limits = "limits = { call = \"1min\", more = { unyielded_max = \"1min\", \
                  log_bytes_per_second = \"16MiB\" } }";
    let lines = lines_that_get_through(limits).await?;
    ensure!(lines == LINES, "{lines} lines without a limit that matters");
    Ok(())
}

/// How many lines of a flood are logged.
async fn lines_that_get_through(limits: &str) -> Result<usize> {
    let options = Options { backend: limits.to_owned(), ..Options::default() };
    let stage = Stage::with(Behaviour::LogFlood, options).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report == format!("{LINES} lines"), "{report}");
    let lines = log::lines_with(&["a line of", &stage.trap().address]).len();
    stage.goes_on()?;
    stage.is_unharmed().await?;
    Ok(lines)
}

/// How much of a line of a megabyte is logged.
async fn bytes_that_get_through(limits: &str) -> Result<usize> {
    let options = Options { backend: limits.to_owned(), ..Options::default() };
    let stage = Stage::with(Behaviour::LongLine, options).await?;
    within("the report", stage.provoke()).await??;
    let lines = log::lines_with(&["a line of", &stage.trap().address]);
    stage.goes_on()?;
    stage.is_unharmed().await?;
    Ok(lines.first().context("the line was not logged")?.len())
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_long_line_is_cut_off() -> Result<()> {
    let bytes = bytes_that_get_through("").await?;
    ensure!((8 << 10..9 << 10).contains(&bytes), "{bytes} bytes");
    let bytes =
        bytes_that_get_through("limits = { more = { log_message_bytes = \"64KiB\" } }").await?;
    ensure!(bytes > 64 << 10, "{bytes} bytes with another limit");
    Ok(())
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
    let lines = log::lines_with(&["a line of", &stage.trap().address]).len();
    ensure!(lines == 0, "{lines} lines");
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
    let len = text_of_a_huge_error("").await?;
    ensure!(len < 9 << 10, "{len} bytes");
    let limits = "limits = { more = { error_text_bytes = \"1MiB\" } }";
    let len = text_of_a_huge_error(limits).await?;
    ensure!(len > 1 << 20, "{len} bytes with another limit");
    Ok(())
}

/// How long the text of an error of some megabytes is for who gets it.
async fn text_of_a_huge_error(limits: &str) -> Result<usize> {
    let options = Options { backend: limits.to_owned(), ..Options::default() };
    let stage = Stage::with(Behaviour::HugeError, options).await?;
    let error = within("the error", stage.provoke()).await?.err().context("it answered")?;
    ensure!(error.code() == "invalid", "{}", error.code());
    stage.goes_on()?;
    stage.is_unharmed().await?;
    Ok(error.to_string().len())
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_details_is_cut_off() -> Result<()> {
    let details = async |limits: &str| -> Result<usize> {
        let options = Options { backend: limits.to_owned(), ..Options::default() };
        let stage = Stage::with(Behaviour::DetailFlood, options).await?;
        let error = within("the error", stage.provoke()).await?.unwrap_err();
        stage.goes_on()?;
        stage.is_unharmed().await?;
        let pintle::error::Cause::Plugin(error) = error.cause() else { anyhow::bail!("{error}") };
        Ok(error.details.len())
    };
    ensure!(details("").await? == 64);
    ensure!(details("limits = { more = { facts_max = 1024 } }").await? == 1024);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_facts_is_cut_off() -> Result<()> {
    for (limits, facts) in [("", 64), ("limits = { more = { facts_max = 1024 } }", 1024)] {
        let options = Options { backend: limits.to_owned(), ..Options::default() };
        let stage = Stage::with(Behaviour::HealthFlood, options).await?;
        let check = within("the check", stage.pintle.check_backend("culprit")).await??;
        let health = check.health?;
        let found = (health.details.len(), health.counters.len());
        ensure!(found == (facts, facts), "{found:?}");
        stage.is_unharmed().await?;
    }
    Ok(())
}
