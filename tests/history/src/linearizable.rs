//! Is each key a linearizable register?
//!
//! The method is that of Wing and Gong with Lowe's memoisation: operations are put in an order that
//! respects real time, depth first, and no configuration (set of operations done, state) is visited
//! twice. Two observations keep it fast where outcomes are unknown:
//!
//! - An answered operation that fits and leaves the state as it is may always come first.
//! - An operation with unknown outcome need only be considered just before one that cannot do
//!   without it. (Otherwise it can be left out, or moved behind.) So it costs nothing until its
//!   value is seen.

mod excerpt;
mod model;
mod search;

use std::collections::BTreeMap;

use crate::{Operation, Report};
use model::Model;
use search::Verdict;

/// How many configurations are visited for one key before the checker gives up on it.
pub const CONFIGURATIONS_MAX: usize = 5_000_000;

/// Checks that each key behaves as a linearizable register with get, put, delete, and puts and
/// deletes under an expectation. All keys are absent at the beginning.
pub fn check_linearizable(operations: &[Operation]) -> Report {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    let mut report = Report { checked: operations.len() as u64, ..Report::default() };
    for (key, operations) in by_key {
        let model = Model::new(&operations);
        match search::run(&model, &model.steps(), CONFIGURATIONS_MAX).0 {
            Verdict::Linearizable => {}
            Verdict::GaveUp => report.undecided.push(format!("key {key}")),
            Verdict::Violated => {
                let excerpt = excerpt::minimal(&model, &operations);
                report.violation("linearizability", &format!("key {key}"), excerpt);
            }
        }
    }
    report
}
