//! `cargo xtask build`: the host's binary and every plugin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::report::timed;
use crate::target::GuestToolchain;
use crate::workspace::{Guest, Workspace};
use crate::{cargo, process};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Build the host with optimisations (plugins always are)
    #[arg(long)]
    release: bool,
    /// Build the tests' guest programs as well
    #[arg(long)]
    fixtures: bool,
    #[command(flatten)]
    target: TargetArguments,
}

/// How the plugins' compile target is got.
#[derive(Args, Clone, Copy)]
pub(crate) struct TargetArguments {
    /// Build the wasm target from Debian's packages even where it is installed
    #[arg(long)]
    pub(crate) force_target_fallback: bool,
}

/// The first bytes of a component; a plain module has another version after the magic number.
const COMPONENT: &[u8] = &[0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let toolchain = timed("wasm target", || {
        GuestToolchain::ensure(workspace, arguments.target.force_target_fallback)
    })?;
    let profile = Profile::of(arguments.release);
    let (binary, plugins) =
        timed("host and plugins", || host_and_plugins(workspace, profile, &toolchain))?;
    eprintln!("host     {}", binary.display());
    list("plugin", &plugins);
    if arguments.fixtures {
        list("fixture", &timed("fixtures", || fixtures(workspace, &toolchain))?);
    }
    Ok(ExitCode::SUCCESS)
}

/// How the host is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Development,
    Release,
}

impl Profile {
    /// The profile that a `--release` flag names.
    pub(crate) fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Development }
    }

    /// Cargo's arguments for it.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Development => &[],
            Self::Release => &["--release"],
        }
    }

    /// The folder inside `target/` where cargo puts the result.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Development => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the binary `pintle` and gives its path.
///
/// `--workspace` does not build more, it makes cargo choose the dependencies' features for the
/// whole workspace, as the tests do: otherwise the sandbox would be compiled once for each.
pub(crate) fn host(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo::command();
    command.current_dir(&workspace.root).args(["build", "--workspace", "--bin", "pintle"]);
    process::run(command.args(profile.arguments()))?;
    Ok(workspace.target.join(profile.folder()).join("pintle"))
}

/// Builds the host and, beside it, every plugin: wherever one crate keeps all others waiting, as the
/// host's last ones do, a core would be idle.
pub(crate) fn host_and_plugins(
    workspace: &Workspace,
    profile: Profile,
    toolchain: &GuestToolchain,
) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (plugins, folder) = (workspace.plugins()?, plugins_folder(workspace));
    let Some(mut command) = guests_command(workspace, toolchain, &plugins) else {
        return Ok((host(workspace, profile)?, Vec::new()));
    };
    // The host's crates take longer, and keep their share of the machine.
    let jobs = available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let building = process::Background::start(command.args(["--jobs", &jobs.to_string()]))?;
    let binary = host(workspace, profile)?;
    building.wait()?;
    Ok((binary, publish_all(workspace, toolchain, &plugins, &folder)?))
}

/// Builds every plugin into `target/plugins/`.
pub(crate) fn plugins(workspace: &Workspace, toolchain: &GuestToolchain) -> Result<Vec<PathBuf>> {
    guests(workspace, toolchain, &workspace.plugins()?, &plugins_folder(workspace))
}

/// Builds the tests' guest programs into `target/fixtures/`. Apart from the plugins, so that
/// these are tested with the very features that they are shipped with.
pub(crate) fn fixtures(workspace: &Workspace, toolchain: &GuestToolchain) -> Result<Vec<PathBuf>> {
    guests(workspace, toolchain, &workspace.fixtures()?, &workspace.target.join("fixtures"))
}

/// Where built plugins lie.
pub(crate) fn plugins_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("plugins")
}

/// Builds guests in one call of cargo and copies them into `folder` as `<folder name>.wasm`.
pub(crate) fn guests(
    workspace: &Workspace,
    toolchain: &GuestToolchain,
    guests: &[Guest],
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    if let Some(mut command) = guests_command(workspace, toolchain, guests) {
        process::run(&mut command)?;
    }
    publish_all(workspace, toolchain, guests, folder)
}

/// One call of cargo for all of them; nothing where there are none.
fn guests_command(
    workspace: &Workspace,
    toolchain: &GuestToolchain,
    guests: &[Guest],
) -> Option<Command> {
    if guests.is_empty() {
        return None;
    }
    let mut command = toolchain.cargo(workspace);
    command.args(["build", "--profile", "guest", "--target", crate::target::NAME]);
    for guest in guests {
        command.args(["--package", &guest.package]);
    }
    Some(command)
}

/// Copies what was built of them into `folder`.
fn publish_all(
    workspace: &Workspace,
    toolchain: &GuestToolchain,
    guests: &[Guest],
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let built = toolchain.output(workspace).join("guest");
    guests.iter().map(|guest| publish(&built.join(&guest.artifact), folder, guest)).collect()
}

/// Copies one component, under a temporary name first, and only when it differs: a running host
/// that watches the folder sees whole files, and only those that changed.
fn publish(built: &Path, folder: &Path, guest: &Guest) -> Result<PathBuf> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if !bytes.starts_with(COMPONENT) {
        bail!("{} is not a component: is `{}` a cdylib?", built.display(), guest.package);
    }
    let path = folder.join(format!("{}.wasm", guest.folder));
    if fs::read(&path).is_ok_and(|old| old == bytes) {
        return Ok(path);
    }
    let partial = folder.join(format!(".{}.wasm.{}", guest.folder, std::process::id()));
    fs::write(&partial, bytes).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn list(kind: &str, files: &[PathBuf]) {
    for file in files {
        let size_kib = fs::metadata(file).map(|file| file.len() / 1024).unwrap_or_default();
        eprintln!("{kind:8} {} ({size_kib} KiB)", file.display());
    }
    if files.is_empty() {
        eprintln!("{kind:8} none: no package with `crate-type = [\"cdylib\"]` in its folder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest { folder: "x".into(), package: "pintle-plugin-x".into(), artifact: "x.wasm".into() }
    }

    #[test]
    fn an_unchanged_component_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("built");
        fs::write(&built, COMPONENT).unwrap();
        let path = publish(&built, folder.path(), &guest()).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        publish(&built, folder.path(), &guest()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
        fs::write(&built, [COMPONENT, b"more"].concat()).unwrap();
        publish(&built, folder.path(), &guest()).unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"more"));
    }

    #[test]
    fn a_plain_module_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("built");
        fs::write(&built, b"\0asm\x01\0\0\0").unwrap();
        let message = publish(&built, folder.path(), &guest()).unwrap_err().to_string();
        assert!(message.contains("not a component"), "{message}");
    }
}
