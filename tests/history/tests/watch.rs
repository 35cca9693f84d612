//! The watch checker on planted violations and on simulated watchers.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

mod simulated;

use pintle_test_history::{
    Change, Opening, Promise, Report, Seen, Target, Watcher, Written, check_watch,
};
use proptest::prelude::*;
use simulated::Dice;

fn put(key: &str, version: u64) -> Seen {
    Seen::Put { key: key.into(), value: value(version), version: Some(version.to_string()) }
}

fn removed(key: &str) -> Seen {
    Seen::Removed { key: key.into(), version: None }
}

fn resync() -> Seen {
    Seen::Resync("connection lost".into())
}

fn value(version: u64) -> String {
    format!("v{version}")
}

/// `app/a` was written as 1, 2, 3, removed, written as 5; `app/b` as 10, 11.
fn written() -> Written {
    let mut written = Written::new();
    for version in 1..=5 {
        let change = match version {
            4 => Change::removal(None),
            _ => Change::put(value(version), Some(version.to_string())),
        };
        written.push("app/a", change);
    }
    for version in [10, 11] {
        written.push("app/b", Change::put(value(version), Some(version.to_string())));
    }
    written
}

fn watcher(promise: Promise, seen: Vec<Seen>) -> Watcher {
    let (name, target) = ("w1".to_owned(), Target::Prefix("app".into()));
    Watcher { name, target, opening: Opening::Snapshot, promise, resyncs_max: None, seen }
}

fn every_change(seen: Vec<Seen>) -> Report {
    check_watch(&written(), &watcher(Promise::EveryChange, seen))
}

fn final_state(seen: Vec<Seen>) -> Report {
    check_watch(&written(), &watcher(Promise::FinalState, seen))
}

fn after_empty_snapshot(changes: &[Seen]) -> Vec<Seen> {
    [&[Seen::SnapshotBegin, Seen::SnapshotEnd], changes].concat()
}

fn all_of_a() -> Vec<Seen> {
    vec![put("app/a", 1), put("app/a", 2), put("app/a", 3), removed("app/a"), put("app/a", 5)]
}

fn all_of_b() -> Vec<Seen> {
    vec![put("app/b", 10), put("app/b", 11)]
}

fn rules(report: &Report) -> Vec<&str> {
    report.violations.iter().map(|violation| violation.rule).collect()
}

#[test]
fn every_change_once_and_in_order_passes() {
    let changes = [all_of_a(), vec![Seen::Progress], all_of_b()].concat();
    let report = every_change(after_empty_snapshot(&changes));
    assert!(report.is_clean(), "{report}");
}

#[test]
fn left_out_change_is_found_unless_only_final_states_are_promised() {
    let changes = [vec![put("app/a", 1), put("app/a", 3)], all_of_a()[3..].to_vec(), all_of_b()];
    let seen = after_empty_snapshot(&changes.concat());
    let report = every_change(seen.clone());
    assert_eq!(rules(&report), ["watch every change"]);
    let excerpt = &report.violations[0].excerpt;
    assert!(excerpt.contains("1 changes are missing"), "{excerpt}");
    assert!(excerpt.contains("written as change 2: \"v2\" of version 2"), "{excerpt}");
    assert!(final_state(seen).is_clean());
}

#[test]
fn change_delivered_twice_is_found() {
    let changes = [all_of_a(), all_of_b(), vec![put("app/b", 11)]].concat();
    assert_eq!(rules(&every_change(after_empty_snapshot(&changes))), ["watch every change"]);
}

#[test]
fn version_that_goes_back_is_found_in_both_modes() {
    let changes = [all_of_a(), all_of_b(), vec![put("app/a", 2)]].concat();
    for check in [every_change, final_state] {
        assert_eq!(rules(&check(after_empty_snapshot(&changes))), ["watch order"]);
    }
}

#[test]
fn version_that_goes_back_over_a_resync_is_found() {
    let again = vec![resync(), Seen::SnapshotBegin, put("app/a", 3), put("app/b", 11)];
    let end = vec![Seen::SnapshotEnd, removed("app/a"), put("app/a", 5)];
    let seen = after_empty_snapshot(&[all_of_a(), all_of_b(), again, end].concat());
    assert!(rules(&every_change(seen)).contains(&"watch order"));
}

