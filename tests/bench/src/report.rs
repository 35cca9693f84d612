//! Rows together: table, JSON, exit code.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::{ChaosRow, Row, Verdict};

/// A row as text.
pub trait Cells: Serialize {
    /// The heads of the columns.
    const HEADS: &'static [&'static str];

    /// One text for each column.
    fn cells(&self) -> Vec<String>;

    /// Its result.
    fn verdict(&self) -> Verdict;

    /// What is shown below the table.
    fn plot(&self) -> Option<String> {
        None
    }
}

/// The rows of one run.
#[derive(Debug, Clone)]
pub struct Report<R> {
    rows: Vec<R>,
}

impl<R> Default for Report<R> {
    fn default() -> Report<R> {
        Report { rows: Vec::new() }
    }
}

impl<R> Extend<R> for Report<R> {
    fn extend<I: IntoIterator<Item = R>>(&mut self, rows: I) {
        self.rows.extend(rows);
    }
}

impl<R: Cells> Report<R> {
    /// Adds a row.
    pub fn push(&mut self, row: R) {
        self.rows.push(row);
    }

    /// The rows so far.
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// Prints the table to standard output.
    #[allow(clippy::print_stdout, reason = "this is what it is for")]
    pub fn print(&self) {
        print!("{self}");
    }

    /// Writes the rows as one JSON array.
    ///
    /// # Errors
    /// When the file cannot be written; the error names it.
    pub fn write_json(&self, file: &Path) -> io::Result<()> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display()))
        };
        let mut json = serde_json::to_vec_pretty(&self.rows).map_err(|e| named(e.into()))?;
        json.push(b'\n');
        std::fs::write(file, json).map_err(named)
    }

    /// Whether there are rows and all of them pass.
    pub fn is_passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.verdict() == Verdict::Pass)
    }

    /// Success only when all rows pass.
    pub fn exit_code(&self) -> ExitCode {
        if self.is_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl<R: Cells> fmt::Display for Report<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = R::HEADS.iter().map(|head| (*head).to_owned()).collect();
        let table: Vec<Vec<String>> =
            std::iter::once(heads).chain(self.rows.iter().map(Cells::cells)).collect();
        let width = |column: usize| {
            let cells = table.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..R::HEADS.len()).map(width).collect();
        for line in &table {
            let padded: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", padded.join("  ").trim_end())?;
        }
        for plot in self.rows.iter().filter_map(Cells::plot) {
            write!(f, "\n{plot}")?;
        }
        Ok(())
    }
}

impl Cells for Row {
    const HEADS: &'static [&'static str] =
        &["id", "what", "ours", "peer", "unit", "ratio", "95 %", "A/A", "target", "verdict"];

    fn cells(&self) -> Vec<String> {
        let optional = |value: Option<f64>| value.map_or("–".to_owned(), short);
        vec![
            self.id.clone(),
            self.what.clone(),
            short(self.ours),
            optional(self.peer),
            self.unit.clone(),
            optional(self.ratio),
            format!("{} … {}", short(self.low), short(self.high)),
            optional(self.aa),
            self.target.to_string(),
            self.verdict.to_string(),
        ]
    }

    fn verdict(&self) -> Verdict {
        self.verdict
    }

    fn plot(&self) -> Option<String> {
        self.curve.as_ref().map(|curve| curve.plot(&self.id))
    }
}

impl Cells for ChaosRow {
    const HEADS: &'static [&'static str] =
        &["id", "what", "done", "violations", "target", "verdict", "detail"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.what.clone(),
            self.done.to_string(),
            self.violations.to_string(),
            self.target.clone(),
            self.verdict.to_string(),
            self.detail.lines().next().unwrap_or_default().to_owned(),
        ]
    }

    fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// About four digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
