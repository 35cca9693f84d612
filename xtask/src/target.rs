//! The compile target of plugins, `wasm32-wasip2`: installed, added by rustup, or built from
//! Debian's packages.
//!
//! `rust-toolchain.toml` lists no targets, since rustup would insist on downloading them, and
//! some machines reach package mirrors only. There the target's standard library is built from
//! source (see [`fallback`]), into a private copy of the toolchain.

mod fallback;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{cargo, process};

/// The target's name.
pub(crate) const NAME: &str = "wasm32-wasip2";

const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// A toolchain that can compile plugins.
#[derive(Debug)]
pub(crate) enum GuestToolchain {
    /// The one that also compiles the host.
    Installed,
    /// A private copy of it, with the target added.
    Private {
        /// Its root folder, with `bin/` and `lib/`.
        sysroot: PathBuf,
    },
}

/// The compiler that this workspace uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) sysroot: PathBuf,
    /// Its version, such as `1.95.0`.
    pub(crate) release: String,
    /// All that `rustc -vV` prints.
    pub(crate) verbose: String,
}

impl GuestToolchain {
    /// Finds the target or gets it.
    ///
    /// # Errors
    /// Says everything that was tried, and what would help.
    pub(crate) fn ensure(workspace: &Workspace, force_fallback: bool) -> Result<Self> {
        let compiler = Compiler::of(workspace)?;
        if force_fallback {
            eprintln!("    building {NAME} from Debian's packages, as asked");
            return Self::private(&compiler).map_err(|error| error.context(remedy(&compiler)));
        }
        if compiler.has_target() {
            return Ok(Self::Installed);
        }
        if let Some(sysroot) = fallback::find(&compiler) {
            return Ok(Self::Private { sysroot });
        }
        let Err(rustup) = add_by_rustup(workspace, &compiler) else { return Ok(Self::Installed) };
        eprintln!("    rustup could not add it ({rustup:#}); building it from Debian's packages");
        Self::private(&compiler).map_err(|error| {
            error
                .context(format!("tried rustup: {rustup:#}; then Debian's packages"))
                .context(remedy(&compiler))
        })
    }

    /// Whether a private toolchain for this compiler is in the cache.
    pub(crate) fn is_cached(compiler: &Compiler) -> bool {
        fallback::find(compiler).is_some()
    }

    /// A cargo call that compiles for the target.
    pub(crate) fn cargo(&self, workspace: &Workspace) -> Command {
        let mut command = match self {
            Self::Installed => cargo::command(),
            Self::Private { sysroot } => {
                let mut command = private_cargo(sysroot);
                command.env("CARGO_TARGET_DIR", self.target(workspace));
                command
            }
        };
        command.current_dir(&workspace.root);
        command
    }

    /// The folder into which it writes, without the profile's name.
    pub(crate) fn output(&self, workspace: &Workspace) -> PathBuf {
        self.target(workspace).join(NAME)
    }

    /// One standard library per folder: crates compiled against another one do not fit.
    fn target(&self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::Installed => workspace.target.clone(),
            Self::Private { .. } => workspace.target.join("private-toolchain"),
        }
    }

    fn private(compiler: &Compiler) -> Result<Self> {
        Ok(Self::Private { sysroot: fallback::provide(compiler)? })
    }
}

impl Compiler {
    /// Asks `rustc`, inside the workspace, where `rust-toolchain.toml` is heeded.
    pub(crate) fn of(workspace: &Workspace) -> Result<Self> {
        let rustc = || {
            let mut command = Command::new("rustc");
            command.current_dir(&workspace.root);
            command
        };
        let verbose = process::capture(rustc().arg("-vV"))?;
        let sysroot = process::capture(rustc().args(["--print", "sysroot"]))?.into();
        let release = verbose
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .context("`rustc -vV` names no release")?
            .to_owned();
        Ok(Self { sysroot, release, verbose })
    }

    /// Whether the target's standard library is installed.
    pub(crate) fn has_target(&self) -> bool {
        has_standard_library(&self.sysroot)
    }
}

/// Cargo of a private toolchain, which must not fall back to the installed one: neither through
/// rustup's variable nor through the library path that `cargo run` sets.
fn private_cargo(sysroot: &Path) -> Command {
    let bin = sysroot.join("bin");
    let mut command = cargo::command_at(&bin.join("cargo"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    command
        .env("RUSTC", bin.join("rustc"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("DYLD_FALLBACK_LIBRARY_PATH");
    command
}

fn has_standard_library(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(NAME).join("lib");
    folder.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

fn add_by_rustup(workspace: &Workspace, compiler: &Compiler) -> Result<()> {
    eprintln!("    rustup target add {NAME} (at most {} s)", RUSTUP_LIMIT.as_secs());
    let mut rustup = Command::new("rustup");
    rustup.current_dir(&workspace.root).args(["target", "add", NAME]);
    process::run_for(&mut rustup, RUSTUP_LIMIT)?;
    anyhow::ensure!(
        compiler.has_target(),
        "it succeeded, but {} has no {NAME}: is `rustc` in PATH not rustup's?",
        compiler.sysroot.display()
    );
    Ok(())
}

fn remedy(compiler: &Compiler) -> String {
    format!(
        "no {NAME} for rustc {}: run `rustup target add {NAME}` where rustup's servers can be \
         reached, or run this on Debian with its package mirror reachable",
        compiler.release
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_target_folder_is_not_taken_for_the_target() {
        let sysroot = tempfile::tempdir().unwrap();
        let library = sysroot.path().join("lib/rustlib").join(NAME).join("lib");
        assert!(!has_standard_library(sysroot.path()));
        std::fs::create_dir_all(&library).unwrap();
        assert!(!has_standard_library(sysroot.path()));
        std::fs::write(library.join("libstd-0.rlib"), "").unwrap();
        assert!(has_standard_library(sysroot.path()));
    }
}
