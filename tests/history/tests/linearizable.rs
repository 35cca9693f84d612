//! The register checker on planted violations and on histories of a correct register.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

mod simulated;

use std::collections::HashMap;

use pintle_test_history::{
    Answer, Call, Entry, Expect, Operation, Outcome, Report, check_linearizable,
};
use proptest::prelude::*;
use simulated::Dice;

fn operation(client: u32, span: (u64, u64), call: Call, outcome: Outcome) -> Operation {
    let (invoked, returned) = span;
    Operation { client, key: "k".into(), call, outcome, invoked, returned }
}

fn put(value: &str) -> Call {
    put_if(value, Expect::Anything)
}

fn put_if(value: &str, expect: Expect) -> Call {
    Call::Put { value: value.into(), expect }
}

fn version(version: &str) -> Expect {
    Expect::Version(version.into())
}

fn entry(value: &str, version: &str) -> Option<Entry> {
    Some(Entry { value: value.into(), version: Some(version.into()) })
}

fn got(value: &str) -> Outcome {
    Outcome::Ok(Answer::Got(Some(Entry { value: value.into(), version: None })))
}

fn nothing() -> Outcome {
    Outcome::Ok(Answer::Got(None))
}

fn stored(version: &str) -> Outcome {
    Outcome::Ok(Answer::Stored(Some(version.into())))
}

fn delete() -> Call {
    Call::Delete { expect: Expect::Anything }
}

fn excerpt_of(report: &Report) -> &str {
    assert_eq!(report.violations.len(), 1, "{report}");
    assert_eq!(report.violations[0].rule, "linearizability");
    &report.violations[0].excerpt
}

#[test]
fn stale_read_is_found_and_shown_without_the_rest() {
    let mut history = vec![
        operation(1, (0, 1), put("a"), stored("1")),
        operation(1, (2, 3), put("b"), stored("2")),
        operation(2, (4, 5), Call::Get, got("a")),
    ];
    for n in 0..50 {
        let at = 10 + 4 * n;
        let value = format!("later-{n}");
        history.push(operation(3, (at, at + 1), put(&value), stored(&format!("l{n}"))));
        history.push(operation(4, (at + 2, at + 3), Call::Get, got(&value)));
    }
    let report = check_linearizable(&history);
    let lines: Vec<&str> = excerpt_of(&report).lines().collect();
    assert_eq!(
        lines,
        [
            "  client 1 [0..1] put \"a\" -> stored as version 1",
            "  client 1 [2..3] put \"b\" -> stored as version 2",
            "  client 2 [4..5] get -> \"a\"",
        ]
    );
}

#[test]
fn concurrent_read_may_see_either_value() {
    for value in ["a", "b"] {
        let history = [
            operation(1, (0, 1), put("a"), stored("1")),
            operation(1, (2, 6), put("b"), stored("2")),
            operation(2, (3, 4), Call::Get, got(value)),
        ];
        assert!(check_linearizable(&history).is_clean());
    }
}

#[test]
fn reads_that_see_a_write_and_then_not_are_found() {
    let history = [
        operation(1, (0, 1), put("a"), stored("1")),
        operation(1, (2, 10), put("b"), stored("2")),
        operation(2, (3, 4), Call::Get, got("b")),
        operation(3, (5, 6), Call::Get, got("a")),
    ];
    assert!(excerpt_of(&check_linearizable(&history)).contains("client 3 [5..6] get -> \"a\""));
}

#[test]
fn lost_write_is_found() {
    let history =
        [operation(1, (0, 1), put("a"), stored("1")), operation(1, (2, 3), Call::Get, nothing())];
    assert_eq!(excerpt_of(&check_linearizable(&history)).lines().count(), 2);
}

#[test]
fn value_that_nobody_wrote_is_found() {
    let history = [operation(1, (2, 3), Call::Get, got("ghost"))];
    assert_eq!(excerpt_of(&check_linearizable(&history)), "  client 1 [2..3] get -> \"ghost\"");
}

