//! From a violated history to the few operations that show it.

use super::model::{Model, Step};
use super::search::{self, Verdict};
use crate::Operation;

/// Configurations visited to make an excerpt small: in all, and in one attempt for each step.
const CONFIGURATIONS_MAX: usize = 2_000_000;
const CONFIGURATIONS_PER_STEP_MAX: usize = 100;
const LINES_MAX: usize = 24;

/// The operations without which the history would be right, one a line.
pub(crate) fn minimal(model: &Model, operations: &[&Operation]) -> String {
    let mut effort = Effort { model, left: CONFIGURATIONS_MAX };
    let mut steps = effort.shortest_prefix();
    effort.relax_all_it_can(&mut steps);
    steps.retain(|step| step.result.is_some());
    steps.sort_by_key(|step| step.invoked);
    let mut lines: Vec<String> = steps
        .iter()
        .filter_map(|step| operations.get(step.index))
        .map(|operation| format!("  {operation}"))
        .collect();
    if lines.len() > LINES_MAX {
        let omitted = lines.len() - LINES_MAX;
        lines.drain(..omitted);
        lines.insert(0, format!("  … {omitted} earlier operations"));
    }
    lines.join("\n")
}

struct Effort<'a> {
    model: &'a Model,
    left: usize,
}

impl Effort<'_> {
    /// Whether these steps are certainly wrong, as far as the effort left tells.
    fn is_violated(&mut self, steps: &[Step]) -> bool {
        let configurations_max = self.left.min(steps.len() * CONFIGURATIONS_PER_STEP_MAX);
        let (verdict, visited) = search::run(self.model, steps, configurations_max);
        self.left = self.left.saturating_sub(visited);
        verdict == Verdict::Violated
    }

    /// What had been seen at the earliest moment at which it was wrong already.
    fn shortest_prefix(&mut self) -> Vec<Step> {
        let steps = self.model.steps();
        let mut ends: Vec<u64> =
            steps.iter().filter(|step| step.result.is_some()).map(|step| step.returned).collect();
        ends.sort_unstable();
        let prefix = |count: usize| {
            let end = count.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0);
            until(&steps, end)
        };
        let (mut low, mut high) = (0, ends.len());
        while low + 1 < high {
            let middle = (low + high) / 2;
            if self.is_violated(&prefix(middle)) {
                high = middle;
            } else {
                low = middle;
            }
        }
        prefix(high)
    }

    /// Relaxes step after step, in shrinking blocks, as long as the rest is still wrong.
    fn relax_all_it_can(&mut self, steps: &mut Vec<Step>) {
        let mut block = steps.len().div_ceil(2);
        while block > 0 && self.left > 0 {
            let mut from = 0;
            while from < steps.len() {
                let to = (from + block).min(steps.len());
                let attempt = with_relaxed(steps, from, to);
                if answered(&attempt) < answered(steps) && self.is_violated(&attempt) {
                    from = to - (steps.len() - attempt.len());
                    *steps = attempt;
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

fn until(steps: &[Step], end: u64) -> Vec<Step> {
    let begun = steps.iter().filter(|step| step.invoked <= end);
    begun
        .filter_map(|step| if step.returned <= end { Some(*step) } else { relaxed(step) })
        .collect()
}

/// The step with nothing known about its outcome. Whatever is wrong with it was wrong before.
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
