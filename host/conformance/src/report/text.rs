//! The report for a person at a terminal.

use std::fmt::Write;

use super::{CheckReport, Report, Verdict};

impl CheckReport {
    /// One line: verdict, id, what was to be seen, and why not.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { id, says, verdict, reason, took_ms, .. } = self;
        let verdict = verdict.as_str();
        let mut line = format!("{verdict:12} {id:34} {says}");
        if *took_ms >= 1_000 {
            let _ = write!(line, " ({} s)", took_ms / 1_000);
        }
        if !reason.is_empty() {
            let _ = write!(line, "\n{:12} {reason}", "");
        }
        line
    }
}

impl Report {
    /// Features, counts, and everything that is no pass with its evidence.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Self { plugin, version, backend, .. } = self;
        let _ = writeln!(text, "{plugin} {version} on backend {backend}");
        let _ = writeln!(text, "offers {}", self.capabilities.join(", "));
        let _ = writeln!(text, "\nfeatures");
        for feature in &self.features {
            let (mark, words) = match (feature.declared, feature.verdict) {
                (true, Some(Verdict::Pass)) => ("✓", "kept"),
                (true, Some(Verdict::Fail)) => ("✗", "declared, and NOT kept"),
                (true, Some(Verdict::Inconclusive)) => ("?", "declared; it could not be told"),
                (true, _) => ("·", "declared; not checked"),
                (false, Some(Verdict::Fail)) => ("✗", "not declared, and NOT refused"),
                (false, _) => ("–", "not declared"),
            };
            let _ = writeln!(text, "  {mark} {:30} {words}", feature.name);
        }
        for check in &self.checks {
            if matches!(check.verdict, Verdict::Fail | Verdict::Inconclusive) {
                let _ = writeln!(text, "\n{}", check.line());
                for line in &check.evidence {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
        let counts = [Verdict::Pass, Verdict::Fail, Verdict::Skipped, Verdict::Inconclusive]
            .map(|verdict| format!("{} {}", self.count(verdict), verdict.as_str()));
        let seconds = self.took_ms / 1_000;
        let _ =
            write!(text, "\n{} checks in {seconds} s: {}", self.checks.len(), counts.join(", "));
        text
    }
}
