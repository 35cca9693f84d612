//! From a violated history to the few operations that show it.

use super::model::{Model, State, Step};
use super::search::{self, Verdict};
use crate::Operation;

/// Steps tried to prove or to shrink a suspicion: in all, and in one attempt for each step there is.
const TRIALS_MAX: usize = 5_000_000;
const TRIALS_PER_STEP_MAX: usize = 200;
const LINES_MAX: usize = 24;

/// Steps, and the states that may have been there before them; if no order of the steps fits to any
/// of these, the history is wrong.
pub(crate) struct Suspicion {
    steps: Vec<Step>,
    before: Vec<State>,
    trials_left: usize,
}

impl Suspicion {
    /// The whole history.
    pub(crate) fn of_all(model: &Model) -> Suspicion {
        let mut whole = Suspicion::new(model.steps(), vec![State::Absent]);
        whole.shorten(model);
        whole
    }

    /// Of the history up to this stamp the last part that is wrong by itself, whatever was before.
    pub(crate) fn of_the_last_before(stamp: u64, model: &Model) -> Option<Suspicion> {
        let steps = until(&model.steps(), stamp);
        let mut begins: Vec<u64> = steps.iter().map(|step| step.invoked).collect();
        begins.sort_unstable();
        for count in [20, 60, 200, 600, 2_000] {
            let from = begins.len().checked_sub(count).and_then(|first| begins.get(first).copied());
            let part = from_on(&steps, from.unwrap_or(0));
            let mut suspicion = Suspicion::new(part, Vec::new());
            suspicion.before = match from {
                Some(_) => model.states_that_matter(&suspicion.steps),
                None => vec![State::Absent],
            };
            if suspicion.is_founded(model) {
                return Some(suspicion);
            }
            // With all of it looked at there is no longer part.
            from?;
        }
        None
    }

    /// The operations without which it would not be wrong.
    pub(crate) fn minimal(mut self, model: &Model) -> Suspicion {
        self.trials_left = TRIALS_MAX;
        self.relax_all_it_can(model);
        self
    }

    /// One operation a line.
    pub(crate) fn show(mut self, operations: &[&Operation]) -> String {
        self.steps.retain(|step| step.result.is_some());
        self.steps.sort_by_key(|step| step.invoked);
        let shown = self.steps.iter().filter_map(|step| operations.get(step.index));
        let mut lines: Vec<String> = shown.map(|operation| format!("  {operation}")).collect();
        if lines.len() > LINES_MAX {
            let omitted = lines.len() - LINES_MAX;
            lines.drain(..omitted);
            lines.insert(0, format!("  … {omitted} earlier operations"));
        }
        lines.join("\n")
    }

    fn new(steps: Vec<Step>, before: Vec<State>) -> Suspicion {
        Suspicion { steps, before, trials_left: TRIALS_MAX }
    }

    fn is_founded(&mut self, model: &Model) -> bool {
        let steps = std::mem::take(&mut self.steps);
        let is_founded = self.is_wrong(model, &steps);
        self.steps = steps;
        is_founded
    }

    /// Whether these steps are certainly wrong, as far as the trials left tell.
    fn is_wrong(&mut self, model: &Model, steps: &[Step]) -> bool {
        for position in 0..self.before.len() {
            let Some(state) = self.before.get(position) else { break };
            let trials_max = self.trials_left.min((steps.len() + 10) * TRIALS_PER_STEP_MAX);
            let found = search::run(model, steps, *state, trials_max);
            self.trials_left = self.trials_left.saturating_sub(found.trials);
            if found.verdict != Verdict::Violated {
                // What explains this one explains its like: ask it first the next time.
                self.before.swap(0, position);
                return false;
            }
        }
        true
    }

    /// Keeps what had been seen at the earliest moment at which it was wrong already.
    fn shorten(&mut self, model: &Model) {
        let answered = self.steps.iter().filter(|step| step.result.is_some());
        let mut ends: Vec<u64> = answered.map(|step| step.returned).collect();
        ends.sort_unstable();
        let (mut low, mut high) = (0, ends.len());
        let end = |count: usize| {
            count.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0)
        };
        while low + 1 < high {
            let middle = (low + high) / 2;
            if self.is_wrong(model, &until(&self.steps.clone(), end(middle))) {
                high = middle;
            } else {
                low = middle;
            }
        }
        self.steps = until(&self.steps, end(high));
    }

    /// Relaxes step after step, in shrinking blocks, as long as the rest is still wrong.
    fn relax_all_it_can(&mut self, model: &Model) {
        let mut block = self.steps.len().div_ceil(2);
        while block > 0 && self.trials_left > 0 {
            let mut from = 0;
            while from < self.steps.len() {
                let to = (from + block).min(self.steps.len());
                let attempt = with_relaxed(&self.steps, from, to);
                if answered(&attempt) < answered(&self.steps) && self.is_wrong(model, &attempt) {
                    from = to - (self.steps.len() - attempt.len());
                    self.steps = attempt;
                } else {
                    from = to;
                }
            }
            block /= 2;
        }
    }
}

fn answered(steps: &[Step]) -> usize {
    steps.iter().filter(|step| step.result.is_some()).count()
}

/// What was known at this stamp.
fn until(steps: &[Step], end: u64) -> Vec<Step> {
    let begun = steps.iter().filter(|step| step.invoked <= end);
    begun
        .filter_map(|step| if step.returned <= end { Some(*step) } else { relaxed(step) })
        .collect()
}

/// What was begun from this stamp on, and what before it may take effect only later.
fn from_on(steps: &[Step], begin: u64) -> Vec<Step> {
    let may_be_later = |step: &&Step| step.result.is_none() || step.returned >= begin;
    steps
        .iter()
        .filter(may_be_later)
        .filter_map(|step| if step.invoked >= begin { Some(*step) } else { relaxed(step) })
        .collect()
}

/// The step with nothing known about its outcome: whatever is wrong with it was wrong before.
fn relaxed(step: &Step) -> Option<Step> {
    (!step.only_looks()).then_some(Step { result: None, ..*step })
}

fn with_relaxed(steps: &[Step], from: usize, to: usize) -> Vec<Step> {
    let block = from..to;
    let relax = |(position, step): (usize, &Step)| {
        if block.contains(&position) { relaxed(step) } else { Some(*step) }
    };
    steps.iter().enumerate().filter_map(relax).collect()
}
