//! `cargo xtask example`: builds what an example needs and runs it.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::build::{self, TargetArguments};
use crate::cargo;
use crate::report::timed;
use crate::target::GuestToolchain;
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder in `examples/`
    name: String,
    #[command(flatten)]
    target: TargetArguments,
    /// Passed to the example
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let name = &arguments.name;
    if !workspace.root.join("examples").join(name).join("Cargo.toml").is_file() {
        bail!("there is no example `{name}`; `ls examples` shows them");
    }
    let toolchain = timed("wasm target", || {
        GuestToolchain::ensure(workspace, arguments.target.force_target_fallback)
    })?;
    timed("build the plugins", || build::plugins(workspace, &toolchain))?;
    let mut command = cargo::command();
    command.current_dir(&workspace.root).args(["run", "--package", name, "--"]);
    // Takes this process's place, so that Ctrl-C and the exit code are the example's own.
    Err(command.args(&arguments.rest).exec().into())
}
