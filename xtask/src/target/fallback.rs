//! The target's standard library, built from Debian's packages of Rust's source and of wasi-libc.
//!
//! The result is a copy of the toolchain made of hard links, kept in the cache: the installed
//! toolchain stays untouched. Only the very source of the installed compiler fits, so a compiler of
//! another version is refused.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pintle_test_services::debian::{self, Apt};
use pintle_test_services::{Error, cache};

use super::{Compiler, NAME, private_cargo};
use crate::process;

const SUITE: &str = "trixie-backports";
const RELEASE: &str = "1.95.0";
const SOURCE: Package = Package { name: "rust-src", line: "1.95.0+" };
/// Any version: the C library's symbols that the standard library needs are stable.
const LIBC: Package = Package { name: "wasi-libc", line: "" };

/// Start files and C library that the linker looks for beside the standard library.
const SELF_CONTAINED: [&str; 3] = ["crt1-command.o", "crt1-reactor.o", "libc.a"];

/// How Rust's own build compiles the standard library for a release.
const FLAGS: &str = "-Zforce-unstable-if-unmarked -Cembed-bitcode=yes -Cdebuginfo=0";

/// A Debian package, and the start of its version number.
struct Package {
    name: &'static str,
    line: &'static str,
}

/// The private toolchain for this compiler, if it has been made already.
pub(super) fn find(compiler: &Compiler) -> Option<PathBuf> {
    cache::find(&entry(compiler))
}

/// Makes the private toolchain for this compiler, or finds it.
pub(super) fn provide(compiler: &Compiler) -> Result<PathBuf> {
    if compiler.release != RELEASE {
        bail!(
            "rustc is {}, but the pinned source of the standard library is {RELEASE}, and only \
             the same version fits: use rustc {RELEASE}, or pin the source of {} in {}",
            compiler.release,
            compiler.release,
            file!()
        );
    }
    for program in ["apt-get", "dpkg-deb", "tar"] {
        if !process::is_installed(program) {
            bail!("`{program}` is not installed: this way needs Debian");
        }
    }
    cache::provide(&entry(compiler), |folder| make(compiler, folder))
}

/// Changes with the compiler and with what is fetched for it.
fn entry(compiler: &Compiler) -> String {
    let key = format!("{}\n{}\n{}\n{FLAGS}", compiler.verbose, SOURCE.line, LIBC.line);
    let digest = cache::digest_of_text(&key);
    format!("toolchains/{}-{NAME}-{}", compiler.release, digest.get(..12).unwrap_or(&digest))
}

fn make(compiler: &Compiler, folder: &Path) -> Result<()> {
    let work = folder.join("work");
    cache::progress(&format!("copying the toolchain {} (hard links)", compiler.release));
    copy_toolchain(&compiler.sysroot, folder)?;

    cache::progress(&format!("fetching {} and {} from Debian {SUITE}", SOURCE.name, LIBC.name));
    let apt = Apt::new(&work, SUITE)?;
    let library = format!("usr/src/rustc-{RELEASE}/library");
    SOURCE.unpack(&apt, &work, &library)?;
    let libc = format!("usr/lib/{NAME}");
    LIBC.unpack(&apt, &work, &libc)?;

    cache::progress("compiling the standard library (about a minute)");
    let built = compile(folder, &work, &work.join(library))?;
    install(folder, &built, &work.join(libc))?;
    fs::remove_dir_all(&work).map_err(Error::file("remove", &work))?;
    cache::progress("the private toolchain is ready");
    Ok(())
}

impl Package {
    fn unpack(&self, apt: &Apt, work: &Path, prefix: &str) -> Result<()> {
        let file = apt.download(self.name, self.line, work)?;
        Ok(debian::unpack(&file, &format!("./{prefix}"), work)?)
    }
}

fn compile(toolchain: &Path, work: &Path, library: &Path) -> Result<PathBuf> {
    let target = work.join("target");
    let mut cargo = private_cargo(toolchain);
    cargo
        .current_dir(library.join("sysroot"))
        .args(["build", "--locked", "--release", "--target", NAME])
        .args(["--features", "panic-unwind backtrace"])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_DEFAULT_LIB_METADATA", "stablestd")
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    process::run(&mut cargo).context("the standard library did not compile")?;
    Ok(target.join(NAME).join("release/deps"))
}