#[test]
fn final_state_that_never_arrives_is_found_in_both_modes() {
    let changes = [all_of_a()[..4].to_vec(), all_of_b()].concat();
    for check in [every_change, final_state] {
        let report = check(after_empty_snapshot(&changes));
        assert_eq!(rules(&report), ["watch final state"]);
        assert_eq!(report.violations[0].subject, "watcher w1, key app/a");
    }
}

#[test]
fn resync_covers_what_was_missed_and_is_counted() {
    let gap = vec![resync(), Seen::SnapshotBegin, put("app/a", 5), put("app/b", 10)];
    let changes = [vec![put("app/a", 1)], gap, vec![Seen::SnapshotEnd, put("app/b", 11)]].concat();
    let mut watcher = watcher(Promise::EveryChange, after_empty_snapshot(&changes));
    watcher.resyncs_max = Some(1);
    assert!(check_watch(&written(), &watcher).is_clean());
    watcher.resyncs_max = Some(0);
    assert_eq!(rules(&check_watch(&written(), &watcher)), ["watch resyncs"]);
}

#[test]
fn snapshot_without_a_resync_is_found() {
    let again = vec![Seen::SnapshotBegin, put("app/a", 5), put("app/b", 11), Seen::SnapshotEnd];
    assert_eq!(rules(&every_change(after_empty_snapshot(&again))), ["watch snapshot"]);
}

#[test]
fn snapshot_that_lacks_a_key_is_found() {
    let seen = [all_of_a(), all_of_b(), vec![resync(), Seen::SnapshotBegin, put("app/a", 5)]];
    let seen = [after_empty_snapshot(&seen.concat()), vec![Seen::SnapshotEnd]].concat();
    let report = every_change(seen);
    assert_eq!(rules(&report), ["watch snapshot"]);
    assert!(report.violations[0].subject.ends_with("key app/b"));
}

#[test]
fn snapshot_with_a_key_twice_or_without_end_is_found() {
    let twice = vec![Seen::SnapshotBegin, put("app/a", 5), put("app/a", 5), put("app/b", 11)];
    let unfinished = every_change(twice.clone());
    assert_eq!(rules(&unfinished), ["watch snapshot", "watch snapshot"], "{unfinished}");
    let finished = every_change([twice, vec![Seen::SnapshotEnd]].concat());
    assert_eq!(rules(&finished), ["watch snapshot"]);
}

#[test]
fn change_before_the_snapshot_is_found() {
    assert!(rules(&every_change(vec![put("app/a", 1)])).contains(&"watch snapshot"));
    let seen = [all_of_a(), all_of_b(), vec![resync(), put("app/a", 5)]].concat();
    assert!(rules(&every_change(after_empty_snapshot(&seen))).contains(&"watch snapshot"));
}

#[test]
fn key_outside_the_target_is_found() {
    for key in ["app", "apple/pie", "other"] {
        let changes = [all_of_a(), all_of_b(), vec![put(key, 1)]].concat();
        assert_eq!(rules(&every_change(after_empty_snapshot(&changes))), ["watch boundary"]);
    }
}

#[test]
fn value_that_nobody_wrote_is_found() {
    let forged = Seen::Put { key: "app/b".into(), value: "x".into(), version: Some("11".into()) };
    let changes = [all_of_a(), vec![put("app/b", 10), forged]].concat();
    let report = every_change(after_empty_snapshot(&changes));
    assert_eq!(rules(&report), ["watch value", "watch final state"]);
}

#[test]
fn gap_without_a_resync_is_found_in_both_modes() {
    let changes = [all_of_a()[..2].to_vec(), vec![Seen::Gap], all_of_a()[2..].to_vec(), all_of_b()];
    for check in [every_change, final_state] {
        assert_eq!(rules(&check(after_empty_snapshot(&changes.concat()))), ["watch gap"]);
    }
}

#[test]
fn nothing_follows_the_end() {
    let ended = Seen::Ended("denied".into());
    assert!(every_change(after_empty_snapshot(&[put("app/a", 1), ended.clone()])).is_clean());
    let after = every_change(after_empty_snapshot(&[ended, put("app/a", 1)]));
    assert_eq!(rules(&after), ["watch end"]);
}

#[test]
fn watch_from_a_version_has_no_snapshot_and_misses_nothing() {
    let mut watcher = watcher(Promise::EveryChange, vec![put("app/a", 5), put("app/b", 11)]);
    watcher.opening = Opening::After(vec![("app/a".into(), 4), ("app/b".into(), 1)]);
    assert!(check_watch(&written(), &watcher).is_clean());
    watcher.opening = Opening::After(vec![("app/a".into(), 4)]);
    assert_eq!(rules(&check_watch(&written(), &watcher)), ["watch every change"]);
}

