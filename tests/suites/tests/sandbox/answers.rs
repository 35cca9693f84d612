//! Answers that no host asked for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use pintle::{
    BackendState,
    config::{ListRequest, Target, WatchEvent},
    lock::{AcquireOutcome, LeaseStatus, LockRequest},
};
use pintle_fixture_hostile::{ALIVE, Behaviour, PROVOKE, WAIT};
use pintle_test_suites::{
    eventually,
    hostile::{Options, Stage, impatient},
    within,
};

use crate::contains;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_oversized_record_ends_its_plugin() -> Result<()> {
    contains(Behaviour::OversizedRecord).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_oversized_page_ends_its_plugin() -> Result<()> {
    let stage = Stage::with(Behaviour::OversizedPage, Options::default()).await?;
    let config = stage.pintle.config("culprit")?;
    let error = within("the end", config.list(ListRequest::default())).await?.unwrap_err();
    ensure!(error.to_string().contains("hostcall_bytes"), "{error}");
    stage.serves_again(1).await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn more_events_than_were_asked_for_end_the_plugin() -> Result<()> {
    contains(Behaviour::EventFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_storm_of_answers_is_slowed_down() -> Result<()> {
    /// So many at once after a rest, so many in each second, and one on the way.
    fn polls_max(begun: Instant) -> f64 {
        50.0 * (1.0 + begun.elapsed().as_secs_f64()) + 1.0
    }
    let polled = async |stage: &Stage| -> Result<f64> {
        Ok(within("the count of polls", stage.provoke()).await??.parse()?)
    };
    let with = |per_second: u32| {
        let limits = format!("limits = {{ more = {{ polls_per_second = {per_second} }} }}");
        Stage::with(Behaviour::PollStorm, Options { backend: limits, ..Options::default() })
    };
    let begun = Instant::now();
    let stage = with(50).await?;
    // The plugin answers calls beside it, and so does everybody else.
    let config = stage.pintle.config("culprit")?;
    for _ in 0..100 {
        ensure!(within("an answer", config.get(ALIVE)).await??.is_some());
    }
    let polls = polled(&stage).await?;
    ensure!(polls <= polls_max(begun), "{polls} polls");
    stage.goes_on()?;
    stage.is_unharmed().await?;
    // Without a limit that matters they soon are more.
    let begun = Instant::now();
    let stage = with(100_000).await?;
    eventually("a storm", async || Ok((polled(&stage).await? > polls_max(begun)).then_some(())))
        .await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn events_of_unknown_things_are_ignored() -> Result<()> {
    let stage = Stage::with(Behaviour::UnknownIds, Options::default()).await?;
    let config = stage.pintle.config("culprit")?;
    for _ in 0..100 {
        ensure!(within("an answer", config.get(ALIVE)).await??.is_some());
    }
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_snapshot_that_never_begins_shows_nothing() -> Result<()> {
    let stage = Stage::with(Behaviour::SnapshotNeverBegun, Options::default()).await?;
    let config = stage.pintle.config("culprit")?;
    let mut watch = within("the watch", config.watch(Target::Prefix("w".into()))).await??;
    // Not even after the plugin has begun anew: without a snapshot there is no state to show.
    let shown = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    ensure!(shown.is_err(), "{shown:?}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_snapshot_without_end_ends_the_watch() -> Result<()> {
    let limits = "limits = { more = { watch_bytes = \"8MiB\" } }";
    let options = Options { backend: limits.to_owned(), ..Options::default() };
    let stage = Stage::with(Behaviour::SnapshotNeverEnded, options).await?;
    let config = stage.pintle.config("culprit")?;
    let mut watch = within("the watch", config.watch(Target::Prefix("w".into()))).await??;
    let end = within("the end of the watch", watch.next()).await?;
    let error = end.and_then(Result::err).map(|error| (error.code().to_owned(), error.to_string()));
    let (code, text) = error.unwrap_or_default();
    ensure!(code == "exhausted" && text.contains("watch_bytes"), "{code}: {text}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_version_ends_its_plugin() -> Result<()> {
    let stage = Stage::with(Behaviour::HugeVersion, Options::default()).await?;
    let config = stage.pintle.config("culprit")?;
    let _watch = within("the watch", config.watch(Target::Prefix("w".into()))).await??;
    // It does so whenever it is asked for the watch.
    stage
        .settles(BackendState::Quarantined, "config.poll answered a version of 5000 bytes")
        .await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn versions_that_go_back_hurt_nobody() -> Result<()> {
    let stage = Stage::with(Behaviour::VersionsGoBack, Options::default()).await?;
    let config = stage.pintle.config("culprit")?;
    let mut watch = within("the watch", config.watch(Target::Prefix("w".into()))).await??;
    let mut versions = Vec::new();
    while versions.len() < 8 {
        let event = within("an event", watch.next()).await?.context("the watch ended")??;
        let WatchEvent::Put { entry, .. } = event else { continue };
        versions.push(entry.version.as_str().to_owned());
        if versions.len() == 1 {
            // Whoever begins to watch later sees the last one only.
            within("the report", stage.provoke()).await??;
        }
    }
    // Versions are opaque: what the plugin says is what is shown, in its order.
    ensure!(versions == ["9", "8", "7", "6", "5", "4", "3", "2"], "{versions:?}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_renewal_from_the_future_buys_no_time() -> Result<()> {
    let stage = Stage::with(Behaviour::RenewalFromFuture, Options::default()).await?;
    let request = LockRequest::new("job").ttl(Duration::from_secs(2));
    let acquired = within("the lease", stage.pintle.lock("culprit")?.acquire(request)).await??;
    let AcquireOutcome::Held(lease) = acquired else { anyhow::bail!("not held") };
    ensure!(lease.remaining() <= Duration::from_secs(2), "{:?}", lease.remaining());
    // It is renewed for ages, some times over, and then no more.
    let reason = within("the loss", lease.lost()).await?;
    ensure!(matches!(lease.status(), LeaseStatus::Lost(_)), "{reason}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn calls_that_wait_are_told_of_a_trap() -> Result<()> {
    let stage = Stage::with(Behaviour::TrapWhileOthersWait, Options::default()).await?;
    let config = stage.pintle.config("culprit")?;
    let waiting = (0..20).map(|_| config.get(WAIT));
    let waiting = futures::future::join_all(waiting);
    let (ended, provoked) =
        within("the end", futures::future::join(waiting, stage.provoke())).await?;
    for result in ended {
        let error = result.unwrap_err();
        ensure!(error.code() == "plugin-ended", "{error}");
        ensure!(error.to_string().contains("backend culprit (hostile 0.1.0-hostile): config.get"));
    }
    ensure!(provoked.is_err());
    stage.serves_again(1).await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_call_that_was_given_up_does_not_go_on() -> Result<()> {
    let stage = Stage::with(Behaviour::IgnoreCancel, impatient()).await?;
    let config = stage.pintle.config("culprit")?.with_timeout(Duration::from_secs(60));
    let given_up = tokio::time::timeout(Duration::from_millis(50), config.get(PROVOKE)).await;
    ensure!(given_up.is_err());
    // Long before its own time is over.
    eventually("the end", async || {
        Ok((stage.pintle.backend("culprit")?.restarts == 1).then_some(()))
    })
    .await?;
    stage.serves_again(1).await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_large_checkpoint_ends_its_plugin() -> Result<()> {
    contains(Behaviour::LargeCheckpoint).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_checkpoint_ends_its_plugin() -> Result<()> {
    contains(Behaviour::HugeCheckpoint).await
}
