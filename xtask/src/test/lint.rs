//! Checks that need no test: formatting, lints, dependencies.

use std::process::Command;

use anyhow::Result;

use crate::report::Finding;
use crate::target::{self, GuestToolchain};
use crate::workspace::Workspace;
use crate::{cargo, install, process};

/// `cargo fmt --check`.
pub(super) fn format(workspace: &Workspace) -> Result<Finding> {
    let mut command = cargo::command();
    process::run(command.current_dir(&workspace.root).args(["fmt", "--all", "--", "--check"]))?;
    Ok(Finding::default())
}

/// Clippy over every native target.
pub(super) fn clippy(workspace: &Workspace) -> Result<Finding> {
    let mut command = cargo::command();
    command.current_dir(&workspace.root).args(["clippy", "--workspace", "--all-targets"]);
    process::run(command.args(["--", "-D", "warnings"]))?;
    Ok(Finding::default())
}

/// Clippy over the plugins and fixtures for the target that they are built for: code behind
/// `cfg(target_family = "wasm")` is not seen otherwise.
pub(super) fn clippy_guests(workspace: &Workspace, toolchain: &GuestToolchain) -> Result<Finding> {
    let mut guests = workspace.plugins()?;
    guests.extend(workspace.fixtures()?);
    if guests.is_empty() {
        return Ok(Finding::detail("no plugins yet"));
    }
    let mut command = toolchain.cargo(workspace);
    command.args(["clippy", "--target", target::NAME]);
    for guest in &guests {
        command.args(["--package", &guest.package]);
    }
    process::run(command.args(["--", "-D", "warnings"]))?;
    Ok(Finding::detail(format!("{} guests", guests.len())))
}

/// Licences, sources and bans. Advisories need a database from a network that test machines do
/// not reach.
pub(super) fn deny(workspace: &Workspace) -> Result<Finding> {
    let mut command = Command::new(install::cargo_deny()?);
    command.current_dir(&workspace.root).args(["--workspace", "check"]);
    process::run(command.args(["bans", "licenses", "sources"]))?;
    Ok(Finding::detail("without advisories: `cargo deny check advisories` needs a network"))
}
