//! The rows that benchmarks and fault injection write, their verdict, and their table.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::build::Profile;
use crate::report::timed;
use crate::target::GuestToolchain;
use crate::workspace::Workspace;
use crate::{build, cargo, install, process, suites};

/// What is done about one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Inconclusive,
}

/// One kind of row.
pub(crate) trait Row: Serialize + DeserializeOwned {
    /// The headings of its table.
    const HEADINGS: &'static [&'static str];
    /// The cells under them.
    fn cells(&self) -> Vec<String>;
    fn verdict(&self) -> Verdict;
}

/// A family of measuring programs: the binaries `<prefix>NAME` of the suites' package.
pub(crate) struct Family {
    pub(crate) prefix: &'static str,
}

impl Family {
    /// The names of the programs, without the prefix.
    pub(crate) fn names(&self, workspace: &Workspace) -> Result<Vec<String>> {
        let package = workspace.package(suites::PACKAGE)?;
        let names = package.target_names("bin").filter_map(|name| name.strip_prefix(self.prefix));
        Ok(names.map(str::to_owned).collect())
    }

    /// The one that is named, or all of them.
    pub(crate) fn choose(&self, workspace: &Workspace, name: Option<&str>) -> Result<Vec<String>> {
        let names = self.names(workspace)?;
        let Some(name) = name else {
            if names.is_empty() {
                bail!("there is no binary `{}…` in {} yet", self.prefix, suites::PACKAGE);
            }
            return Ok(names);
        };
        if names.iter().any(|known| known == name) {
            return Ok(vec![name.to_owned()]);
        }
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        bail!("there is no `{name}`; there are: {known}")
    }

    /// Builds the host and the named programs with the plugins, and runs one after the other.
    pub(crate) fn run<R: Row>(
        &self,
        workspace: &Workspace,
        names: &[String],
        profile: Profile,
        arguments: &[&str],
    ) -> Result<Vec<R>> {
        self.prepare(workspace, names, profile)?;
        let mut rows = Vec::new();
        for name in names {
            let found: Vec<R> = timed(name, || {
                self.run_built(workspace, name, profile, None, |command| {
                    command.args(arguments);
                })
            })?;
            rows.extend(found);
        }
        Ok(rows)
    }

    /// Builds the host and the named programs with the plugins.
    pub(crate) fn prepare(
        &self,
        workspace: &Workspace,
        names: &[String],
        profile: Profile,
    ) -> Result<()> {
        if install::needs_protoc(workspace)? {
            install::programs(&[install::PROTOC])?;
        }
        timed("build the host and what measures it", || self.build(workspace, names, profile))?;
        timed("build the plugins and fixtures", || {
            let toolchain = GuestToolchain::ensure(workspace, false)?;
            build::plugins(workspace, &toolchain)?;
            build::fixtures(workspace, &toolchain)
        })?;
        Ok(())
    }

    fn build(&self, workspace: &Workspace, names: &[String], profile: Profile) -> Result<()> {
        let mut command = cargo::command();
        command.current_dir(&workspace.root).args(["build", "--workspace", "--bin", "pintle"]);
        for name in names {
            command.args(["--bin", &format!("{}{name}", self.prefix)]);
        }
        process::run(command.args(profile.arguments()))
    }

    /// Runs one program that is built, as `arrange` says, and reads its rows. One that takes longer than
    /// `limit` is ended, and that is an error.
    pub(crate) fn run_built<R: Row>(
        &self,
        workspace: &Workspace,
        name: &str,
        profile: Profile,
        limit: Option<Duration>,
        arrange: impl FnOnce(&mut Command),
    ) -> Result<Vec<R>> {
        let program = format!("{}{name}", self.prefix);
        let folder = workspace.target.join("reports");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join(format!("{program}.json"));
        // An old report must not be taken for this run's.
        if file.exists() {
            std::fs::remove_file(&file)
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
        let mut command = Command::new(workspace.target.join(profile.folder()).join(&program));
        command.current_dir(&workspace.root).arg("--json").arg(&file);
        arrange(&mut command);
        let status = process::status_within(&mut command, limit.unwrap_or(Duration::MAX))?;
        // It may exit with 1 for a row that fails: the rows say so better.
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("{program} ({status}) wrote no {}", file.display()))?;
        let rows: Vec<R> = serde_json::from_str(&text)
            .with_context(|| format!("{} is not as agreed", file.display()))?;
        if rows.is_empty() || (!status.success() && passes(&rows)) {
            bail!("{program} ended with {status} and {} rows", rows.len());
        }
        Ok(rows)
    }
}

/// Prints the table, writes the file if one is wanted, and gives the exit code.
pub(crate) fn publish<R: Row>(rows: &[R], json: Option<&PathBuf>) -> Result<ExitCode> {
    println!("\n{}", table(rows));
    if let Some(path) = json {
        write(rows, path)?;
        eprintln!("written to {}", path.display());
    }
    Ok(if passes(rows) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether every row passes; an inconclusive one does not.
pub(crate) fn passes<R: Row>(rows: &[R]) -> bool {
    rows.iter().all(|row| row.verdict() == Verdict::Pass)
}

/// A number with as many digits as help a reader.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

impl Verdict {
    /// The word in reports.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Inconclusive => "inconclusive",
        }
    }
}

fn write<R: Row>(rows: &[R], path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(rows).context("cannot write the rows as JSON")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn table<R: Row>(rows: &[R]) -> String {
    let mut lines: Vec<Vec<String>> =
        vec![R::HEADINGS.iter().map(|heading| (*heading).to_owned()).collect()];
    lines.extend(rows.iter().map(R::cells));
    let mut widths = vec![0; R::HEADINGS.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::BenchRow;

    fn row(verdict: &str) -> BenchRow {
        let text = format!(
            r#"{{"id":"P6","what":"fan-out","ours":2.0,"peer":41.5,"unit":"ms","ratio":20.75,
                "low":20.1,"high":21.0,"aa":1.01,"target":">= 20","verdict":"{verdict}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_a_pass_passes() {
        assert!(passes(&[row("pass")]));
        assert!(!passes(&[row("pass"), row("inconclusive")]));
        assert!(!passes(&[row("fail")]));
    }

    #[test]
    fn columns_line_up() {
        let text = table(&[row("pass"), row("fail")]);
        let column = text.lines().next().unwrap().find("verdict").unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(&lines[0][column..], "pass");
        assert_eq!(&lines[1][column..], "FAIL");
    }

    #[test]
    fn rows_are_written_as_they_were_read() {
        let text = serde_json::to_string(&row("inconclusive")).unwrap();
        assert!(text.contains(r#""verdict":"inconclusive""#), "{text}");
        assert!(text.contains(r#""aa":1.01"#), "{text}");
    }
}
