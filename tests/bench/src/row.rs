//! The rows of the two reports, as they are written to JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::growth::Curve;
use crate::statistics::Bounds;

/// How far A/A may stray from 1.
const STRAY_MAX: f64 = 0.03;

/// What is demanded of a ratio (or of a value, where there is no peer).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Target {
    /// Whether the interval meets it, its worse end too.
    pub fn is_met(self, low: f64, high: f64) -> bool {
        match self {
            Target::AtMost(limit) => high <= limit,
            Target::AtLeast(limit) => low >= limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::AtMost(limit) => write!(f, "≤ {limit}"),
            Target::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The result of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The target is met.
    Pass,
    /// It is not.
    Fail,
    /// The machine was too restless to tell, or the load was not reached.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::Inconclusive => "inconclusive",
        })
    }
}

/// A row of `cargo xtask bench`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `P1-etcd-p50`.
    pub id: String,
    /// What was measured.
    pub what: String,
    /// Our figure, in `unit`.
    pub ours: f64,
    /// The peer's, in `unit`; none where the target is absolute.
    pub peer: Option<f64>,
    /// Of `ours` and `peer`.
    pub unit: String,
    /// Ours to the peer's.
    pub ratio: Option<f64>,
    /// Lower end of the 95 % interval of the ratio, without a peer of our figure.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The peer against itself, 1 on a quiet machine.
    pub aa: Option<f64>,
    /// What is demanded.
    pub target: Target,
    /// Whether it is met.
    pub verdict: Verdict,
    /// What the figure was fitted to, where it is an exponent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
}

impl Row {
    /// A row whose target is a ratio to a peer.
    pub fn relative(
        (id, what, unit): (&str, &str, &str),
        (ours, peer): (f64, f64),
        ratio: Bounds,
        aa: f64,
        target: Target,
    ) -> Row {
        Row {
            id: id.to_owned(),
            what: what.to_owned(),
            ours,
            peer: Some(peer),
            unit: unit.to_owned(),
            ratio: Some(ratio.estimate),
            low: ratio.low,
            high: ratio.high,
            aa: Some(aa),
            target,
            verdict: verdict(ratio.low, ratio.high, Some(aa), target),
            curve: None,
        }
    }

    /// A row whose target is the figure itself: memory, an exponent. `aa` is a repetition to the
    /// first measurement, where there is one.
    pub fn absolute(
        (id, what, unit): (&str, &str, &str),
        ours: Bounds,
        aa: Option<f64>,
        target: Target,
    ) -> Row {
        Row {
            id: id.to_owned(),
            what: what.to_owned(),
            ours: ours.estimate,
            peer: None,
            unit: unit.to_owned(),
            ratio: None,
            low: ours.low,
            high: ours.high,
            aa,
            target,
            verdict: verdict(ours.low, ours.high, aa, target),
            curve: None,
        }
    }
}

fn verdict(low: f64, high: f64, aa: Option<f64>, target: Target) -> Verdict {
    let is_number = low.is_finite() && high.is_finite();
    let is_steady = aa.is_none_or(|aa| (aa - 1.0).abs() <= STRAY_MAX);
    match target.is_met(low, high) {
        _ if !is_number || !is_steady => Verdict::Inconclusive,
        true => Verdict::Pass,
        false => Verdict::Fail,
    }
}

/// A row of `cargo xtask chaos`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChaosRow {
    /// `R4-zookeeper`.
    pub id: String,
    /// What was done to whom.
    pub what: String,
    /// How much of the load was done.
    pub done: u64,
    /// How often the promise was broken.
    pub violations: u64,
    /// Counts, and the first violation.
    pub detail: String,
    /// What is demanded.
    pub target: String,
    /// Whether it is met.
    pub verdict: Verdict,
}

impl ChaosRow {
    /// A row that passes with no violation and all of the load, fails with a violation, and is
    /// inconclusive when less than `wanted` was done.
    pub fn new(id: &str, what: &str, target: &str, wanted: u64, done: u64) -> ChaosRow {
        let verdict = if done >= wanted { Verdict::Pass } else { Verdict::Inconclusive };
        ChaosRow {
            id: id.to_owned(),
            what: what.to_owned(),
            done,
            violations: 0,
            detail: String::new(),
            target: target.to_owned(),
            verdict,
        }
    }

    /// With this many violations.
    #[must_use]
    pub fn violations(mut self, violations: u64) -> ChaosRow {
        self.violations = violations;
        if violations > 0 {
            self.verdict = Verdict::Fail;
        }
        self
    }

    /// With this text, or as much of it as a cell of a table may have.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> ChaosRow {
        self.detail = detail.into();
        if let Some((end, _)) = self.detail.char_indices().nth(DETAIL_CHARS_MAX) {
            self.detail.truncate(end);
            self.detail.push('…');
        }
        self
    }
}

/// Most characters of a detail.
const DETAIL_CHARS_MAX: usize = 400;