#[test]
fn write_of_unknown_outcome_may_be_seen_or_not_or_late() {
    let mut written = Written::new();
    written.push("k", Change::put("a", Some("1".into())));
    written.push("k", Change::put("maybe", None).uncertain());
    written.push("k", Change::put("c", Some("3".into())));
    let seen = |values: &[(&str, &str)]| {
        let change = |(value, version): &(&str, &str)| Seen::Put {
            key: "k".into(),
            value: (*value).into(),
            version: Some((*version).into()),
        };
        let seen: Vec<Seen> = values.iter().map(change).collect();
        let mut watcher = watcher(Promise::EveryChange, after_empty_snapshot(&seen));
        watcher.target = Target::Key("k".into());
        check_watch(&written, &watcher)
    };
    let (first, maybe, last) = (("a", "1"), ("maybe", "2"), ("c", "3"));
    for legal in [&[first, last][..], &[first, maybe, last], &[first, last, maybe]] {
        let report = seen(legal);
        assert!(report.is_clean(), "{report}");
    }
    assert_eq!(rules(&seen(&[first, last, maybe, maybe])), ["watch order"]);
    assert_eq!(rules(&seen(&[first, maybe])), ["watch final state"]);
}

/// Keys that are written, and a correct watcher that now and then loses its connection.
fn simulate(seed: u64, promise: Promise) -> (Written, Watcher) {
    let mut dice = Dice::new(seed);
    let keys = ["app/a", "app/b", "app/c"];
    let mut written = Written::new();
    let mut behind: Vec<Vec<Seen>> = vec![Vec::new(); keys.len()];
    let mut state: Vec<Option<Seen>> = vec![None; keys.len()];
    let mut seen = vec![Seen::SnapshotBegin, Seen::SnapshotEnd];
    let mut resyncs = 0;
    for version in 1..200 {
        let chosen = dice.roll(3) as usize;
        let key = keys[chosen];
        let unique = dice.percent(50).then(|| version.to_string());
        let change = if state[chosen].is_some() && dice.percent(20) {
            written.push(key, Change::removal(None));
            state[chosen] = None;
            removed(key)
        } else {
            written.push(key, Change::put(value(version), unique));
            state[chosen] = Some(put(key, version));
            put(key, version)
        };
        if promise == Promise::FinalState && dice.percent(50) {
            behind[chosen].clear();
        }
        behind[chosen].push(change);
        if dice.percent(40) {
            let flushed = dice.roll(3) as usize;
            seen.append(&mut behind[flushed]);
        }
        if dice.percent(4) {
            resyncs += 1;
            behind.iter_mut().for_each(Vec::clear);
            seen.extend([Seen::Gap, resync(), Seen::SnapshotBegin]);
            if dice.percent(20) {
                seen.extend([resync(), Seen::SnapshotBegin]);
                resyncs += 1;
            }
            seen.extend(state.iter().flatten().cloned());
            seen.push(Seen::SnapshotEnd);
        }
    }
    behind.iter_mut().for_each(|events| seen.append(events));
    let watcher = Watcher { resyncs_max: Some(resyncs), ..watcher(promise, seen) };
    (written, watcher)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn correct_watchers_pass(seed: u64, every_change: bool) {
        let promise = if every_change { Promise::EveryChange } else { Promise::FinalState };
        let (written, watcher) = simulate(seed, promise);
        let report = check_watch(&written, &watcher);
        prop_assert!(report.is_clean(), "{}", report);
    }

    #[test]
    fn event_lost_from_a_correct_watch_of_every_change_is_found(seed: u64) {
        let (written, mut watcher) = simulate(seed, Promise::EveryChange);
        // Not one that the next snapshot covers: the last change of its key.
        let is_last = |at: usize| match &watcher.seen[at] {
            Seen::Put { key, .. } => !watcher.seen[at + 1..].iter().any(|later| match later {
                Seen::Put { key: other, .. } | Seen::Removed { key: other, .. } => other == key,
                other => matches!(other, Seen::SnapshotEnd),
            }),
            _ => false,
        };
        let last = (0..watcher.seen.len()).rev().find(|at| is_last(*at));
        prop_assume!(last.is_some());
        watcher.seen.remove(last.unwrap());
        let report = check_watch(&written, &watcher);
        prop_assert!(rules(&report).contains(&"watch final state"), "{}", report);
    }
}