fn install(toolchain: &Path, built: &Path, libc: &Path) -> Result<()> {
    let library = toolchain.join("lib/rustlib").join(NAME).join("lib");
    let contained = library.join("self-contained");
    fs::create_dir_all(&contained).map_err(Error::file("create", &contained))?;
    let mut count = 0;
    for entry in fs::read_dir(built).map_err(Error::file("list", built))? {
        let path = entry.map_err(Error::file("list", built))?.path();
        if path.extension().is_some_and(|extension| extension == "rlib") {
            copy(&path, &library)?;
            count += 1;
        }
    }
    anyhow::ensure!(count > 0, "{} holds no compiled library", built.display());
    for name in SELF_CONTAINED {
        copy(&libc.join(name), &contained)?;
    }
    Ok(())
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    fs::copy(file, folder.join(name)).map_err(Error::file("copy", file))?;
    Ok(())
}

/// Copies what compiles: the programs, the compiler's libraries and the targets, but neither
/// another copy of this target nor documentation.
fn copy_toolchain(from: &Path, to: &Path) -> Result<()> {
    for program in ["cargo", "cargo-clippy", "clippy-driver", "rustc", "rustdoc"] {
        let path = from.join("bin").join(program);
        if path.is_file() {
            link(&path, &to.join("bin").join(program))?;
        }
    }
    for entry in list(&from.join("lib"))? {
        let name = entry.file_name().unwrap_or_default();
        let text = name.to_string_lossy();
        let ours = ["libLLVM", "librustc_driver", "libstd-", "libtest-"];
        if ours.iter().any(|start| text.starts_with(start)) {
            link(&entry, &to.join("lib").join(name))?;
        }
    }
    for entry in list(&from.join("lib/rustlib"))? {
        let name = entry.file_name().unwrap_or_default();
        if entry.is_dir() && name != NAME && name != "src" {
            link_tree(&entry, &to.join("lib/rustlib").join(name))?;
        }
    }
    anyhow::ensure!(
        to.join("bin/rustc").is_file() && to.join("bin/cargo").is_file(),
        "{} is no whole toolchain: it lacks bin/rustc or bin/cargo",
        from.display()
    );
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in list(from)? {
        let inner = to.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() {
            link_tree(&entry, &inner)?;
        } else {
            link(&entry, &inner)?;
        }
    }
    Ok(())
}

/// A hard link, or a copy where the cache is on another file system.
fn link(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(Error::file("copy", from))?;
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::file("list", folder))?;
    entries.map(|entry| Ok(entry.map_err(Error::file("list", folder))?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(release: &str) -> Compiler {
        Compiler { sysroot: "/none".into(), release: release.into(), verbose: release.into() }
    }

    #[test]
    fn a_compiler_of_another_version_is_refused_with_both_versions() {
        let message = provide(&compiler("1.94.1")).unwrap_err().to_string();
        assert!(message.contains("1.94.1") && message.contains(RELEASE), "{message}");
    }

    #[test]
    fn each_compiler_has_an_entry_of_its_own() {
        assert_ne!(entry(&compiler("1.95.0")), entry(&compiler("1.95.0 (other commit)")));
    }

    #[test]
    fn a_copied_toolchain_compiles_and_has_no_target_of_its_own() {
        let from = tempfile::tempdir().unwrap();
        for file in [
            "bin/rustc",
            "bin/cargo",
            "bin/rust-gdb",
            "lib/libstd-1.so",
            "lib/libz.so",
            "lib/rustlib/host/lib/libcore.rlib",
            "lib/rustlib/wasm32-wasip2/lib/libstd-1.rlib",
        ] {
            let path = from.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let to = tempfile::tempdir().unwrap();
        copy_toolchain(from.path(), to.path()).unwrap();
        assert!(to.path().join("lib/rustlib/host/lib/libcore.rlib").is_file());
        assert!(to.path().join("lib/libstd-1.so").is_file());
        assert!(!to.path().join("lib/libz.so").exists());
        assert!(!to.path().join("lib/rustlib/wasm32-wasip2").exists());
    }
}
