//! Is each key a linearizable register?
//!
//! The method is that of Wing and Gong with Lowe's memoisation: operations are put in an order that
//! respects real time, depth first, and no configuration (set of operations done, state) is visited
//! twice. Three observations keep it fast:
//!
//! - An answered operation that fits and leaves the state as it is may always come first.
//! - An operation with unknown outcome need only be considered just before one that cannot do
//!   without it. (Otherwise it can be left out, or moved behind.) So it costs nothing until its
//!   value is seen.
//! - Where the search gets stuck, the few operations before mostly prove by themselves that no
//!   state whatever could have led there.

mod excerpt;
mod model;
mod search;

use std::collections::BTreeMap;

use crate::{Operation, Report};
use excerpt::Suspicion;
use model::{Model, State};
use search::Verdict;

/// How many steps are tried for one key before the checker gives up on it: some seconds' work.
pub const TRIALS_MAX: usize = 100_000_000;

/// How many steps are tried, for each step there is, before a proof by the last few is looked for.
const FIRST_TRIALS_PER_STEP_MAX: usize = 100;

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
        let subject = format!("key {key}");
        match check(&model) {
            Answer::Right => {}
            Answer::Undecided => report.undecided.push(subject),
            Answer::Wrong(suspicion) => {
                let excerpt = suspicion.minimal(&model).show(&operations);
                report.violation("linearizability", &subject, excerpt);
            }
        }
    }
    report
}

enum Answer {
    Right,
    Wrong(Suspicion),
    Undecided,
}

fn check(model: &Model) -> Answer {
    let steps = model.steps();
    let first_trials_max = (steps.len() * FIRST_TRIALS_PER_STEP_MAX).min(TRIALS_MAX);
    let first = search::run(model, &steps, State::Absent, first_trials_max);
    if first.verdict == Verdict::Linearizable {
        return Answer::Right;
    }
    if let Some(proved) = Suspicion::of_the_last_before(first.stuck_at, model) {
        return Answer::Wrong(proved);
    }
    let full = match first.verdict {
        Verdict::GaveUp => search::run(model, &steps, State::Absent, TRIALS_MAX).verdict,
        decided => decided,
    };
    match full {
        Verdict::Linearizable => Answer::Right,
        Verdict::Violated => Answer::Wrong(Suspicion::of_all(model)),
        Verdict::GaveUp => Answer::Undecided,
    }
}
