//! Runs the checks, several at a time, and tells how they end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt};

use crate::{
    check::{Check, Need, Stop},
    checks,
    features::{self, Refusal},
    hook::Hooks,
    report::{CheckReport, Report, Verdict},
    subject::Subject,
    trial::Trial,
};

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave out what is slow.
    pub smoke: bool,
    /// Only checks of these ids, or of ids that go on behind a dot or slash; all when empty.
    pub only: Vec<String>,
    /// Checks that run at the same time. Most of a check is waiting.
    pub parallel: usize,
    /// What the operator lends the suite.
    pub hooks: Hooks,
}

impl Default for Options {
    fn default() -> Self {
        Self { smoke: false, only: Vec::new(), parallel: 8, hooks: Hooks::default() }
    }
}

/// One more check has ended.
#[derive(Debug)]
pub struct Progress<'a> {
    /// How many have ended.
    pub done: usize,
    /// How many there are.
    pub total: usize,
    /// How it ended.
    pub check: &'a CheckReport,
}

/// A check that takes longer is given up; the slowest wait for a lease of some seconds to end.
const CHECK_MAX: Duration = Duration::from_secs(90);

/// Runs the checks that apply and makes the report.
pub async fn measure(
    subject: Arc<Subject>,
    options: &Options,
    mut progress: impl FnMut(Progress<'_>),
) -> Report {
    let began = Instant::now();
    let wanted: Vec<&Check> = checks::GROUPS
        .iter()
        .flat_map(|group| group.iter())
        .filter(|check| options.wants(check) && applies(check, &subject))
        .collect();
    let total = wanted.len();
    // What makes the server forget takes from the others what they are about to read.
    let forgets = |check: &&Check| check.forgets && options.hooks.forget.is_some();
    let (last, first): (Vec<&Check>, Vec<&Check>) = wanted.into_iter().partition(forgets);
    let start = |check| run(Arc::clone(&subject), check, options.hooks.clone()).boxed();
    let mut running = futures::stream::iter(first)
        .map(start)
        .buffer_unordered(options.parallel.max(1))
        .chain(futures::stream::iter(last).then(start));
    let mut reports: Vec<CheckReport> = Vec::new();
    while let Some(report) = running.next().await {
        progress(Progress { done: reports.len() + 1, total, check: &report });
        reports.push(report);
    }
    drop(running);
    Report::new(&subject, options.smoke, began.elapsed(), reports)
}

impl Options {
    fn wants(&self, check: &Check) -> bool {
        let named = self.only.iter().any(|start| {
            let rest = check.id.strip_prefix(start.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
        });
        (self.only.is_empty() || named) && !(self.smoke && check.slow)
    }
}

/// Whether the plugin offers what the check is about at all.
fn applies(check: &Check, subject: &Subject) -> bool {
    let offered = &subject.plugin().capabilities;
    let further = check.needs.iter().all(|need| match need {
        Need::Capability(capability) => offered.contains(capability),
        _ => true,
    });
    further && check.capability().is_none_or(|capability| offered.contains(&capability))
}

async fn run(subject: Arc<Subject>, check: &'static Check, hooks: Hooks) -> CheckReport {
    let began = Instant::now();
    let mut trial = Trial::new(subject, hooks);
    let run = async {
        admit(check, &mut trial).await?;
        (check.run)(&mut trial).await
    };
    let outcome = tokio::time::timeout(CHECK_MAX, run).await.unwrap_or_else(|_| {
        Err(Stop::Unclear(format!("it was given up after {} s", CHECK_MAX.as_secs())))
    });
    let took = began.elapsed();
    let (verdict, reason) = match outcome {
        Ok(()) => (Verdict::Pass, String::new()),
        Err(Stop::Broken(reason)) => (Verdict::Fail, reason),
        Err(Stop::Unclear(reason)) => (Verdict::Inconclusive, reason),
        Err(Stop::Skipped(reason)) => (Verdict::Skipped, reason),
    };
    let evidence = match verdict {
        Verdict::Fail | Verdict::Inconclusive => trial.evidence.lines(),
        Verdict::Pass | Verdict::Skipped => Vec::new(),
    };
    trial.end().await;
    CheckReport::new(check, verdict, reason, took, evidence)
}

/// Sees to what the check needs. A feature that is not declared has to be refused.
async fn admit(check: &Check, trial: &mut Trial) -> Result<(), Stop> {
    let skipped = |reason: &str| Err(Stop::Skipped(reason.to_owned()));
    for need in check.needs {
        match need {
            Need::Network if !trial.subject.has_network() => {
                return skipped("the backend has no endpoints, so there is no network to break");
            }
            Need::Keeps if !trial.subject.keeps() => {
                return skipped("nothing of it outlives the incarnation");
            }
            Need::Shares if !trial.subject.shares() => {
                return skipped("two incarnations cannot work on the same data at once");
            }
            Need::Feature(name) if !trial.has(name) => return refused(name, trial).await,
            _ => {}
        }
    }
    Ok(())
}

async fn refused(name: &str, trial: &mut Trial) -> Result<(), Stop> {
    let Some(feature) = features::find(name) else {
        return Err(Stop::Unclear(format!("the suite does not know the feature `{name}`")));
    };
    let owner = trial.owner("a").await?;
    Err(match features::refusal(feature, &owner, trial.undeclared(name)).await? {
        Refusal::Refused => Stop::Skipped(format!("`{name}` is not declared, and refused")),
        Refusal::Unasked => Stop::Skipped(format!("`{name}` is not declared")),
        Refusal::Ignored(what) => Stop::Broken(format!(
            "`{name}` is not declared, so asking for it has to answer `unsupported`: {what}"
        )),
    })
}
