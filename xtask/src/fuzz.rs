//! `cargo xtask fuzz`: every decoder, on inputs that libFuzzer makes up.
//!
//! libFuzzer keeps inputs that reach new code, and goes on from them; for that the code counts what is
//! reached. The compiler has that as a pass of LLVM, which the stable one takes too. What needs
//! another compiler, sanitizers of memory, would find nothing here: decoders have no `unsafe`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::install::Program;
use crate::report::{Finding, timed};
use crate::workspace::{Package, Workspace};
use crate::{cargo, install, process};

#[derive(Args)]
pub(crate) struct Arguments {
    /// One target; without it all of them, and an unknown name lists what there is
    name: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Run the target on this one input, such as one that was found
    #[arg(long, value_name = "FILE", requires = "name")]
    input: Option<PathBuf>,
}

/// What compiles libFuzzer.
const CPP: Program = Program { name: "c++", package: "g++" };

/// The package of the targets.
const PACKAGE: &str = "pintle-test-fuzz";
/// What the targets' programs are called, before the targets' names.
const PREFIX: &str = "fuzz-";
/// The program with a bug that only a fuzzer finds which sees what is reached.
const PLANTED: &str = "planted";

/// Lets code count what is reached, and what it compares: what `cargo-fuzz` sets, without a sanitizer.
const INSTRUMENTED: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Longest input, in bytes.
const INPUT_BYTES_MAX: u32 = 4_096;
/// One input takes no longer, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// Inputs for each target in the tests, made from the same beginning each time.
const SMOKE_INPUTS: u32 = 100_000;
/// The bug of [`PLANTED`] is found within so many.
const PLANTED_INPUTS: u32 = 500_000;

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let targets = Targets::of(workspace)?;
    let names = targets.choose(arguments.name.as_deref())?;
    targets.build()?;
    let mut found = Vec::new();
    for name in &names {
        let mut command = targets.program(&format!("{PREFIX}{name}"));
        let what = match &arguments.input {
            Some(input) => {
                ensure!(input.is_file(), "{} is no file", input.display());
                let place = || format!("cannot tell where {} is", input.display());
                command.arg(std::path::absolute(input).with_context(place)?);
                format!("{name}, on {}", input.display())
            }
            None => {
                targets.fuzz(&mut command, name)?;
                command.arg(format!("-max_total_time={}", arguments.seconds));
                format!("{name}, for {} s", arguments.seconds)
            }
        };
        let status = timed(&what, || {
            command
                .status()
                .with_context(|| format!("cannot run `{}`", process::describe(&command)))
        })?;
        if !status.success() {
            found.push(name.as_str());
        }
    }
    if found.is_empty() {
        println!("\nnothing was found in {}", names.join(", "));
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nfound something in {}; see above for the panic and its input", found.join(", "));
    println!("run it again: cargo xtask fuzz NAME --input FILE");
    println!("once it is mended, put the input into {}", targets.seeds().display());
    Ok(ExitCode::FAILURE)
}

/// Every target on few inputs, and one that has to fail.
pub(crate) fn smoke(workspace: &Workspace) -> Result<Finding> {
    let targets = Targets::of(workspace)?;
    targets.build()?;
    let fresh = targets.folder.join("smoke");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)
            .with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    let planted = targets.smoke(PLANTED, PLANTED, PLANTED_INPUTS)?;
    ensure!(
        planted.contains("the planted bug"),
        "the fuzzer does not find what it has to find: it sees nothing of what is reached\n{planted}"
    );
    let names = targets.choose(None)?;
    for name in &names {
        let printed = targets.smoke(&format!("{PREFIX}{name}"), name, SMOKE_INPUTS)?;
        let Some(reached) = reached(&printed) else {
            bail!(
                "{name} found something; to see it again: cargo xtask fuzz {name} --input FILE, with \
                 the file in {}\n{printed}",
                fresh.join(name).join("found").display()
            );
        };
        eprintln!("    {name:24} {reached}");
    }
    Ok(Finding::detail(format!("{} targets, {SMOKE_INPUTS} inputs each", names.len())))
}