#[test]
fn two_winners_of_one_compare_and_set_are_found() {
    let history = [
        operation(1, (0, 1), put("a"), stored("1")),
        operation(1, (2, 5), put_if("b", version("1")), stored("2")),
        operation(2, (3, 6), put_if("c", version("1")), stored("3")),
    ];
    assert!(excerpt_of(&check_linearizable(&history)).contains("if version 1"));
}

#[test]
fn loser_of_a_compare_and_set_sees_the_winner() {
    let lost = |value, version| Outcome::Ok(Answer::Stale(entry(value, version)));
    let history = |outcome| {
        [
            operation(1, (0, 1), put("a"), stored("1")),
            operation(1, (2, 5), put_if("b", version("1")), stored("2")),
            operation(2, (3, 6), put_if("c", version("1")), outcome),
        ]
    };
    assert!(check_linearizable(&history(lost("b", "2"))).is_clean());
    assert!(check_linearizable(&history(Outcome::Ok(Answer::Refused))).is_clean());
    // It was refused although what it names is what it expected.
    excerpt_of(&check_linearizable(&history(lost("a", "1"))));
}

#[test]
fn wrong_version_of_a_right_value_is_found() {
    let history = [
        operation(1, (0, 1), put("a"), stored("1")),
        operation(1, (2, 3), Call::Get, Outcome::Ok(Answer::Got(entry("a", "7")))),
    ];
    excerpt_of(&check_linearizable(&history));
}

#[test]
fn deleting_nothing_twice_is_right_and_deleting_once_twice_is_not() {
    let deleted = Outcome::Ok(Answer::Deleted);
    let history = |second| {
        [
            operation(1, (0, 1), put("a"), stored("1")),
            operation(1, (2, 3), delete(), deleted.clone()),
            operation(2, (4, 5), delete(), second),
        ]
    };
    assert!(check_linearizable(&history(Outcome::Ok(Answer::Absent))).is_clean());
    excerpt_of(&check_linearizable(&history(deleted.clone())));
}

#[test]
fn unknown_write_may_happen_much_later_or_never_but_not_twice() {
    let begin = [
        operation(1, (0, 1), put("a"), Outcome::Unknown),
        operation(2, (2, 3), put("b"), stored("2")),
        operation(2, (4, 5), Call::Get, got("b")),
    ];
    assert!(check_linearizable(&begin).is_clean());
    let mut late = begin.to_vec();
    late.push(operation(2, (6, 7), Call::Get, got("a")));
    assert!(check_linearizable(&late).is_clean());
    late.push(operation(2, (8, 9), put("c"), stored("3")));
    late.push(operation(2, (10, 11), Call::Get, got("a")));
    assert!(excerpt_of(&check_linearizable(&late)).contains("client 2 [10..11] get -> \"a\""));
}

#[test]
fn unknown_write_cannot_be_seen_before_it_was_asked_for() {
    let history = [
        operation(2, (0, 1), Call::Get, got("a")),
        operation(1, (2, 3), put("a"), Outcome::Unknown),
    ];
    excerpt_of(&check_linearizable(&history));
}

#[test]
fn write_that_failed_for_certain_must_not_be_seen() {
    let history = [
        operation(1, (0, 1), put("a"), Outcome::Failed),
        operation(2, (2, 3), Call::Get, got("a")),
    ];
    excerpt_of(&check_linearizable(&history));
}

#[test]
fn unknown_delete_and_unknown_create_explain_a_value_together() {
    let history = |create: Outcome| {
        [
            operation(1, (0, 1), put("a"), stored("1")),
            operation(1, (2, 3), delete(), Outcome::Unknown),
            operation(1, (4, 5), put_if("b", Expect::Absent), create),
            operation(2, (6, 7), Call::Get, got("b")),
        ]
    };
    assert!(check_linearizable(&history(Outcome::Unknown)).is_clean());
    excerpt_of(&check_linearizable(&history(Outcome::Failed)));
}

