//! Tools that the tests need, installed when they are missing; doing it twice changes nothing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use pintle_test_services::{Error, cache};

use crate::workspace::Workspace;
use crate::{cargo, process};

/// The version that is installed when `PATH` has none or an older one.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// A program and the Debian packages that bring it, with a space between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// What compiles gRPC definitions for the native clients that tests compare with. Debian keeps the
/// definitions of Google's own types, which those refer to, in a package apart.
pub(crate) const PROTOC: Program =
    Program { name: "protoc", package: "protobuf-compiler libprotobuf-dev" };

/// One of the definitions of Google's own types.
const PROTOC_TYPES: &str = "google/protobuf/descriptor.proto";

/// Crates whose build scripts call `protoc`.
const PROTOC_USERS: [&str; 2] = ["etcd-client", "prost-build"];

impl Program {
    pub(crate) fn is_installed(self) -> bool {
        process::is_installed(self.name) && (self != PROTOC || protoc_finds_its_types())
    }

    /// How to install it by hand.
    pub(crate) fn remedy(self) -> String {
        format!("apt-get install -y --no-install-recommends {}", self.package)
    }
}

/// Whether some package of the workspace is built with `protoc`.
pub(crate) fn needs_protoc(workspace: &Workspace) -> Result<bool> {
    let path = workspace.root.join("Cargo.lock");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(PROTOC_USERS.iter().any(|name| text.contains(&format!("\nname = \"{name}\"\n"))))
}

/// Installs programs that are missing, with `apt-get`, which needs root.
pub(crate) fn programs(wanted: &[Program]) -> Result<()> {
    let missing: Vec<Program> =
        wanted.iter().copied().filter(|program| !program.is_installed()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    let packages: Vec<&str> =
        missing.iter().flat_map(|program| program.package.split(' ')).collect();
    let command = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !process::is_installed("apt-get") || !is_root()? {
        bail!("missing: {}; install them, on Debian with `{command}` as root", names.join(", "));
    }
    eprintln!("    {command}");
    if install(&packages).is_err() {
        // The package lists may be missing or old.
        process::run(apt_get().arg("update"))?;
        install(&packages)?;
    }
    Ok(())
}

/// The `cargo-deny` to use: that of `PATH` when it is new enough, else one of our own.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if let Some(path) = find_cargo_deny() {
        return Ok(path);
    }
    let entry = cache::provide(&cargo_deny_entry(), |folder| {
        cache::progress(&format!("installing cargo-deny {CARGO_DENY} (about a minute)"));
        let mut install = cargo::command();
        // Unoptimised and without features: what is checked here takes a second anyhow.
        install
            .args(["install", "--quiet", "--locked", "--debug", "--no-default-features"])
            .args(["--version", CARGO_DENY, "cargo-deny", "--no-track", "--root"])
            .arg(folder)
            .env("CARGO_TARGET_DIR", folder.join("target"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir(folder);
        process::run(&mut install)?;
        let target = folder.join("target");
        std::fs::remove_dir_all(&target).map_err(Error::file("remove", &target))?;
        anyhow::Ok(())
    })?;
    Ok(entry.join("bin/cargo-deny"))
}

/// The `cargo-deny` to use, if there is one already.
pub(crate) fn find_cargo_deny() -> Option<PathBuf> {
    let output = Command::new("cargo-deny").arg("--version").output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = text.as_deref().and_then(|text| text.split_whitespace().last()).map(parse);
    if version.is_some_and(|version| version >= parse(CARGO_DENY)) {
        return Some("cargo-deny".into());
    }
    cache::find(&cargo_deny_entry()).map(|entry| entry.join("bin/cargo-deny"))
}

fn cargo_deny_entry() -> String {
    format!("tools/cargo-deny-{CARGO_DENY}")
}

/// Whether `protoc` can be used for more than definitions that stand alone: it looks for Google's
/// beside itself, and in the folder of headers next to its own.
fn protoc_finds_its_types() -> bool {
    let Some(program) = process::find(PROTOC.name).and_then(|path| path.canonicalize().ok()) else {
        return false;
    };
    let mut folders = program.ancestors().skip(1);
    let beside = folders.next().map(|folder| folder.join(PROTOC_TYPES));
    let headers = folders.next().map(|folder| folder.join("include").join(PROTOC_TYPES));
    beside.into_iter().chain(headers).any(|file| file.is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    process::run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root() -> Result<bool> {
    Ok(process::capture(Command::new("id").arg("-u"))? == "0")
}

/// A version as numbers, for comparing.
fn parse(version: &str) -> Vec<u32> {
    version.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse("0.20.2") > parse("0.9.10"));
        assert!(parse("0.20.2") >= parse(CARGO_DENY));
        assert!(parse("1.0.0-beta") > parse("0.20.2"));
    }

    #[test]
    fn an_installed_program_needs_nothing() {
        programs(&[Program { name: "sh", package: "no-such-package" }]).unwrap();
    }
}
