//! R14: files that somebody changed who should not have.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result};
use pintle::{BackendState, config::Put};
use pintle_fixture_hostile::VERSION_TEXT;
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{
    Sandbox, built, eventually,
    hostile::bytes::{hostile, variant},
    log, within,
};

use pintle_test_suites::chaos::Size;

pub(crate) async fn refused(size: Size) -> Result<ChaosRow> {
    log::begin();
    let (mut done, mut run, mut unsaid) = (0, 0_u64, 0_u64);
    let file = fs::read(built("fixtures").join("memory.wasm"))?;
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let main = MAIN;
    let sha256 = sandbox.start(main).await?.plugin("memory").await?.sha256;
    let pinned = format!("{main}sha256 = \"{sha256}\"\n");
    let path = sandbox.plugins_dir().join("memory.wasm");
    let mut try_out = async |text: &str| -> Result<()> {
        let lines =
            || log::lines_with(&["\"target\":\"audit\"", &path.display().to_string()]).len();
        let before = lines();
        let pintle = within("the start", sandbox.start(text)).await??;
        done += 1;
        run += u64::from(pintle.backend("main")?.state != BackendState::Refused);
        unsaid += u64::from(lines() == before);
        Ok(())
    };
    // A bit anywhere in the file.
    let flips = size.of(200, 8);
    for number in 0..flips {
        let mut flipped = file.clone();
        let at = file.len() * number / flips;
        *flipped.get_mut(at).context("outside of the file")? ^= 1 << (number % 8);
        fs::write(&path, flipped)?;
        try_out(&pinned).await?;
    }
    for other in [variant(&file, "other"), hostile()?, Vec::new()] {
        fs::write(&path, other)?;
        try_out(&pinned).await?;
    }
    // The right content in the wrong place, and where everybody may write.
    let outside = sandbox.path().join("outside.wasm");
    fs::write(&outside, &file)?;
    fs::remove_file(&path)?;
    std::os::unix::fs::symlink(&outside, &path)?;
    try_out(&pinned).await?;
    fs::remove_file(&path)?;
    fs::write(&path, &file)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    try_out(&pinned).await?;
    let zeros = format!("{main}sha256 = \"{}\"\n", "0".repeat(64));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    try_out(&zeros).await?;
    let mut tally = Tally { done, run, unsaid };
    tally.swap_while_it_runs().await?;
    tally.tamper_with_the_cache().await?;
    let Tally { done, run, unsaid } = tally;
    let target = "none ran, each with an audit line";
    let wanted = size.of(213, 21);
    Ok(ChaosRow::new("R14", "files that were tampered with", target, wanted, done)
        .violations(run + unsaid)
        .detail(format!("{run} ran, {unsaid} without an audit line")))
}

/// What was tried, what of it ran, and what was not written down.
struct Tally {
    done: u64,
    run: u64,
    unsaid: u64,
}

const MAIN: &str = "[backends.main]\nplugin = \"memory\"\n";

/// How many audit lines tell of this action on this file.
fn audited(action: &str, file: &str) -> usize {
    log::lines_with(&["\"target\":\"audit\"", "refused", action, file]).len()
}

impl Tally {
    /// Puts something else in the place of a plugin that runs: a file that wants more, and a link.
    async fn swap_while_it_runs(&mut self) -> Result<()> {
        let sandbox = Sandbox::new(&["fixtures/memory"])?;
        let path = sandbox.plugins_dir().join("memory.wasm");
        let file = fs::read(&path)?;
        let data_dir = sandbox.path().join("main").display().to_string();
        let pintle = sandbox.start(&format!("{MAIN}data_dir = {data_dir:?}\n")).await?;
        let sha256 = || anyhow::Ok(pintle.backend("main")?.plugin_info.context("none")?.sha256);
        let before = sha256()?;
        let (wider, outside) = (sandbox.path().join("wider"), sandbox.path().join("outside.wasm"));
        fs::write(&wider, hostile()?)?;
        fs::write(&outside, variant(&file, "outside"))?;
        let link = sandbox.path().join("link");
        std::os::unix::fs::symlink(&outside, &link)?;
        for (new, reason, action) in
            [(wider, "it imports also", "replace-plugin"), (link, "is a link to", "load-plugin")]
        {
            let name =
                if action == "load-plugin" { path.display().to_string() } else { "main".into() };
            let lines = audited(action, &name);
            fs::rename(new, &path)?;
            eventually("the host to notice", async || {
                Ok(pintle.backend("main")?.reason.contains(reason).then_some(()))
            })
            .await?;
            self.done += 1;
            self.run += u64::from(sha256()? != before);
            self.unsaid += u64::from(audited(action, &name) == lines);
        }
        Ok(())
    }

    /// Changes what was compiled. It is compiled again.
    async fn tamper_with_the_cache(&mut self) -> Result<()> {
        let sandbox = Sandbox::new(&["fixtures/memory", "fixtures/hostile"])?;
        let cache = sandbox.path().join("cache");
        let text = format!("[plugins]\ncache_dir = {:?}\n{MAIN}", cache.display().to_string());
        let pintle = sandbox.start(&text).await?;
        let sha256 = pintle.plugin("memory").await?.sha256;
        let other = pintle.plugin("hostile").await?.sha256;
        within("the shutdown", pintle.shutdown()).await?;
        let compiled = |sha256: &str| -> Result<PathBuf> {
            let mut files = fs::read_dir(&cache)?.filter_map(Result::ok).map(|file| file.path());
            files.find(|file| file.to_string_lossy().contains(sha256)).context("not compiled")
        };
        let (mine, foreign) = (compiled(&sha256)?, compiled(&other)?);
        let content = fs::read(&mine)?;
        let moved = sandbox.path().join("moved.cwasm");
        let tampers: [&dyn Fn() -> Result<()>; 5] = [
            &|| Ok(fs::copy(&foreign, &mine).map(drop)?),
            &|| {
                let mut flipped = content.clone();
                let middle = flipped.len() / 2;
                *flipped.get_mut(middle).context("empty")? ^= 1;
                Ok(fs::write(&mine, flipped)?)
            },
            &|| Ok(fs::write(&mine, content.get(..content.len() / 2).context("empty")?)?),
            &|| Ok(fs::set_permissions(&mine, fs::Permissions::from_mode(0o666))?),
            &|| {
                fs::rename(&mine, &moved)?;
                Ok(std::os::unix::fs::symlink(&moved, &mine)?)
            },
        ];
        for tamper in tampers {
            tamper()?;
            let name = mine.display().to_string();
            let lines = audited("load-compiled-plugin", &name);
            let pintle = sandbox.start(&text).await?;
            self.done += 1;
            let version = pintle.backend("main")?.plugin_info.context("no plugin")?.version;
            self.run += u64::from(version == VERSION_TEXT);
            self.unsaid += u64::from(audited("load-compiled-plugin", &name) == lines);
            let serves = within("a put", pintle.config("main")?.put(Put::new("k", "v"))).await?;
            self.run += u64::from(serves.is_err());
            within("the shutdown", pintle.shutdown()).await?;
        }
        Ok(())
    }
}
