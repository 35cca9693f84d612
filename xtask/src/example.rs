//! `cargo xtask example`: builds what an example needs and runs it.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

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
    // With `--workspace`, as everything is built: by itself it would have features of its own, and
    // wasmtime would be compiled again.
    let mut build = cargo::command();
    build.current_dir(&workspace.root).args(["build", "--workspace", "--bin", name]);
    let built = timed("build the example", || Ok(build.status()?))?;
    if !built.success() {
        bail!("the example `{name}` does not build");
    }
    // Takes this process's place, so that Ctrl-C and the exit code are the example's own.
    let program = workspace.root.join("target/debug").join(name);
    Err(Command::new(program).args(&arguments.rest).exec().into())
}
