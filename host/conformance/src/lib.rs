//! Measures what a plugin keeps of what the interface promises.
//!
//! The WIT packages state promises, each with an id in braces, and features, which are promises that
//! a plugin may decline. For each there is at least one [`Check`]: a small function that drives one
//! incarnation of the plugin, or several, call by call, and says what it saw. The verdicts make the
//! plugin's *measured* capabilities, next to what it declares.
//!
//! ```no_run
//! # async fn example(settings: pintle::settings::Settings) -> Result<(), Box<dyn std::error::Error>> {
//! use pintle_conformance::{Options, Subject, measure};
//!
//! let bench = pintle::direct::Bench::open(settings)?;
//! let report = match Subject::open(&bench, "main").await {
//!     Ok(subject) => measure(subject, &Options::default(), |_| {}).await,
//!     Err(report) => *report,
//! };
//! println!("{}", report.text());
//! # Ok(())
//! # }
//! ```
//!
//! Core promises are checked of every plugin. A feature that is declared and not kept is a failure,
//! and so is one that is not declared and accepted all the same: it has to be refused.

mod check;
mod checks;
mod evidence;
mod features;
mod hook;
mod inbox;
mod owner;
mod pace;
mod report;
mod runner;
mod subject;
mod trial;
mod view;

pub use check::{Check, Need};
pub use features::{FEATURES, Feature};
pub use hook::{Facts, Hook, Hooks};
pub use report::{CheckReport, FeatureReport, Report, Verdict, markdown, overview};
pub use runner::{Options, Progress, measure};
pub use subject::Subject;

/// Every check, by capability.
#[must_use]
pub fn checks() -> Vec<&'static Check> {
    checks::GROUPS.iter().flat_map(|group| group.iter()).collect()
}
