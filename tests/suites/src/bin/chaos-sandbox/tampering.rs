//! R14: files that somebody changed who should not have.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result};
use pintle::BackendState;
use pintle_test_bench::ChaosRow;
use pintle_test_suites::{
    Sandbox, built,
    hostile::{
        bytes::{hostile, variant},
        log,
    },
    within,
};

use pintle_test_suites::chaos::Size;

pub(crate) async fn refused(size: Size) -> Result<ChaosRow> {
    log::begin();
    let (mut done, mut run, mut unsaid) = (0, 0_u64, 0_u64);
    let file = fs::read(built("fixtures").join("memory.wasm"))?;
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let main = "[backends.main]\nplugin = \"memory\"\n";
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
    let target = "all refused, each with an audit line";
    Ok(ChaosRow::new("R14", "files that were tampered with", target, done, done)
        .violations(run + unsaid)
        .detail(format!("{run} ran, {unsaid} without an audit line")))
}
