//! `cargo xtask capabilities`: measures the plugins and writes `docs/capabilities.md`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use crate::build::{self, TargetArguments};
use crate::cargo;
use crate::report::timed;
use crate::suites;
use crate::target::GuestToolchain;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these plugins; what is written of the others is kept
    plugins: Vec<String>,
    #[command(flatten)]
    target: TargetArguments,
}

/// The binary, and the suite whose servers it needs.
const PROGRAM: &str = "capabilities";

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let toolchain = timed("wasm target", || {
        GuestToolchain::ensure(workspace, arguments.target.force_target_fallback)
    })?;
    timed("plugins", || build::plugins(workspace, &toolchain))?;
    for suite in suites::all(workspace)?.iter().filter(|suite| suite.name == PROGRAM) {
        timed("servers", || suite.prepare())?;
    }
    // With `--workspace`, as everything is built: otherwise wasmtime would be compiled again.
    let mut build = cargo::command();
    build.current_dir(&workspace.root).args(["build", "--workspace", "--bin", PROGRAM]);
    if !timed("build", || Ok(build.status()?))?.success() {
        bail!("`{PROGRAM}` does not build");
    }
    let program = workspace.target.join("debug").join(PROGRAM);
    let status =
        Command::new(program).args(&arguments.plugins).current_dir(&workspace.root).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
