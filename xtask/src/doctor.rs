//! `cargo xtask doctor`: what this machine lacks, and how to get it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use pintle_test_services::{Artifact, cache};

use crate::install::{self, CARGO_DENY, PROTOC, Program};
use crate::process;
use crate::target::{self, Compiler, GuestToolchain};
use crate::workspace::Workspace;

#[derive(Args)]
pub(crate) struct Arguments {}

/// What a thing is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Serve,
    Test,
}

/// One thing that was looked for.
struct Check {
    name: String,
    need: Need,
    /// What was found, or what to do.
    found: Result<String, String>,
}

/// What the build, the tests and the servers take at most.
const DISK_GIB: u64 = 12;

pub(crate) fn run(workspace: &Workspace, _arguments: &Arguments) -> Result<ExitCode> {
    let mut checks = for_serve(workspace)?;
    checks.extend(for_test(workspace)?);
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &checks {
        println!("{}", check.line(width));
    }
    let fatal = checks.iter().filter(|check| check.need == Need::Serve && check.found.is_err());
    Ok(match fatal.count() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn for_serve(workspace: &Workspace) -> Result<Vec<Check>> {
    let compiler = Compiler::of(workspace)?;
    Ok(vec![
        Check::new("rustc", Need::Serve, rustc(workspace, &compiler)?),
        Check::new("wasm target", Need::Serve, wasm_target(&compiler)),
        Check::program("cc", Need::Serve, "C compiler, for the TLS library: apt-get install gcc"),
        Check::new("disk", Need::Serve, disk(&workspace.root)?),
    ])
}

fn for_test(workspace: &Workspace) -> Result<Vec<Check>> {
    let component = |name: &str| format!("rustup component add {name}");
    let mut checks = vec![
        Check::program("cargo-fmt", Need::Test, &component("rustfmt")),
        Check::program("cargo-clippy", Need::Test, &component("clippy")),
        Check::new("cargo-deny", Need::Test, cargo_deny()),
        Check::program("setpriv", Need::Test, "apt-get install util-linux"),
    ];
    let mut programs: Vec<Program> = Vec::new();
    if install::needs_protoc(workspace)? {
        programs.push(PROTOC);
    }
    for artifact in Artifact::ALL {
        programs
            .extend(artifact.programs().iter().map(|&(name, package)| Program { name, package }));
    }
    programs.sort_unstable();
    programs.dedup();
    for program in programs {
        let remedy = format!("`cargo xtask test` installs it as root: {}", program.remedy());
        let found = if program.is_installed() { Ok(String::new()) } else { Err(remedy) };
        checks.push(Check::new(program.name, Need::Test, found));
    }
    for artifact in Artifact::ALL {
        checks.push(Check::new(artifact.name(), Need::Test, server(artifact)));
    }
    Ok(checks)
}

impl Check {
    fn new(name: &str, need: Need, found: Result<String, String>) -> Self {
        Self { name: name.to_owned(), need, found }
    }

    fn program(name: &str, need: Need, remedy: &str) -> Self {
        let found = process::is_installed(name);
        Self::new(name, need, if found { Ok(String::new()) } else { Err(remedy.to_owned()) })
    }

    fn line(&self, width: usize) -> String {
        let (word, detail) = match (&self.found, self.need) {
            (Ok(detail), _) => ("ok     ", detail.clone()),
            (Err(remedy), Need::Serve) => ("MISSING", remedy.clone()),
            (Err(remedy), Need::Test) => ("missing", format!("(tests only) {remedy}")),
        };
        format!("{:width$}  {word}  {detail}", self.name).trim_end().to_owned()
    }
}

fn rustc(workspace: &Workspace, compiler: &Compiler) -> Result<Result<String, String>> {
    let path = workspace.root.join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let file: toml::Table =
        toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let channel = file
        .get("toolchain")
        .and_then(|toolchain| toolchain.get("channel"))
        .and_then(toml::Value::as_str)
        .with_context(|| format!("{} names no channel", path.display()))?;
    if compiler.release == channel {
        return Ok(Ok(compiler.release.clone()));
    }
    Ok(Err(format!(
        "{} found, {channel} wanted: rustup toolchain install {channel}",
        compiler.release
    )))
}

fn wasm_target(compiler: &Compiler) -> Result<String, String> {
    if compiler.has_target() {
        return Ok(format!("{}, installed", target::NAME));
    }
    if GuestToolchain::is_cached(compiler) {
        return Ok(format!("{}, in a private copy of the toolchain", target::NAME));
    }
    let remedy = format!("rustup target add {}", target::NAME);
    if process::is_installed("rustup") || process::is_installed("apt-get") {
        return Ok(format!("{}, which `cargo xtask serve` will get", target::NAME));
    }
    Err(remedy)
}

fn disk(folder: &Path) -> Result<Result<String, String>> {
    let table = process::capture(Command::new("df").arg("-Pk").arg(folder))?;
    let free_kib: u64 = table
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(3))
        .and_then(|number| number.parse().ok())
        .context("cannot read what `df -Pk` prints")?;
    let free_gib = free_kib / (1024 * 1024);
    if free_gib >= DISK_GIB {
        return Ok(Ok(format!("{free_gib} GiB free")));
    }
    Ok(Err(format!("{free_gib} GiB free, {DISK_GIB} GiB wanted: `cargo clean`, or make room")))
}

fn cargo_deny() -> Result<String, String> {
    match install::find_cargo_deny() {
        Some(path) => Ok(path.display().to_string()),
        None => Err(format!(
            "`cargo xtask test` installs it; by hand: cargo install --locked cargo-deny@{CARGO_DENY}"
        )),
    }
}

fn server(artifact: Artifact) -> Result<String, String> {
    if artifact.is_fetched() {
        return Ok(format!("in {}", cache::root().display()));
    }
    Err("the suites that need it fetch it".to_owned())
}
