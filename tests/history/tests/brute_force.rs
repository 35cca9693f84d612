//! The register checker against trying all orders, on small histories right and wrong.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

mod simulated;

use pintle_test_history::{Answer, Call, Entry, Expect, Operation, Outcome, check_linearizable};
use simulated::Dice;

/// A history of a few operations with answers by chance, half of them unlikely to be right.
fn any_history(dice: &mut Dice) -> Vec<Operation> {
    let count = 2 + dice.roll(6);
    let value = |n: u64| format!("v{n}");
    let mut history = Vec::new();
    for n in 0..count {
        let expect = match dice.roll(4) {
            0 => Expect::Absent,
            1 => Expect::Exists,
            _ => Expect::Anything,
        };
        let shown = match dice.roll(count + 1) {
            0 => None,
            other => Some(Entry { value: value(other - 1), version: None }),
        };
        let (call, right) = match dice.roll(4) {
            0 | 1 => (Call::Get, Answer::Got(shown.clone())),
            2 => (Call::Delete { expect: expect.clone() }, Answer::Deleted),
            _ => (Call::Put { value: value(n), expect: expect.clone() }, Answer::Stored(None)),
        };
        let guarded = call != Call::Get && expect != Expect::Anything;
        let answer = match dice.roll(6) {
            0 if guarded => Answer::Stale(shown),
            1 if guarded => Answer::Refused,
            2 if matches!(call, Call::Delete { .. }) => Answer::Absent,
            _ => right,
        };
        let outcome = match dice.roll(8) {
            0 => Outcome::Failed,
            1 | 2 => Outcome::Unknown,
            _ => Outcome::Ok(answer),
        };
        let invoked = dice.roll(2 * count);
        let returned = invoked + 1 + dice.roll(count);
        let (client, key) = (n as u32, "k".to_owned());
        history.push(Operation { client, key, call, outcome, invoked, returned });
    }
    history
}

fn some_order_fits(history: &[Operation], done: u32, state: Option<&str>) -> bool {
    let is_done = |at: usize| done & (1 << at) != 0;
    let is_answered = |at: usize| matches!(history[at].outcome, Outcome::Ok(_));
    let open: Vec<usize> = (0..history.len()).filter(|at| !is_done(*at)).collect();
    if open.iter().all(|at| !is_answered(*at)) {
        return true;
    }
    open.iter().any(|at| {
        let begun = history[*at].invoked;
        let is_next =
            open.iter().all(|other| !is_answered(*other) || history[*other].returned >= begun);
        is_next
            && after(&history[*at], state)
                .is_some_and(|state| some_order_fits(history, done | 1 << at, state.as_deref()))
    })
}

/// The state after an operation that takes effect now; `None` if its answer does not fit.
fn after(operation: &Operation, state: Option<&str>) -> Option<Option<String>> {
    let same = state.map(str::to_owned);
    let holds = |expect: &Expect| match expect {
        Expect::Absent => state.is_none(),
        Expect::Exists => state.is_some(),
        _ => true,
    };
    let shows = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.value.as_str()) == state;
    let answer = match &operation.outcome {
        Outcome::Failed => return None,
        Outcome::Unknown => None,
        Outcome::Ok(answer) => Some(answer),
    };
    match (&operation.call, answer) {
        (Call::Get, Some(Answer::Got(entry))) => shows(entry).then_some(same),
        (Call::Put { value, expect }, None | Some(Answer::Stored(_))) => {
            holds(expect).then(|| Some(value.clone()))
        }
        (Call::Delete { expect }, None | Some(Answer::Deleted)) => {
            (holds(expect) && state.is_some()).then_some(None)
        }
        (Call::Delete { .. }, Some(Answer::Absent)) => state.is_none().then_some(same),
        (Call::Put { expect, .. } | Call::Delete { expect }, Some(Answer::Stale(entry))) => {
            (!holds(expect) && shows(entry)).then_some(same)
        }
        (Call::Put { expect, .. } | Call::Delete { expect }, Some(Answer::Refused)) => {
            (!holds(expect)).then_some(same)
        }
        _ => None,
    }
}

#[test]
fn checker_and_brute_force_agree() {
    let mut dice = Dice::new(20);
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..30_000 {
        let history = any_history(&mut dice);
        let expected = some_order_fits(&history, 0, None);
        *(if expected { &mut right } else { &mut wrong }) += 1;
        let report = check_linearizable(&history);
        let shown: Vec<String> = history.iter().map(Operation::to_string).collect();
        assert_eq!(report.is_clean(), expected, "{}\n{report}", shown.join("\n"));
    }
    assert!(right > 3_000 && wrong > 3_000, "{right} right, {wrong} wrong");
}
