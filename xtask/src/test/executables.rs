//! The test programs: compiled together, then run one by one.
//!
//! One call of cargo compiles all, so that each dependency is compiled once, with the features
//! that the workspace as a whole asks for. `cargo test -p` would choose others for each package,
//! and compile the sandbox again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::report::{Counts, Finding, seconds};
use crate::suites::Suite;
use crate::workspace::Workspace;
use crate::{cargo, process};

/// A test program that runs longer hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// How much of what a failed test printed is shown again at the end, so that a log that is cut still
/// says what failed: lines, and characters of each.
const FAILURE_LINES: usize = 32;
const FAILURE_COLUMNS: usize = 600;

/// All compiled test programs.
pub(super) struct Executables {
    all: Vec<Executable>,
}

#[derive(Debug, PartialEq, Eq)]
struct Executable {
    manifest: PathBuf,
    target: String,
    kind: String,
    path: PathBuf,
}

/// The part of a line of cargo's `--message-format=json` that is used here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<MessageTarget>,
    profile: Option<MessageProfile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct MessageProfile {
    test: bool,
}

impl Executables {
    /// Compiles the host and every test program, or those of one suite.
    pub(super) fn compile(workspace: &Workspace, only: Option<&Suite>) -> Result<Self> {
        let mut command = cargo::command();
        command.current_dir(&workspace.root).args(["build", "--workspace"]);
        match only {
            Some(suite) => command.args(["--test", &suite.name]),
            None => command.arg("--all-targets"),
        };
        if only.is_some_and(Suite::needs_host) {
            command.args(["--bin", "pintle"]);
        }
        command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot run cargo")?;
        let output = child.stdout.take().context("cargo has no output")?;
        let mut all = Vec::new();
        for line in BufReader::new(output).lines() {
            all.extend(executable_in(&line.context("cannot read from cargo")?));
        }
        let status = child.wait().context("cannot wait for cargo")?;
        if !status.success() {
            bail!("`{}` failed ({status})", process::describe(&command));
        }
        Ok(Self { all })
    }

    /// Runs all programs that are no suite; a failing one is printed whole.
    pub(super) fn run_units(&self, workspace: &Workspace, suites: &[Suite]) -> Result<Finding> {
        let mut all = Ran::default();
        for package in &workspace.packages {
            for executable in self.of(&package.manifest_path) {
                // A suite of `#[ignore]`d tests may have quick ones too.
                let slow = suites.iter().any(|suite| {
                    suite.package == package.name
                        && suite.is_target_of(executable)
                        && !suite.ignored
                });
                if slow {
                    continue;
                }
                let start = Instant::now();
                let ran = executable.run(package.folder(), &[], Show::Failures)?;
                if ran.counts != Counts::default() {
                    let took = seconds(start.elapsed());
                    eprintln!(
                        "    {:24} {:20} {:4} passed {:3} failed {took:>8}",
                        package.name, executable.target, ran.counts.passed, ran.counts.failed
                    );
                }
                all.counts.add(ran.counts);
                all.failures.push_str(&ran.failures);
            }
        }
        Ok(all.into())
    }

    /// Runs one suite and shows each test as it ends.
    pub(super) fn run_suite(
        &self,
        workspace: &Workspace,
        suite: &Suite,
        rest: &[String],
    ) -> Result<Finding> {
        let package = workspace.package(&suite.package)?;
        let executable = self
            .of(&package.manifest_path)
            .find(|executable| suite.is_target_of(executable))
            .with_context(|| format!("cargo built no test program for suite {}", suite.name))?;
        let mut arguments: Vec<&str> = rest.iter().map(String::as_str).collect();
        if suite.ignored {
            arguments.push("--ignored");
        }
        let threads = suite.threads.map(|count| format!("--test-threads={count}"));
        if !rest.iter().any(|argument| argument.starts_with("--test-threads")) {
            arguments.extend(threads.as_deref());
        }
        Ok(executable.run(package.folder(), &arguments, Show::All)?.into())
    }

    fn of<'a>(&'a self, manifest: &'a Path) -> impl Iterator<Item = &'a Executable> {
        self.all.iter().filter(move |executable| executable.manifest == manifest)
    }
}