#[test]
fn many_unknown_writes_cost_nothing_until_they_are_seen() {
    let mut history = Vec::new();
    for n in 0..2_000u64 {
        let at = n * 10;
        let name = |kind: &str| format!("{kind}-{n}");
        history.push(operation(1, (at, at + 1), put(&name("lost")), Outcome::Unknown));
        history.push(operation(2, (at + 2, at + 3), put(&name("kept")), stored(&name("v"))));
        history.push(operation(2, (at + 4, at + 5), Call::Get, got(&name("kept"))));
    }
    history.push(operation(3, (30_000, 30_001), Call::Get, got("lost-77")));
    assert!(check_linearizable(&history).is_clean());
    history.push(operation(3, (30_002, 30_003), Call::Get, got("kept-77")));
    let lines = excerpt_of(&check_linearizable(&history)).lines().count();
    assert!(lines <= 3, "{lines} lines");
}

/// A correct register behind an unreliable network, used by clients that take turns by chance.
fn simulate(seed: u64, clients: u32, keys: u64, count: usize, lost_percent: u64) -> Vec<Operation> {
    let mut world = World { dice: Dice::new(seed), ..World::default() };
    let mut running: Vec<Option<Running>> = (0..clients).map(|_| None).collect();
    while world.history.len() < count {
        world.now += 1;
        let client = world.dice.roll(u64::from(clients)) as u32;
        let slot = &mut running[client as usize];
        *slot = match slot.take() {
            None => Some(world.invoke(client, keys)),
            Some(running) => world.advance(running, lost_percent),
        };
        world.let_late_writes_happen();
    }
    for Running { mut operation, .. } in running.into_iter().flatten() {
        operation.returned = world.now;
        world.history.push(operation);
    }
    world.history
}

#[derive(Default)]
struct World {
    dice: Dice,
    now: u64,
    writes: u64,
    state: HashMap<String, (String, u64)>,
    /// The version of each key that somebody was told last.
    told: HashMap<String, String>,
    late: Vec<(String, Call)>,
    history: Vec<Operation>,
}

struct Running {
    operation: Operation,
    answer: Option<Answer>,
}

impl World {
    fn invoke(&mut self, client: u32, keys: u64) -> Running {
        let key = format!("key-{}", self.dice.roll(keys));
        self.writes += 1;
        let value = format!("value-{}", self.writes);
        let expect = match self.dice.roll(6) {
            0 => Expect::Absent,
            1 => Expect::Exists,
            2 | 3 => Expect::Version(self.told.get(&key).map_or("1", String::as_str).into()),
            _ => Expect::Anything,
        };
        let call = match self.dice.roll(5) {
            0 | 1 => Call::Get,
            2 => Call::Delete { expect },
            _ => Call::Put { value, expect },
        };
        let (invoked, outcome) = (self.now, Outcome::Unknown);
        let operation = Operation { client, key, call, outcome, invoked, returned: 0 };
        Running { operation, answer: None }
    }

    fn advance(&mut self, mut running: Running, lost_percent: u64) -> Option<Running> {
        if self.dice.percent(50) {
            return Some(running);
        }
        let lost = self.dice.percent(lost_percent);
        let Operation { key, call, .. } = &running.operation;
        if lost && running.answer.is_none() {
            match self.dice.roll(3) {
                0 => running.operation.outcome = Outcome::Failed,
                1 => {}
                _ => self.late.push((key.clone(), call.clone())),
            }
        } else if !lost {
            match running.answer.take() {
                Some(answer) => running.operation.outcome = Outcome::Ok(answer),
                None => {
                    let answer = self.execute(&key.clone(), &call.clone());
                    return Some(Running { answer: Some(answer), ..running });
                }
            }
        }
        running.operation.returned = self.now;
        if let Outcome::Ok(
            Answer::Stored(Some(version))
            | Answer::Got(Some(Entry { version: Some(version), .. }))
            | Answer::Stale(Some(Entry { version: Some(version), .. })),
        ) = &running.operation.outcome
        {
            self.told.insert(running.operation.key.clone(), version.clone());
        }
        self.history.push(running.operation);
        None
    }

