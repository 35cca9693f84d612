//! Files that somebody changed who should not have.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, ensure};
use pintle::{BackendState, Pintle, config::Put};
use pintle_test_suites::{
    Sandbox, built, eventually,
    hostile::bytes::{hostile, variant},
    log, within,
};

const MAIN: &str = "[backends.main]\nplugin = \"memory\"\n";

fn memory() -> Result<Vec<u8>> {
    Ok(fs::read(built("fixtures").join("memory.wasm"))?)
}

fn path(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.plugins_dir().join("memory.wasm")
}

/// Puts a file where it is found, at once.
pub(crate) fn put(sandbox: &Sandbox, name: &str, content: &[u8]) -> Result<()> {
    let unfinished = sandbox.path().join("unfinished");
    fs::write(&unfinished, content)?;
    fs::rename(unfinished, sandbox.plugins_dir().join(format!("{name}.wasm")))?;
    Ok(())
}

async fn is_refused(sandbox: &Sandbox, text: &str, reason: &str, action: &str) -> Result<()> {
    log::begin();
    let pintle = within("the start", sandbox.start(text)).await??;
    let status = pintle.backend("main")?;
    ensure!(status.state == BackendState::Refused, "{:?}: {}", status.state, status.reason);
    ensure!(status.reason.contains(reason), "{}", status.reason);
    is_audited(action, &path(sandbox))
}

fn is_audited(action: &str, file: &Path) -> Result<()> {
    let lines =
        log::lines_with(&["\"target\":\"audit\"", "refused", action, &file.display().to_string()]);
    ensure!(!lines.is_empty(), "there is no audit line for {action}");
    Ok(())
}

/// The digest of the plugin's file as this host sees it.
async fn sha256_of(pintle: &Pintle) -> Result<String> {
    Ok(within("the plugin", pintle.plugin("memory")).await??.sha256)
}

