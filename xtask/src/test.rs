//! `cargo xtask test`: every check and test, in order, with one table at the end.

mod executables;
mod lint;

use std::cell::OnceCell;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{self, TargetArguments};
use crate::report::{Finding, Report};
use crate::suites::{self, Suite};
use crate::target::GuestToolchain;
use crate::workspace::Workspace;
use crate::{chaos, fuzz, install};
use executables::Executables;

#[derive(Args)]
pub(crate) struct Arguments {
    /// One suite or step; an unknown name lists what there is
    name: Option<String>,
    #[command(flatten)]
    target: TargetArguments,
    /// Also build a plugin with the target made from Debian's packages (always with CI set)
    #[arg(long)]
    check_target_fallback: bool,
    /// Passed to the suite's test program, such as a test's name
    #[arg(last = true)]
    rest: Vec<String>,
}

const STEPS: [(&str, &str); 11] = [
    ("lint", "fmt, clippy, clippy-guests and deny"),
    ("fmt", "formatting"),
    ("clippy", "lints of the native crates"),
    ("clippy-guests", "lints of the plugins and fixtures, for their own target"),
    ("deny", "licences, sources and bans of the dependencies"),
    ("unit", "tests of each crate, without servers"),
    ("doc", "examples in the documentation"),
    ("fuzz", "every decoder on inputs that are made up"),
    ("guests", "build the plugins and the tests' fixtures"),
    ("chaos-smoke", "short fault injection"),
    ("target-fallback", "build a plugin with the target made from Debian's packages"),
];
const LINTS: [&str; 4] = ["fmt", "clippy", "clippy-guests", "deny"];

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let suites = suites::all(workspace)?;
    let run = Run { workspace, arguments, suites, toolchain: OnceCell::new() };
    run.check_name()?;
    let mut report = Report::default();
    run.steps(&mut report);
    println!("\n{}", report.table());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Run<'a> {
    workspace: &'a Workspace,
    arguments: &'a Arguments,
    suites: Vec<Suite>,
    toolchain: OnceCell<GuestToolchain>,
}

