//! Wanting more of everything.

use std::{os::unix::fs::MetadataExt, time::Duration};

use anyhow::{Context, Result, ensure};
use pintle::BackendState;
use pintle_fixture_hostile::{Behaviour, PIPE};
use pintle_test_suites::{
    eventually,
    hostile::{Options, Stage, impatient},
    log, within,
};

use crate::contains;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_memory_bomb_is_ended_and_names_its_limit() -> Result<()> {
    contains(Behaviour::MemoryBomb).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_stack_bomb_is_ended() -> Result<()> {
    contains(Behaviour::StackBomb).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_handles_is_ended() -> Result<()> {
    contains(Behaviour::HandleFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_streams_is_ended() -> Result<()> {
    contains(Behaviour::StreamFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_tasks_is_ended() -> Result<()> {
    contains(Behaviour::TaskFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_run_that_takes_too_long_is_ended() -> Result<()> {
    contains(Behaviour::LongRun).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_sleep_that_keeps_the_store_is_ended() -> Result<()> {
    contains(Behaviour::OldSleep).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn random_bytes_are_cut_off() -> Result<()> {
    contains(Behaviour::RandomFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_call_that_only_yields_is_ended() -> Result<()> {
    contains(Behaviour::YieldForever).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_loop_in_the_background_is_ended() -> Result<()> {
    contains(Behaviour::LoopInBackground).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn yielding_without_end_takes_no_more_than_its_share() -> Result<()> {
    let limits = "limits = { cpu = \"50ms/s\", call = \"10s\" }";
    let options = Options { backend: limits.to_owned(), ..Options::default() };
    let stage = Stage::with(Behaviour::YieldInBackground, options).await?;
    let told = || log::lines_with(&["plugin is held back", "50ms/s"]);
    within("the host to hold it back", async {
        while told().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await?;
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_directory_that_is_too_full_ends_its_plugin() -> Result<()> {
    let stage = full_stage(Behaviour::DataFlood).await?;
    let dir = stage.sandbox.path().join("data-of-culprit");
    std::fs::remove_dir_all(&dir)?;
    std::fs::create_dir(&dir)?;
    stage.pintle.restart_backend("culprit")?;
    stage.serves_again(0).await?;
    stage.is_unharmed().await
}

/// Lets a culprit fill its directory, and expects that it holds no more than it may. It is too full to
/// start on then.
async fn full_stage(behaviour: Behaviour) -> Result<Stage> {
    let limits = "limits = { call = \"20s\", more = { data_bytes = \"4MiB\" } }";
    let options = Options { backend: limits.to_owned(), ..Options::default() };
    let stage = Stage::with(behaviour, options).await?;
    let error = within("the end", stage.provoke()).await?.err().context("it was not ended")?;
    ensure!(error.to_string().contains("data_bytes = \"4MiB\""), "{error}");
    stage.settles(BackendState::Refused, "make room").await?;
    let mut held = 0;
    for entry in std::fs::read_dir(stage.sandbox.path().join("data-of-culprit"))? {
        held += (entry?.metadata()?.blocks() * 512).max(4096);
    }
    // One write, or one name, is what it takes to be too full.
    ensure!((4 << 20..=(4 << 20) + (64 << 10)).contains(&held), "it holds {held} bytes");
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_stream_into_a_file_ends_where_the_directory_is_full() -> Result<()> {
    full_stage(Behaviour::DataStream).await?.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn folders_without_end_end_where_the_directory_is_full() -> Result<()> {
    full_stage(Behaviour::FolderFlood).await?.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn too_many_files_of_wasi_03_end_their_plugin() -> Result<()> {
    contains(Behaviour::NewFileFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn too_many_open_files_end_their_plugin() -> Result<()> {
    contains(Behaviour::FileFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_plugin_is_not_started_beside_one_that_still_has_its_files() -> Result<()> {
    let stage = Stage::with(Behaviour::BlockOnFile, impatient()).await?;
    let pipe = stage.sandbox.path().join("data-of-culprit").join(PIPE);
    let made = tokio::process::Command::new("mkfifo").arg(&pipe).status().await?;
    ensure!(made.success(), "there is no pipe");
    let error = within("the end", stage.provoke()).await?.err().context("it was not ended")?;
    ensure!(error.to_string().contains("did not return within"), "{error}");
    // It has ended for everybody, and waits for the pipe nevertheless.
    eventually("the host to tell of it", async || {
        let status = stage.pintle.backend("culprit")?;
        let told = status.reason.contains("does not let go of its files");
        Ok((told && status.state == BackendState::Restarting).then_some(()))
    })
    .await?;
    // What it waits for: both ends are open, and the end is reached.
    tokio::task::spawn_blocking(move || std::fs::write(pipe, "")).await??;
    stage.serves_again(1).await?;
    stage.is_unharmed().await
}