impl Suite {
    fn is_target_of(&self, executable: &Executable) -> bool {
        executable.kind == "test" && executable.target == self.name
    }
}

/// Runs the documentation's examples.
pub(super) fn run_doc_tests(workspace: &Workspace) -> Result<Finding> {
    let mut command = cargo::command();
    command.current_dir(&workspace.root).args(["test", "--workspace", "--doc", "--quiet"]);
    Ok(run_counting(&mut command, "doc", Show::Failures)?.into())
}

/// What became of one test program.
#[derive(Debug, Default)]
struct Ran {
    counts: Counts,
    failures: String,
}

impl From<Ran> for Finding {
    fn from(ran: Ran) -> Self {
        Self { counts: ran.counts, failures: ran.failures, ..Self::default() }
    }
}

/// What of a test program's output is shown while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    All,
    Failures,
}

impl Executable {
    fn run(&self, folder: &Path, arguments: &[&str], show: Show) -> Result<Ran> {
        let mut command = Command::new(&self.path);
        // The folder and the variable that `cargo test` gives.
        command.args(arguments).current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
        run_counting(&mut command, &self.target, show)
    }
}

fn run_counting(command: &mut Command, name: &str, show: Show) -> Result<Ran> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("cannot run `{}`", process::describe(command)))?;
    let output = child.stdout.take().context("the test program has no output")?;
    let reader = thread::spawn(move || read(BufReader::new(output), show));
    let status = wait(&mut child)?;
    let Ok(text) = reader.join() else { bail!("cannot read what {name} prints") };
    let mut ran = Ran { counts: counts_in(&text), failures: failures_in(&text) };
    if !status.success() && show == Show::Failures {
        println!("{text}");
    }
    if !status.success() && ran.counts.failed == 0 {
        // It died before it could count.
        ran.counts.failed = 1;
        ran.failures = format!("{name} ended with {status}\n");
        eprint!("    {}", ran.failures);
    }
    Ok(ran)
}

fn read(output: impl BufRead, show: Show) -> String {
    let mut text = String::new();
    for line in output.lines().map_while(Result::ok) {
        if show == Show::All {
            println!("    {line}");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    match process::wait_for(child, LIMIT)? {
        Some(status) => Ok(status),
        None => {
            child.kill().context("cannot kill a test program")?;
            eprintln!("    killed after {}", seconds(LIMIT));
            child.wait().context("cannot wait for a test program")
        }
    }
}

fn executable_in(line: &str) -> Option<Executable> {
    let message: Message = serde_json::from_str(line).ok()?;
    let target = message.target?;
    let kind = target.kind.first()?.clone();
    if message.reason != "compiler-artifact" || !message.profile?.test || kind == "bench" {
        return None;
    }
    let path = message.executable?;
    Some(Executable { manifest: message.manifest_path, target: target.name, kind, path })
}

/// Adds up lines such as `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
fn counts_in(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, word] = pair else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match word.trim_end_matches(';') {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                "ignored" => counts.skipped += number,
                _ => {}
            }
        }
    }
    counts
}

/// What the failed tests of a program printed: the blocks between its first and its last line
/// `failures:`, each `---- NAME stdout ----` and the output, shortened in its middle.
fn failures_in(text: &str) -> String {
    let Some((_, rest)) = text.split_once("\nfailures:\n") else { return String::new() };
    let printed = rest.split("\nfailures:\n").next().unwrap_or(rest).trim();
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    let mut in_backtrace = false;
    for line in printed.lines() {
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            in_backtrace = false;
            blocks.push(Vec::new());
        }
        in_backtrace |= line.trim().eq_ignore_ascii_case("stack backtrace:");
        // Of a backtrace, where the test itself was.
        let is_told = !in_backtrace || line.trim_start().starts_with("at ./");
        if let Some(block) = blocks.last_mut().filter(|_| is_told && !line.trim().is_empty()) {
            block.push(line);
        }
    }
    blocks.iter().map(|block| shortened(block)).collect()
}