impl Run<'_> {
    fn check_name(&self) -> Result<()> {
        let Some(name) = &self.arguments.name else { return Ok(()) };
        let known = STEPS.iter().any(|(step, _)| step == name)
            || self.suites.iter().any(|suite| &suite.name == name);
        if known {
            return Ok(());
        }
        let steps: String =
            STEPS.iter().map(|(step, what)| format!("\n  {step:16} {what}")).collect();
        let suites: String =
            self.suites.iter().map(|suite| format!("\n  {}", suite.name)).collect();
        bail!("no suite or step `{name}`; steps:{steps}\nsuites:{suites}")
    }

    fn wants(&self, step: &str) -> bool {
        match self.arguments.name.as_deref() {
            None => true,
            Some("lint") => LINTS.contains(&step),
            Some(name) => name == step,
        }
    }

    fn steps(&self, report: &mut Report) {
        report.step("tools", "programs that the build needs", || self.install());
        self.lint(report);
        let wanted: Vec<&Suite> =
            self.suites.iter().filter(|suite| self.wants(&suite.name)).collect();
        let only = match wanted.as_slice() {
            [one] if self.arguments.name.is_some() => Some(*one),
            _ => None,
        };
        let chaos = self.wants("chaos-smoke");
        let guests_needed =
            wanted.iter().any(|suite| suite.needs_host()) || chaos || self.wants("guests");
        let executables = if self.wants("unit") || !wanted.is_empty() {
            self.compile(report, only)
        } else {
            None
        };
        if self.wants("unit") {
            self.unit(report, executables.as_ref());
        }
        if self.wants("doc") {
            report.step("doc", "examples in the documentation", || {
                executables::run_doc_tests(self.workspace)
            });
        }
        if self.wants("fuzz") {
            report.step("fuzz", "every decoder on inputs that are made up", || {
                fuzz::smoke(self.workspace)
            });
        }
        let built =
            guests_needed && report.step("guests", "plugins and fixtures", || self.guests());
        for suite in wanted {
            match &executables {
                Some(executables) if built || !suite.needs_host() => {
                    self.suite(report, suite, executables)
                }
                _ => report.skip(&suite.name, "it needs what did not build"),
            }
        }
        if chaos {
            self.chaos_smoke(report, built);
        }
        if self.wants_target_fallback() {
            report.step(
                "target-fallback",
                "a plugin, with the target from Debian's packages",
                || self.target_fallback(),
            );
        }
    }

    fn install(&self) -> Result<Finding> {
        if install::needs_protoc(self.workspace)? {
            install::programs(&[install::PROTOC])?;
        }
        Ok(Finding::default())
    }

    fn lint(&self, report: &mut Report) {
        if self.wants("fmt") {
            report.step("fmt", "formatting", || lint::format(self.workspace));
        }
        if self.wants("clippy") {
            report.step("clippy", "lints of all native targets", || lint::clippy(self.workspace));
        }
        if self.wants("clippy-guests") {
            report.step("clippy-guests", "lints of the plugins, for their own target", || {
                lint::clippy_guests(self.workspace, self.toolchain()?)
            });
        }
        if self.wants("deny") {
            report.step("deny", "licences, sources, bans", || lint::deny(self.workspace));
        }
    }

    fn compile(&self, report: &mut Report, only: Option<&Suite>) -> Option<Executables> {
        let mut executables = None;
        report.step("compile", "host and tests (the first time takes minutes)", || {
            executables = Some(Executables::compile(self.workspace, only)?);
            Ok(Finding::default())
        });
        executables
    }

    fn unit(&self, report: &mut Report, executables: Option<&Executables>) {
        let Some(executables) = executables else {
            return report.skip("unit", "it did not compile");
        };
        report.step("unit", "tests of each crate", || {
            executables.run_units(self.workspace, &self.suites)
        });
    }

    fn guests(&self) -> Result<Finding> {
        let toolchain = self.toolchain()?;
        let plugins = build::plugins(self.workspace, toolchain)?.len();
        let fixtures = build::fixtures(self.workspace, toolchain)?.len();
        Ok(Finding::detail(format!("{plugins} plugins, {fixtures} fixtures")))
    }

    fn suite(&self, report: &mut Report, suite: &Suite, executables: &Executables) {
        report.step(&suite.name, "suite", || {
            suite.prepare()?;
            executables.run_suite(self.workspace, suite, &self.arguments.rest)
        });
    }

    fn chaos_smoke(&self, report: &mut Report, built: bool) {
        let names = chaos::names(self.workspace);
        if names.as_ref().is_ok_and(Vec::is_empty) {
            return;
        }
        if !built {
            return report.skip("chaos-smoke", "it needs the plugins");
        }
        report.step("chaos-smoke", "short fault injection", || {
            chaos::smoke(self.workspace, &names?).map(Finding::detail)
        });
    }

    fn wants_target_fallback(&self) -> bool {
        match self.arguments.name.as_deref() {
            Some(name) => name == "target-fallback",
            None => self.arguments.check_target_fallback || std::env::var_os("CI").is_some(),
        }
    }

    /// Builds the first fixture, or else the first plugin, into a folder of its own.
    fn target_fallback(&self) -> Result<Finding> {
        let toolchain = GuestToolchain::ensure(self.workspace, true)?;
        let mut guests = self.workspace.fixtures()?;
        guests.extend(self.workspace.plugins()?);
        let first = guests.first().context("there is neither a fixture nor a plugin to build")?;
        let folder = self.workspace.target.join("target-fallback");
        build::guests(self.workspace, &toolchain, std::slice::from_ref(first), &folder)?;
        Ok(Finding::detail(format!("built {}", first.package)))
    }

    fn toolchain(&self) -> Result<&GuestToolchain> {
        if self.toolchain.get().is_none() {
            let force = self.arguments.target.force_target_fallback;
            let found = GuestToolchain::ensure(self.workspace, force)?;
            return Ok(self.toolchain.get_or_init(|| found));
        }
        self.toolchain.get().context("the wasm target was not found")
    }
}
