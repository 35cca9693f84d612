//! Steps with their times while they run, and one table of them at the end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// How many tests a step ran.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

/// What a step says at its end.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    pub(crate) counts: Counts,
    pub(crate) detail: String,
    /// What failing tests printed, to be shown again at the end of the whole run.
    pub(crate) failures: String,
}

/// The steps done so far.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

struct Line {
    name: String,
    outcome: Outcome,
    took: Duration,
    finding: Finding,
}

impl Finding {
    /// A finding that is only words.
    pub(crate) fn detail(text: impl Into<String>) -> Self {
        Self { detail: text.into(), ..Self::default() }
    }
}

impl Counts {
    /// Adds another step's tests.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Report {
    /// Runs one step; its error is printed at once, and the next steps go on. Gives whether it
    /// passed.
    pub(crate) fn step(
        &mut self,
        name: &str,
        what: &str,
        work: impl FnOnce() -> Result<Finding>,
    ) -> bool {
        eprintln!("==> {name}: {what}");
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        let (outcome, finding) = match result {
            Ok(finding) if finding.counts.failed == 0 => (Outcome::Passed, finding),
            Ok(finding) => (Outcome::Failed, finding),
            Err(error) => {
                eprintln!("error: {error:#}");
                let text = format!("{error:#}");
                let first = text.lines().next().unwrap_or_default();
                (Outcome::Failed, Finding::detail(first))
            }
        };
        eprintln!("    {} {} in {}", name, outcome.word(), seconds(took));
        self.lines.push(Line { name: name.to_owned(), outcome, took, finding });
        outcome == Outcome::Passed
    }

    /// Notes a step that was not run, and why.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        eprintln!("==> {name}: skipped: {reason}");
        self.lines.push(Line {
            name: name.to_owned(),
            outcome: Outcome::Skipped,
            took: Duration::ZERO,
            finding: Finding::detail(reason),
        });
    }

    /// Whether no step failed.
    pub(crate) fn passed(&self) -> bool {
        self.lines.iter().all(|line| line.outcome != Outcome::Failed)
    }

    /// What failed, then the table of all steps; its last line counts tests, and checks as one
    /// test each.
    pub(crate) fn table(&self) -> String {
        let width = self.lines.iter().map(|line| line.name.len()).max().unwrap_or(0).max(4);
        let mut text = String::new();
        for line in self.lines.iter().filter(|line| !line.finding.failures.is_empty()) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "==> {} failed:\n{}", line.name, line.finding.failures);
        }
        let _ = writeln!(text, "{:width$}  result   {:>9}  detail", "step", "time");
        let mut total = Counts::default();
        for line in &self.lines {
            total.add(line.counts());
            let word = line.outcome.word();
            let time = seconds(line.took);
            let _ = writeln!(
                text,
                "{:width$}  {word:7}  {time:>9}  {}",
                line.name, line.finding.detail
            );
        }
        let Counts { passed, failed, skipped } = total;
        let _ = writeln!(text, "\n{passed} passed, {failed} failed, {skipped} skipped");
        text
    }
}

impl Line {
    fn counts(&self) -> Counts {
        let counts = self.finding.counts;
        if counts != Counts::default() {
            return counts;
        }
        match self.outcome {
            Outcome::Passed => Counts { passed: 1, ..counts },
            Outcome::Failed => Counts { failed: 1, ..counts },
            Outcome::Skipped => Counts { skipped: 1, ..counts },
        }
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// Prints a headline, does the work, and prints how long it took.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let value = work()?;
    eprintln!("    done in {}", seconds(start.elapsed()));
    Ok(value)
}

/// A duration for people: `0.3 s`, `2 min 5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_failed_step_fails_the_report_and_the_others_still_run() {
        let mut report = Report::default();
        assert!(!report.step("one", "fails", || Err(anyhow!("broken"))));
        assert!(report.step("two", "works", || Ok(Finding::default())));
        report.skip("three", "not today");
        assert!(!report.passed());
        let table = report.table();
        assert!(table.contains("broken"), "{table}");
        assert!(table.ends_with("\n1 passed, 1 failed, 1 skipped\n"), "{table}");
    }

    #[test]
    fn a_failed_test_fails_its_step() {
        let mut report = Report::default();
        let counts = Counts { passed: 3, failed: 1, skipped: 0 };
        let failures = "---- a ----\nleft: 1".to_owned();
        assert!(!report.step("unit", "", || Ok(Finding {
            counts,
            failures,
            ..Default::default()
        })));
        let table = report.table();
        assert!(table.starts_with("==> unit failed:\n---- a ----\nleft: 1\n"), "{table}");
        assert!(table.ends_with("3 passed, 1 failed, 0 skipped\n"), "{table}");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(340)), "0.3 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 5 s");
    }
}