/// What libFuzzer says at the end of a run that found nothing.
fn reached(printed: &str) -> Option<&str> {
    let done = printed.lines().find(|line| line.contains("\tDONE "))?;
    done.split_once("DONE ").map(|(_, reached)| reached.trim())
}

struct Targets<'a> {
    workspace: &'a Workspace,
    package: &'a Package,
    /// The machine that is compiled for. It is named, so that nothing is counted in build scripts.
    host: String,
    /// What was kept and what was found.
    folder: PathBuf,
}

impl<'a> Targets<'a> {
    fn of(workspace: &'a Workspace) -> Result<Self> {
        let mut rustc = Command::new("rustc");
        let host =
            process::capture(rustc.current_dir(&workspace.root).args(["--print", "host-tuple"]))?;
        let (package, folder) = (workspace.package(PACKAGE)?, workspace.target.join("fuzz"));
        Ok(Self { workspace, package, host, folder })
    }

    fn choose(&self, name: Option<&str>) -> Result<Vec<String>> {
        let names = self.package.target_names("bin").filter_map(|name| name.strip_prefix(PREFIX));
        let names: Vec<String> = names.map(str::to_owned).collect();
        match name {
            None => Ok(names),
            Some(name) if names.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
            Some(name) => bail!("there is no `{name}`; there are: {}", names.join(", ")),
        }
    }

    fn build(&self) -> Result<()> {
        install::programs(&[CPP])?;
        timed("build the targets, with what they reach counted", || {
            let mut command = cargo::command();
            command.current_dir(&self.workspace.root).env("RUSTFLAGS", INSTRUMENTED);
            // It would be heeded instead.
            command.env_remove("CARGO_ENCODED_RUSTFLAGS");
            command.args(["build", "--package", PACKAGE, "--bins", "--features", "libfuzzer"]);
            process::run(command.args(["--target", &self.host]))
        })
    }

    fn program(&self, program: &str) -> Command {
        let path = self.workspace.target.join(&self.host).join("debug").join(program);
        let mut command = Command::new(path);
        command.current_dir(&self.workspace.root).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
        command
    }

    /// The inputs that are kept with the sources, for all targets.
    fn seeds(&self) -> PathBuf {
        self.package.folder().join("seeds")
    }

    /// Lets a target's program make up inputs, from those that were kept before.
    fn fuzz(&self, command: &mut Command, name: &str) -> Result<()> {
        self.arrange(
            command,
            &self.folder.join("kept").join(name),
            &self.folder.join("found").join(name),
        )
    }

    fn arrange(&self, command: &mut Command, kept: &Path, found: &Path) -> Result<()> {
        for folder in [kept, found] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        command.arg(kept).arg(self.seeds());
        command.arg(format!("-artifact_prefix={}/", found.display()));
        command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        Ok(())
    }

    /// Runs a program on so many inputs, from the same beginning each time; gives what it printed.
    fn smoke(&self, program: &str, name: &str, inputs: u32) -> Result<String> {
        let mut command = self.program(program);
        let folder = self.folder.join("smoke").join(name);
        self.arrange(&mut command, &folder.join("kept"), &folder.join("found"))?;
        // What others keep meanwhile is not looked for.
        command.args(["-seed=1".to_owned(), "-reload=0".to_owned(), format!("-runs={inputs}")]);
        let output = process::output(&mut command)?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_found_nothing_says_what_it_reached() {
        let printed =
            "INFO: seed\n#2\tINITED cov: 3 ft: 4\n#10\tDONE   cov: 7 ft: 9 corp: 2/2b\nDone";
        assert_eq!(reached(printed), Some("cov: 7 ft: 9 corp: 2/2b"));
        assert_eq!(reached("#2\tNEW cov: 3\n== ERROR: libFuzzer: deadly signal"), None);
    }
}
