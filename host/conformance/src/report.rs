//! What was measured: as data, as text, and as a table over several plugins.

mod markdown;
mod text;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{check::Check, features::FEATURES, subject::Subject};
pub use markdown::{markdown, overview};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does not apply: a feature that is not declared, and is refused; no network to break.
    Skipped,
    /// The promise is kept, as far as the check can see.
    Pass,
    /// It cannot be told.
    Inconclusive,
    /// The promise is broken.
    Fail,
}

/// A plugin's measured capabilities.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Name of the plugin.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Hash of its file.
    pub sha256: String,
    /// Name of the backend that it was measured on.
    pub backend: String,
    /// What it offers.
    pub capabilities: Vec<String>,
    /// Whether slow checks were left out.
    pub smoke: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The features of what it offers.
    pub features: Vec<FeatureReport>,
    /// The checks, in their order.
    pub checks: Vec<CheckReport>,
}

/// A feature: declared and kept, or not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FeatureReport {
    /// Its name.
    pub name: String,
    /// Whether the plugin declares it.
    pub declared: bool,
    /// The worst verdict of its checks; none when none ran.
    pub verdict: Option<Verdict>,
}

/// One check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckReport {
    /// Its id.
    pub id: String,
    /// The promise that it is about.
    pub promise: String,
    /// What was to be seen.
    pub says: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it is no pass: what was expected, and what came.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What was asked and answered, with times, when it is no pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

impl CheckReport {
    pub(crate) fn new(
        check: &Check,
        verdict: Verdict,
        reason: String,
        took: Duration,
        evidence: Vec<String>,
    ) -> Self {
        Self {
            id: check.id.to_owned(),
            promise: check.promise().to_owned(),
            says: check.says.to_owned(),
            verdict,
            reason,
            took_ms: millis(took),
            evidence,
        }
    }
}

impl Report {
    pub(crate) fn new(
        subject: &Subject,
        smoke: bool,
        took: Duration,
        mut checks: Vec<CheckReport>,
    ) -> Self {
        let order: BTreeMap<&str, usize> =
            crate::checks().iter().enumerate().map(|(at, check)| (check.id, at)).collect();
        checks.sort_by_key(|check| order.get(check.id.as_str()).copied());
        let plugin = subject.plugin();
        let worst = |name: &str| {
            let about = checks.iter().filter(|check| check.promise == name);
            about.map(|check| check.verdict).max()
        };
        let features = FEATURES
            .iter()
            .filter(|feature| plugin.capabilities.contains(&feature.capability))
            .map(|feature| FeatureReport {
                name: feature.name.to_owned(),
                declared: plugin.features.contains(feature.name),
                verdict: worst(feature.name),
            })
            .collect();
        Self {
            plugin: plugin.name.clone(),
            version: plugin.version.clone(),
            sha256: plugin.sha256.clone(),
            backend: subject.backend().to_owned(),
            capabilities: plugin.capabilities.iter().map(ToString::to_string).collect(),
            smoke,
            took_ms: millis(took),
            features,
            checks,
        }
    }

    /// The report on a plugin that cannot be loaded.
    pub(crate) fn unusable(backend: &str, verdict: Verdict, reason: String) -> Self {
        let describe = crate::checks().into_iter().find(|check| check.id == "plugin.describe-bare");
        let checks = describe
            .map(|check| CheckReport::new(check, verdict, reason, Duration::ZERO, Vec::new()));
        Self {
            plugin: String::new(),
            version: String::new(),
            sha256: String::new(),
            backend: backend.to_owned(),
            capabilities: Vec::new(),
            smoke: false,
            took_ms: 0,
            features: Vec::new(),
            checks: checks.into_iter().collect(),
        }
    }

    /// The same without what differs from run to run: times, and evidence.
    #[must_use]
    pub fn without_times(&self) -> Self {
        let steady =
            |check: &CheckReport| CheckReport { took_ms: 0, evidence: Vec::new(), ..check.clone() };
        let checks = self.checks.iter().map(steady).collect();
        Self { took_ms: 0, sha256: String::new(), checks, ..self.clone() }
    }

    /// How many checks ended so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// Whether every promise that could be checked is kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        let good = |check: &CheckReport| matches!(check.verdict, Verdict::Pass | Verdict::Skipped);
        !self.checks.is_empty() && self.checks.iter().all(good)
    }

    /// The worst verdict on a promise; none when it was not checked.
    #[must_use]
    pub fn verdict(&self, promise: &str) -> Option<Verdict> {
        let about = self.checks.iter().filter(|check| check.promise == promise);
        about.map(|check| check.verdict).max()
    }
}

impl Verdict {
    /// Its name in texts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skipped => "skipped",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
