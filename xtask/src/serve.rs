//! `cargo xtask serve`: from a fresh clone to a running host.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, Profile, TargetArguments};
use crate::process;
use crate::report::timed;
use crate::target::GuestToolchain;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Build the host with optimisations (plugins always are)
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    target: TargetArguments,
    /// Arguments for `pintle serve`
    #[arg(last = true)]
    rest: Vec<String>,
}

/// The setting that names the plugins' folder, as an environment variable.
const PLUGINS_DIR: &str = "PINTLE_PLUGINS__DIR";

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let toolchain = timed("wasm target", || {
        GuestToolchain::ensure(workspace, arguments.target.force_target_fallback)
    })?;
    let profile = Profile::of(arguments.release);
    let (binary, _) =
        timed("build the host and its plugins (the first time takes minutes)", || {
            build::host_and_plugins(workspace, profile, &toolchain)
        })?;

    let mut command = Command::new(&binary);
    command.arg("serve").args(&arguments.rest);
    if std::env::var_os(PLUGINS_DIR).is_none() {
        command.env(PLUGINS_DIR, build::plugins_folder(workspace));
    }
    eprintln!("==> {}", process::describe(&command));
    // Takes this process's place, so that signals and the exit code are the host's own.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}
