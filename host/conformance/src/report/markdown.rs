//! A table over several plugins: what each was measured to keep.

use std::fmt::Write;

use super::{Report, Verdict};
use crate::features::FEATURES;

/// Promises and features as rows, plugins as columns.
#[must_use]
pub fn markdown(reports: &[Report]) -> String {
    let mut text = features(reports);
    for promise in promises() {
        let cells: Vec<&str> = reports.iter().map(|report| cell(report.verdict(promise))).collect();
        let _ = writeln!(text, "| `{promise}` | {} |", cells.join(" | "));
    }
    text
}

/// Features as rows, and all promises in one, plugins as columns.
#[must_use]
pub fn overview(reports: &[Report]) -> String {
    let mut text = features(reports);
    let kept = |report: &Report| {
        let all: Vec<Verdict> =
            promises().into_iter().filter_map(|it| report.verdict(it)).collect();
        let measured = all.iter().filter(|verdict| **verdict != Verdict::Skipped);
        let kept = measured.clone().filter(|verdict| **verdict == Verdict::Pass).count();
        format!("{kept} of {}", measured.count())
    };
    let cells: Vec<String> = reports.iter().map(kept).collect();
    let _ = writeln!(text, "| promises that bind every plugin, kept | {} |", cells.join(" | "));
    text
}

fn features(reports: &[Report]) -> String {
    let mut text = String::new();
    let heads: Vec<String> =
        reports.iter().map(|report| format!("{} {}", report.plugin, report.version)).collect();
    let _ = writeln!(text, "| | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}", ":-:|".repeat(reports.len()));
    for feature in FEATURES {
        let cells: Vec<&str> =
            reports.iter().map(|report| feature_cell(report, feature.name)).collect();
        let _ = writeln!(text, "| `{}`: {} | {} |", feature.name, feature.says, cells.join(" | "));
    }
    text
}

/// What is no feature, in the order of the checks.
fn promises() -> Vec<&'static str> {
    let mut promises: Vec<&str> = Vec::new();
    for check in crate::checks() {
        let promise = check.promise();
        let is_feature = FEATURES.iter().any(|feature| feature.name == promise);
        if !is_feature && !promises.contains(&promise) {
            promises.push(promise);
        }
    }
    promises
}

fn feature_cell(report: &Report, name: &str) -> &'static str {
    let Some(feature) = report.features.iter().find(|feature| feature.name == name) else {
        return "";
    };
    match (feature.declared, feature.verdict) {
        (false, Some(Verdict::Fail)) => "✗",
        (false, _) => "–",
        (true, verdict) => cell(verdict),
    }
}

fn cell(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Pass) => "✓",
        Some(Verdict::Fail) => "✗",
        Some(Verdict::Inconclusive) => "?",
        Some(Verdict::Skipped) => "·",
        None => "",
    }
}