/// The first and the last lines of a block: what failed, and what came just before.
fn shortened(block: &[&str]) -> String {
    let left_out = block.len().saturating_sub(FAILURE_LINES);
    let head = if left_out == 0 { block.len() } else { FAILURE_LINES / 2 };
    let (first, rest) = block.split_at(head);
    let last = rest.get(left_out..).unwrap_or_default();
    let mut kept = String::new();
    let mut keep = |line: &str| {
        let end = line.floor_char_boundary(FAILURE_COLUMNS);
        let rest = if end < line.len() { " …" } else { "" };
        kept.extend(["    ", line.get(..end).unwrap_or_default(), rest, "\n"]);
    };
    first.iter().for_each(|line| keep(line));
    if left_out > 0 {
        keep(&format!("… {left_out} lines …"));
    }
    last.iter().for_each(|line| keep(line));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_runs_are_added_up() {
        let text = "test a ... ok\n\
                    test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n";
        assert_eq!(counts_in(text), Counts { passed: 6, failed: 2, skipped: 1 });
    }

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/r/Cargo.toml",
            "target":{"name":"host","kind":["test"]},"profile":{"test":true},
            "executable":"/r/target/debug/deps/host-1"}"#;
        let found = executable_in(line).unwrap();
        assert_eq!((found.target.as_str(), found.kind.as_str()), ("host", "test"));
        assert_eq!(executable_in(&line.replace("true", "false")), None);
        assert_eq!(executable_in(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn a_program_that_dies_without_counting_is_a_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo running; kill -9 $$"]);
        let ran = run_counting(&mut command, "x", Show::Failures).unwrap();
        assert_eq!(ran.counts.failed, 1);
        assert!(ran.failures.contains("x ended with signal: 9"), "{}", ran.failures);
    }

    #[test]
    fn what_a_failed_test_printed_is_kept() {
        let text = "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nleft: 1\n\n\n\
                    failures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        assert_eq!(failures_in(text), "    ---- b stdout ----\n    left: 1\n");
        assert_eq!(failures_in("test a ... ok\ntest result: ok. 1 passed\n"), "");
    }

    #[test]
    fn of_what_a_failed_test_printed_the_middle_is_left_out() {
        let lines: Vec<String> = (1..=3 * FAILURE_LINES).map(|line| format!("<{line}>")).collect();
        let text = format!("\nfailures:\n---- a stdout ----\n{}\nfailures:\n", lines.join("\n"));
        let kept = failures_in(&text);
        let left_out = 2 * FAILURE_LINES + 1;
        let last = 3 * FAILURE_LINES;
        assert!(kept.starts_with("    ---- a stdout ----\n    <1>\n"), "{kept}");
        assert!(kept.contains(&format!("    … {left_out} lines …\n")), "{kept}");
        assert!(kept.ends_with(&format!("    <{last}>\n")), "{kept}");
        assert_eq!(kept.lines().count(), FAILURE_LINES + 1);
    }

    #[test]
    fn of_each_failed_test_what_it_said_and_where_is_kept_and_no_more() {
        let block = |name: &str| {
            format!(
                "---- {name} stdout ----\n\nError: {name} broke {}\n\nStack backtrace:\n   \
                 0: tokio::run\n             at /elsewhere/tokio/run.rs:1:1\n   1: {name}\n\
                              at ./tests/{name}.rs:7:5\n{}",
                "é".repeat(FAILURE_COLUMNS),
                "             at ./tests/deeper.rs:8:9\n".repeat(FAILURE_LINES),
            )
        };
        let text = format!("\nfailures:\n\n{}\n{}\nfailures:\n    a\n", block("a"), block("b"));
        let kept = failures_in(&text);
        for name in ["a", "b"] {
            assert!(kept.contains(&format!("    Error: {name} broke éé")), "{kept}");
            assert!(kept.contains(&format!("at ./tests/{name}.rs:7:5\n")), "{kept}");
        }
        assert!(!kept.contains("elsewhere") && kept.contains(" …\n"), "{kept}");
        assert_eq!(kept.lines().count(), 2 * (FAILURE_LINES + 1), "{kept}");
    }
}
