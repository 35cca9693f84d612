//! `cargo xtask example`: builds what an example needs, if anything, and runs it.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{self, Profile, TargetArguments};
use crate::cargo;
use crate::process;
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
    let folder = workspace.root.join("examples").join(name);
    let script = folder.join("example.py");
    if script.is_file() {
        eprintln!("==> {name} speaks to a server: `cargo xtask serve` in another shell starts one");
        return replace_by(Command::new("python3").arg(script).args(&arguments.rest));
    }
    if !folder.join("Cargo.toml").is_file() {
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
    let program = workspace.target.join(Profile::Development.folder()).join(name);
    replace_by(Command::new(program).args(&arguments.rest))
}

/// Lets a program take this process's place, so that Ctrl-C and the exit code are its own.
fn replace_by(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::describe(command)))
}