async fn serves(pintle: &Pintle) -> Result<()> {
    within("a put", pintle.config("main")?.put(Put::new("k", "v"))).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_pinned_file_is_refused() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let sha256 = sha256_of(&sandbox.start(MAIN).await?).await?;
    let pinned = format!("{MAIN}sha256 = \"{sha256}\"\n");
    serves(&sandbox.start(&pinned).await?).await?;
    let mut file = memory()?;
    let middle = file.len() / 2;
    *file.get_mut(middle).context("empty")? ^= 1;
    put(&sandbox, "memory", &file)?;
    is_refused(&sandbox, &pinned, "but the settings pin", "load-plugin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_digest_is_refused() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pinned = format!("{MAIN}sha256 = \"{}\"\n", "0".repeat(64));
    is_refused(&sandbox, &pinned, "but the settings pin", "load-plugin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_out_of_the_directory_is_refused() -> Result<()> {
    let sandbox = Sandbox::new(&[])?;
    let outside = sandbox.path().join("outside.wasm");
    fs::write(&outside, memory()?)?;
    std::os::unix::fs::symlink(&outside, path(&sandbox))?;
    is_refused(&sandbox, MAIN, "is a link to", "load-plugin").await?;
    // One that stays inside is how versions are kept side by side.
    fs::remove_file(path(&sandbox))?;
    fs::rename(&outside, sandbox.plugins_dir().join("memory-1.wasm"))?;
    std::os::unix::fs::symlink("memory-1.wasm", path(&sandbox))?;
    serves(&sandbox.start(MAIN).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_everybody_may_write_is_refused() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    fs::set_permissions(path(&sandbox), fs::Permissions::from_mode(0o666))?;
    is_refused(&sandbox, MAIN, "everybody may write it", "load-plugin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_put_in_place_of_a_running_plugin_does_not_take_over() -> Result<()> {
    log::begin();
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start(MAIN).await?;
    let before = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    let outside = sandbox.path().join("outside.wasm");
    fs::write(&outside, variant(&memory()?, "outside"))?;
    fs::remove_file(path(&sandbox))?;
    std::os::unix::fs::symlink(&outside, path(&sandbox))?;
    waits(&pintle, "is a link to").await?;
    let after = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    ensure!(before == after);
    serves(&pintle).await
}

/// Waits until the backend serves and says that something of this kind happened.
pub(crate) async fn waits(pintle: &Pintle, remark: &str) -> Result<()> {
    eventually(remark, async || {
        let status = pintle.backend("main")?;
        let said = status.state == BackendState::Serving && status.reason.contains(remark);
        Ok(said.then_some(()))
    })
    .await
}

/// Waits until the backend serves with the file of this digest.
pub(crate) async fn taken_over(pintle: &Pintle, sha256: &str) -> Result<()> {
    eventually("the new file", async || {
        let status = pintle.backend("main")?;
        let runs = status.plugin_info.is_some_and(|info| info.sha256 == sha256);
        Ok((runs && status.state == BackendState::Serving).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_asks_for_more_waits_until_it_is_accepted() -> Result<()> {
    log::begin();
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let data_dir = sandbox.path().join("main").display().to_string();
    let text = format!("{MAIN}data_dir = {data_dir:?}\n");
    let pintle = sandbox.start(&text).await?;
    let before = pintle.backend("main")?.plugin_info.context("no plugin")?.sha256;
    put(&sandbox, "memory", &hostile()?)?;
    waits(&pintle, "it imports also").await?;
    waits(&pintle, "pintle plugin accept memory").await?;
    let status = pintle.backend("main")?;
    ensure!(status.plugin_info.context("no plugin")?.sha256 == before);
    serves(&pintle).await?;
    // A plugin that ends is started again from the file that was let, not from what lies there.
    pintle.restart_backend("main")?;
    within("a put", pintle.config("main")?.put(Put::new("k", "v"))).await??;
    ensure!(pintle.backend("main")?.plugin_info.context("no plugin")?.sha256 == before);
    let diff = pintle.plugin_diff("memory").await?.context("no difference")?;
    ensure!(diff.needs_acceptance().is_some() && diff.version.new == "0.1.0-hostile");
    let wrong = pintle.accept_plugin("memory", Some(&"0".repeat(64))).await;
    ensure!(wrong.is_err(), "another file was accepted than the one that was meant");
    let accepted = pintle.accept_plugin("memory", Some(&diff.sha256.new)).await?;
    taken_over(&pintle, &accepted.sha256).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_moved_by_accepting_and_stays_moved() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let sha256 = sha256_of(&sandbox.start(MAIN).await?).await?;
    let text = format!("[plugins]\nreload = \"pinned\"\n{MAIN}sha256 = \"{sha256}\"\n");
    let pintle = sandbox.start(&text).await?;
    put(&sandbox, "memory", &variant(&memory()?, "next"))?;
    waits(&pintle, "but the settings pin").await?;
    let accepted = pintle.accept_plugin("memory", None).await?;
    taken_over(&pintle, &accepted.sha256).await?;
    within("the shutdown", pintle.shutdown()).await?;
    let again = sandbox.start(&text).await?;
    taken_over(&again, &accepted.sha256).await?;
    within("the shutdown", again.shutdown()).await?;
    // Nobody else may decide what was accepted.
    let file = sandbox.path().join("data/accepted.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    is_refused(&sandbox, &text, "but the settings pin", "load-plugin").await?;
    is_audited("read-accepted", &file)
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_of_another_plugin_is_not_run() -> Result<()> {
    log::begin();
    let sandbox = Sandbox::new(&["fixtures/memory", "fixtures/hostile"])?;
    let cache = sandbox.path().join("cache");
    let text = format!("[plugins]\ncache_dir = {:?}\n{MAIN}", cache.display().to_string());
    let pintle = sandbox.start(&text).await?;
    let (memory, hostile) = (sha256_of(&pintle).await?, pintle.plugin("hostile").await?.sha256);
    within("the shutdown", pintle.shutdown()).await?;
    let compiled = |sha256: &str| -> Result<std::path::PathBuf> {
        let files =
            fs::read_dir(&cache)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        let mine = |path: &std::path::PathBuf| path.to_string_lossy().contains(sha256);
        files.into_iter().find(mine).context("it was not compiled")
    };
    let (mine, foreign) = (compiled(&memory)?, compiled(&hostile)?);
    fs::copy(foreign, &mine)?;
    let pintle = sandbox.start(&text).await?;
    serves(&pintle).await?;
    ensure!(pintle.backend("main")?.plugin_info.context("no plugin")?.version != "0.1.0-hostile");
    is_audited("load-compiled-plugin", &mine)
}
