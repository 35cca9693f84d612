//! The store against a model that is a map and a list of everything that ever happened.

use crate::support::{Bench, put};
use pintle_plugin_local::store::{
    Change, ConfigEvent, ConfigWatch, Delete, DeleteOutcome, DeletePrefixOutcome, Expectation,
    List, PutOutcome, Target, Txn, TxnOp, TxnOutcome, TxnResult, WatchStart,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: [&str; 8] = ["a", "a/b", "a/b/c", "a/bc", "b", "b/%2E", "b/ü", "c/d/e"];
const PREFIXES: [&str; 4] = ["", "a", "a/b", "b"];

#[derive(Clone, Debug)]
enum Op {
    Put(usize, u8, Guess),
    Delete(usize, Guess),
    DeletePrefix(usize),
    Txn(Vec<(usize, Guess)>, Vec<(usize, Option<u8>)>),
    Restart,
    Crash,
}

/// An expectation, right or wrong.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Anything,
    Absent,
    Exists,
    Current,
    Old(u64),
}

fn guess() -> impl Strategy<Value = Guess> {
    prop_oneof![
        4 => Just(Guess::Anything),
        1 => Just(Guess::Absent),
        1 => Just(Guess::Exists),
        2 => Just(Guess::Current),
        1 => (0..40u64).prop_map(Guess::Old),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    prop_oneof![
        8 => (key.clone(), any::<u8>(), guess()).prop_map(|(key, value, guess)| Op::Put(key, value, guess)),
        3 => (key.clone(), guess()).prop_map(|(key, guess)| Op::Delete(key, guess)),
        1 => (0..PREFIXES.len()).prop_map(Op::DeletePrefix),
        3 => (
            prop::collection::vec((key.clone(), guess()), 0..3),
            prop::collection::btree_map(key, any::<Option<u8>>(), 0..4),
        )
            .prop_map(|(conditions, ops)| Op::Txn(conditions, ops.into_iter().collect())),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

#[derive(Default)]
struct Model {
    revision: u64,
    /// Key, revision, value; none for a removal.
    changes: Vec<(usize, u64, Option<u8>)>,
}

impl Model {
    fn at(&self, revision: u64) -> BTreeMap<usize, (u64, u8)> {
        let mut state = BTreeMap::new();
        for (key, at, value) in self.changes.iter().filter(|(_, at, _)| *at <= revision) {
            match value {
                Some(value) => state.insert(*key, (*at, *value)),
                None => state.remove(key),
            };
        }
        state
    }

    fn now(&self) -> BTreeMap<usize, (u64, u8)> {
        self.at(u64::MAX)
    }

    fn expectation(&self, key: usize, guess: Guess) -> (Expectation, bool) {
        let current = self.now().get(&key).map(|(revision, _)| *revision);
        match guess {
            Guess::Anything => (Expectation::Anything, true),
            Guess::Absent => (Expectation::Absent, current.is_none()),
            Guess::Exists => (Expectation::Exists, current.is_some()),
            Guess::Current => {
                let revision = current.unwrap_or(1_000_000);
                (Expectation::Revision(revision), current.is_some())
            }
            Guess::Old(revision) => (Expectation::Revision(revision), current == Some(revision)),
        }
    }

    fn change(&mut self, changes: impl IntoIterator<Item = (usize, Option<u8>)>) {
        let revision = self.revision + 1;
        let before = self.changes.len();
        self.changes.extend(changes.into_iter().map(|(key, value)| (key, revision, value)));
        if self.changes.len() > before {
            self.revision = revision;
        }
    }
}

fn below(prefix: &str, key: &str) -> bool {
    prefix.is_empty() || key.starts_with(&format!("{prefix}/"))
}

fn run(bench: &mut Bench, model: &mut Model, op: &Op) {
    match op {
        Op::Put(key, value, guess) => {
            let (expect, holds) = model.expectation(*key, *guess);
            let mut request = put(KEYS[*key], "", expect);
            request.value = vec![*value];
            match bench.turn(|turn| turn.put(&request)) {
                PutOutcome::Stored { revision, .. } => {
                    assert!(holds);
                    model.change([(*key, Some(*value))]);
                    assert_eq!(revision, model.revision);
                }
                PutOutcome::Stale(_) => assert!(!holds),
                PutOutcome::Fenced => panic!("no lease was asked for"),
            }
        }
        Op::Delete(key, guess) => {
            let (expect, holds) = model.expectation(*key, *guess);
            let exists = model.now().contains_key(key);
            let delete = Delete { key: KEYS[*key].into(), expect, held: None, previous: true };
            match bench.turn(|turn| turn.delete(&delete)) {
                DeleteOutcome::Deleted(_) => {
                    assert!(holds && exists);
                    model.change([(*key, None)]);
                }
                DeleteOutcome::Absent => assert!(holds && !exists),
                DeleteOutcome::Stale(_) => assert!(!holds),
                DeleteOutcome::Fenced => panic!("no lease was asked for"),
            }
        }
        Op::DeletePrefix(prefix) => {
            let prefix = PREFIXES[*prefix];
            let gone: Vec<_> =
                model.now().into_keys().filter(|key| below(prefix, KEYS[*key])).collect();
            let outcome = bench.turn(|turn| turn.delete_prefix(prefix, None));
            assert_eq!(outcome, DeletePrefixOutcome::Deleted(gone.len() as u64));
            model.change(gone.into_iter().map(|key| (key, None)));
        }
        Op::Txn(conditions, ops) => run_txn(bench, model, conditions, ops),
        Op::Restart => bench.restart(),
        Op::Crash => bench.crash(),
    }
}

fn run_txn(
    bench: &mut Bench,
    model: &mut Model,
    conditions: &[(usize, Guess)],
    ops: &[(usize, Option<u8>)],
) {
    let before = model.now();
    let expectations: Vec<_> =
        conditions.iter().map(|(key, guess)| model.expectation(*key, *guess)).collect();
    let txn = Txn {
        conditions: conditions
            .iter()
            .zip(&expectations)
            .map(|((key, _), (expect, _))| (KEYS[*key].to_owned(), *expect))
            .collect(),
        held: vec![],
        ops: ops
            .iter()
            .map(|(key, value)| {
                let key = KEYS[*key].to_owned();
                match value {
                    Some(value) if value % 5 == 0 => TxnOp::Get(key),
                    Some(value) => TxnOp::Put { key, value: vec![*value], content_type: None },
                    None => TxnOp::Delete(key),
                }
            })
            .collect(),
    };
    match bench.turn(|turn| turn.txn(&txn)) {
        TxnOutcome::Committed(results) => {
            assert!(expectations.iter().all(|(_, holds)| *holds));
            let mut changes = Vec::new();
            for ((key, value), result) in ops.iter().zip(results) {
                let current = before.get(key).copied();
                match result {
                    TxnResult::Got(entry) => {
                        let got = entry.map(|entry| (entry.revision, entry.value[0]));
                        assert_eq!(got, current);
                    }
                    TxnResult::Stored(revision) => {
                        assert_eq!(revision, model.revision + 1);
                        changes.push((*key, *value));
                    }
                    TxnResult::Deleted(existed) => {
                        assert_eq!(existed, current.is_some());
                        changes.extend(existed.then_some((*key, None)));
                    }
                }
            }
            model.change(changes);
        }
        TxnOutcome::Stale(mismatches) => {
            let wrong: Vec<_> = mismatches.iter().map(|(index, _)| *index).collect();
            let expected: Vec<_> =
                (0..expectations.len()).filter(|index| !expectations[*index].1).collect();
            assert_eq!(wrong, expected);
            assert!(!wrong.is_empty());
        }
        TxnOutcome::Fenced => panic!("no lease was asked for"),
    }
}

fn listed(bench: &Bench, prefix: &str, at: Option<u64>, limit: usize) -> Vec<(String, u64, u8)> {
    let mut list = List { prefix: prefix.into(), limit, at, ..List::default() };
    let mut all = Vec::new();
    loop {
        let page = bench.store.list(&list).unwrap();
        list.after = page.entries.last().map(|entry| entry.key.clone());
        all.extend(page.entries.into_iter().map(|e| (e.key, e.revision, e.value[0])));
        if !page.more {
            return all;
        }
    }
}

fn check_reads(bench: &Bench, model: &Model) {
    assert_eq!(bench.store.revision(), model.revision);
    for revision in 0..=model.revision {
        let state = model.at(revision);
        for (key, name) in KEYS.iter().enumerate() {
            let entry = bench.store.entry(name, Some(revision)).unwrap();
            let entry = entry.map(|entry| (entry.revision, entry.value[0]));
            assert_eq!(entry, state.get(&key).copied(), "{name} at {revision}");
        }
        for prefix in PREFIXES {
            let mut expected: Vec<_> = state
                .iter()
                .filter(|(key, _)| below(prefix, KEYS[**key]))
                .map(|(key, (revision, value))| (KEYS[*key].to_owned(), *revision, *value))
                .collect();
            expected.sort();
            assert_eq!(
                listed(bench, prefix, Some(revision), 2),
                expected,
                "{prefix} at {revision}"
            );
        }
    }
    for (key, name) in KEYS.iter().enumerate() {
        let page = bench.store.history(name, None, 1_000).unwrap();
        let found: Vec<_> = page
            .changes
            .into_iter()
            .map(|change| match change {
                Change::Put(entry) => (entry.revision, Some(entry.value[0])),
                Change::Removed { revision, .. } => (revision, None),
            })
            .collect();
        let mut expected: Vec<_> = model
            .changes
            .iter()
            .filter(|(changed, _, _)| *changed == key)
            .map(|(_, revision, value)| (*revision, *value))
            .collect();
        expected.reverse();
        assert_eq!(found, expected, "history of {name}");
        assert!(page.complete && page.next.is_none());
    }
}

/// A watch from every revision delivers exactly what happened after it, with what was before.
fn check_watches(bench: &Bench, model: &Model) {
    for start in 0..=model.revision {
        let target = Target::Prefix("a".into());
        let mut watch = ConfigWatch::new(target, WatchStart::After(start), true);
        let mut found = Vec::new();
        loop {
            let events = watch.next(&bench.store).unwrap();
            if events.is_empty() {
                break;
            }
            found.extend(events.into_iter().map(|event| match event {
                ConfigEvent::Put { entry, previous } => {
                    let previous = previous.map(|entry| (entry.revision, entry.value[0]));
                    (entry.key, entry.revision, Some(entry.value[0]), previous)
                }
                ConfigEvent::Removed { key, revision, previous } => {
                    let previous = previous.map(|entry| (entry.revision, entry.value[0]));
                    (key, revision, None, previous)
                }
                other => panic!("unexpected: {other:?}"),
            }));
        }
        let expected: Vec<_> = model
            .changes
            .iter()
            .filter(|(key, at, _)| *at > start && below("a", KEYS[*key]))
            .map(|(key, at, value)| {
                let previous = model.at(at - 1).get(key).copied();
                (KEYS[*key].to_owned(), *at, *value, previous)
            })
            .collect();
        assert_eq!(found, expected, "watch from {start}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_the_model(ops in prop::collection::vec(op(), 1..40)) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        for op in &ops {
            run(&mut bench, &mut model, op);
        }
        check_reads(&bench, &model);
        check_watches(&bench, &model);
    }
}