    fn let_late_writes_happen(&mut self) {
        if !self.late.is_empty() && self.dice.percent(3) {
            let chosen = self.dice.roll(self.late.len() as u64) as usize;
            let (key, call) = self.late.swap_remove(chosen);
            self.execute(&key, &call);
        }
    }

    fn execute(&mut self, key: &str, call: &Call) -> Answer {
        let current = self.state.get(key).cloned();
        let shown = current.as_ref().map(|(value, version)| Entry {
            value: value.clone(),
            version: Some(version.to_string()),
        });
        let holds = |expect: &Expect| match expect {
            Expect::Anything => true,
            Expect::Absent => current.is_none(),
            Expect::Exists => current.is_some(),
            Expect::Version(expected) => {
                current.as_ref().is_some_and(|(_, version)| version.to_string() == *expected)
            }
        };
        self.now += 1;
        match call {
            Call::Get => Answer::Got(shown),
            Call::Put { expect, .. } | Call::Delete { expect } if !holds(expect) => {
                if self.dice.percent(80) { Answer::Stale(shown) } else { Answer::Refused }
            }
            Call::Delete { .. } => match self.state.remove(key) {
                Some(_) => Answer::Deleted,
                None => Answer::Absent,
            },
            Call::Put { value, .. } => {
                self.state.insert(key.into(), (value.clone(), self.now));
                Answer::Stored(self.dice.percent(90).then(|| self.now.to_string()))
            }
        }
    }
}

impl Default for Dice {
    fn default() -> Dice {
        Dice::new(0)
    }
}

/// Makes one get answer what the same key held a while ago.
fn spoil(history: &mut [Operation], seed: u64) -> bool {
    let mut dice = Dice::new(seed);
    let victims: Vec<usize> = (0..history.len())
        .filter(|at| {
            history[*at].call == Call::Get && matches!(history[*at].outcome, Outcome::Ok(_))
        })
        .collect();
    if victims.is_empty() {
        return false;
    }
    let victim = victims[dice.roll(victims.len() as u64) as usize];
    let (key, invoked) = (history[victim].key.clone(), history[victim].invoked);
    // A value that was acknowledged, and whose successor was acknowledged, before the get began.
    let before: Vec<&Operation> = history
        .iter()
        .filter(|other| other.key == key && other.returned < invoked)
        .filter(|other| matches!(other.outcome, Outcome::Ok(Answer::Stored(_))))
        .collect();
    let Some(last_begun) = before.iter().map(|other| other.invoked).max() else { return false };
    let old = before.iter().find(|other| other.returned < last_begun);
    let Some(Call::Put { value, .. }) = old.map(|other| &other.call) else { return false };
    let entry = Entry { value: value.clone(), version: None };
    history[victim].outcome = Outcome::Ok(Answer::Got(Some(entry)));
    true
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn histories_of_a_correct_register_pass(
        seed: u64, clients in 1u32..9, keys in 1u64..4, lost in 0u64..25,
    ) {
        let history = simulate(seed, clients, keys, 400, lost);
        let report = check_linearizable(&history);
        prop_assert!(report.is_clean(), "{}", report);
    }

    #[test]
    fn one_stale_read_in_a_correct_history_is_found(
        seed: u64, clients in 1u32..9, keys in 1u64..4, lost in 0u64..10,
    ) {
        let mut history = simulate(seed, clients, keys, 300, lost);
        prop_assume!(spoil(&mut history, seed));
        let report = check_linearizable(&history);
        prop_assert_eq!(report.violations.len(), 1, "{}", report);
        // What it is about stays in sight, however much went on at the same time.
        prop_assert!(report.violations[0].excerpt.lines().count() <= 26, "{}", report);
    }
}

#[test]
fn hundred_thousand_operations_are_checked_at_once() {
    for (keys, count) in [(100, 100_000), (1, 10_000)] {
        let mut history = simulate(7, 8, keys, count, 2);
        let report = check_linearizable(&history);
        assert!(report.is_clean(), "{report}");
        assert!(spoil(&mut history, 7));
        let report = check_linearizable(&history);
        assert_eq!(report.violations.len(), 1);
    }
}
