//! Puts, deletes and transactions.

use crate::support::{Bench, put, stored, text};
use pintle_plugin_local::store::{
    Delete, DeleteOutcome, DeletePrefixOutcome, Expectation, List, Mode, Options, PutOutcome,
    StoreError, Txn, TxnOp, TxnOutcome, TxnResult,
};

fn delete(key: &str, expect: Expectation) -> Delete {
    Delete { key: key.to_owned(), expect, held: None, previous: true }
}

fn txn_put(key: &str, value: &str) -> TxnOp {
    TxnOp::Put { key: key.to_owned(), value: value.into(), content_type: None }
}

#[test]
fn a_value_comes_back_byte_for_byte_with_its_content_type() {
    let mut bench = Bench::new();
    for value in [vec![], vec![0, 1, 255, 0], vec![7; 1024 * 1024]] {
        let mut request = put("a/b", "", Expectation::Anything);
        request.value = value.clone();
        request.content_type = Some("application/json".into());
        bench.turn(|turn| turn.put(&request));
        let entry = bench.store.entry("a/b", None).unwrap().unwrap();
        assert_eq!(entry.value, value);
        assert_eq!(entry.content_type.as_deref(), Some("application/json"));
    }
}

#[test]
fn a_value_beyond_the_limit_is_refused_and_nothing_is_written() {
    let mut bench = Bench::with(Options { value_bytes_max: 4, ..Options::default() });
    let refused = bench.store.turn(|turn| turn.put(&put("a", "12345", Expectation::Anything)));
    assert!(matches!(
        refused,
        Err(StoreError::TooLarge { limit: "value_bytes_max", actual: 5, max: 4, .. })
    ));
    assert_eq!(bench.store.revision(), 0);
    assert_eq!(bench.value("a"), None);
}

#[test]
fn of_two_puts_that_expect_the_same_version_one_is_stored() {
    let mut bench = Bench::new();
    let version = bench.put("a", "0");
    let expect = Expectation::Revision(version);
    let outcomes = bench
        .turn(|turn| Ok([turn.put(&put("a", "1", expect))?, turn.put(&put("a", "2", expect))?]));
    stored(outcomes[0].clone());
    let PutOutcome::Stale(Some(current)) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!(text(current.clone()), "1");
}

#[test]
fn a_key_deleted_and_created_again_never_matches_an_old_version() {
    let mut bench = Bench::new();
    let old = bench.put("a", "same");
    bench.turn(|turn| turn.delete(&delete("a", Expectation::Anything)));
    bench.restart();
    let new = bench.put("a", "same");
    assert_ne!(old, new);
    let outcome = bench.turn(|turn| turn.put(&put("a", "x", Expectation::Revision(old))));
    assert!(matches!(outcome, PutOutcome::Stale(Some(_))), "{outcome:?}");
}

#[test]
fn expectations_hold_or_tell_what_is_there() {
    let mut bench = Bench::new();
    let stale = |outcome| matches!(outcome, PutOutcome::Stale(_));
    assert!(stale(bench.turn(|turn| turn.put(&put("a", "1", Expectation::Exists)))));
    assert!(stale(bench.turn(|turn| turn.put(&put("a", "1", Expectation::Revision(1))))));
    stored(bench.turn(|turn| turn.put(&put("a", "1", Expectation::Absent))));
    assert!(stale(bench.turn(|turn| turn.put(&put("a", "1", Expectation::Absent)))));
    stored(bench.turn(|turn| turn.put(&put("a", "2", Expectation::Exists))));
    let outcome = bench.turn(|turn| turn.delete(&delete("a", Expectation::Revision(1))));
    assert!(matches!(outcome, DeleteOutcome::Stale(Some(_))));
    let outcome = bench.turn(|turn| turn.delete(&delete("a", Expectation::Revision(2))));
    assert!(matches!(outcome, DeleteOutcome::Deleted(Some(entry)) if entry.revision == 2));
    let outcome = bench.turn(|turn| turn.delete(&delete("a", Expectation::Anything)));
    assert_eq!(outcome, DeleteOutcome::Absent);
    let outcome = bench.turn(|turn| turn.delete(&delete("a", Expectation::Exists)));
    assert_eq!(outcome, DeleteOutcome::Stale(None));
}

#[test]
fn a_refused_write_takes_no_revision_and_syncs_nothing() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let operations = bench.disk.operations();
    bench.turn(|turn| turn.put(&put("a", "2", Expectation::Absent)));
    assert_eq!(bench.store.revision(), 1);
    assert_eq!(bench.disk.operations(), operations);
}

#[test]
fn deleting_a_prefix_leaves_its_neighbours() {
    let mut bench = Bench::new();
    for key in ["a", "a/b", "a/b/1", "a/b/2/3", "a/bc", "a/c"] {
        bench.put(key, "x");
    }
    let outcome = bench.turn(|turn| turn.delete_prefix("a/b", None));
    assert_eq!(outcome, DeletePrefixOutcome::Deleted(2));
    let page = bench.store.list(&List { limit: 100, ..List::default() }).unwrap();
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["a", "a/b", "a/bc", "a/c"]);
    let outcome = bench.turn(|turn| turn.delete_prefix("", None));
    assert_eq!(outcome, DeletePrefixOutcome::Deleted(4));
}

#[test]
fn a_transaction_happens_at_one_moment_and_its_gets_see_the_state_before() {
    let mut bench = Bench::new();
    let version = bench.put("a", "1");
    let outcome = bench.turn(|turn| {
        turn.txn(&Txn {
            conditions: vec![
                ("a".into(), Expectation::Revision(version)),
                ("b".into(), Expectation::Absent),
            ],
            held: vec![],
            ops: vec![
                TxnOp::Get("a".into()),
                txn_put("b", "2"),
                txn_put("c", "3"),
                TxnOp::Delete("d".into()),
            ],
        })
    });
    let TxnOutcome::Committed(results) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(&results[0], TxnResult::Got(Some(entry)) if entry.revision == version));
    assert_eq!(
        results[1..],
        [TxnResult::Stored(version + 1), TxnResult::Stored(version + 1), TxnResult::Deleted(false),]
    );
}

#[test]
fn a_transaction_with_a_condition_that_fails_does_nothing_and_names_it() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let outcome = bench.turn(|turn| {
        turn.txn(&Txn {
            conditions: vec![
                ("x".into(), Expectation::Absent),
                ("a".into(), Expectation::Absent),
                ("y".into(), Expectation::Exists),
            ],
            held: vec![],
            ops: vec![txn_put("b", "2")],
        })
    });
    let TxnOutcome::Stale(mismatches) = outcome else { panic!("{outcome:?}") };
    let indexes: Vec<_> = mismatches.iter().map(|(index, _)| *index).collect();
    assert_eq!(indexes, [1, 2]);
    assert_eq!(bench.value("b"), None);
}

#[test]
fn a_transaction_that_names_a_key_twice_is_refused() {
    let mut bench = Bench::new();
    let ops = vec![txn_put("a", "1"), TxnOp::Delete("a".into())];
    let refused = bench.store.turn(|turn| turn.txn(&Txn { conditions: vec![], held: vec![], ops }));
    assert!(matches!(refused, Err(StoreError::Invalid { .. })));
    let ops = (0..129).map(|index| txn_put(&format!("k{index}"), "")).collect();
    let refused = bench.store.turn(|turn| turn.txn(&Txn { conditions: vec![], held: vec![], ops }));
    assert!(matches!(refused, Err(StoreError::TooLarge { limit: "txn_ops_max", .. })));
}

#[test]
fn writes_guarded_by_a_lease_happen_only_while_it_is_held() {
    let mut bench = Bench::new();
    let lease = bench.hold("lock", Mode::Exclusive).lease;
    let guarded = |value: &str| {
        let mut put = put("a", value, Expectation::Anything);
        put.held = Some(lease);
        put
    };
    stored(bench.turn(|turn| turn.put(&guarded("1"))));
    bench.clock.advance_ms(u64::from(crate::support::TTL_MS));
    // The lease is over although nobody has cleared it away yet.
    assert_eq!(bench.turn(|turn| turn.put(&guarded("2"))), PutOutcome::Fenced);
    let outcome = bench.turn(|turn| {
        let mut delete = delete("a", Expectation::Anything);
        delete.held = Some(lease);
        turn.delete(&delete)
    });
    assert_eq!(outcome, DeleteOutcome::Fenced);
    let outcome = bench.turn(|turn| turn.delete_prefix("", Some(lease)));
    assert_eq!(outcome, DeletePrefixOutcome::Fenced);
    let ops = vec![txn_put("a", "3")];
    let outcome = bench.turn(|turn| turn.txn(&Txn { conditions: vec![], held: vec![lease], ops }));
    assert_eq!(outcome, TxnOutcome::Fenced);
    assert_eq!(bench.value("a").as_deref(), Some("1"));
}

#[test]
fn a_lease_released_earlier_in_the_same_turn_guards_nothing() {
    let mut bench = Bench::new();
    let lease = bench.hold("lock", Mode::Exclusive).lease;
    let outcome = bench.turn(|turn| {
        turn.release(lease)?;
        let mut put = put("a", "1", Expectation::Anything);
        put.held = Some(lease);
        turn.put(&put)
    });
    assert_eq!(outcome, PutOutcome::Fenced);
}

#[test]
fn pages_followed_while_others_write_show_one_moment() {
    let mut bench = Bench::new();
    for index in 0..50 {
        bench.put(&format!("p/{index:02}"), "before");
    }
    let mut list = List { prefix: "p".into(), limit: 7, ..List::default() };
    let mut seen = Vec::new();
    loop {
        let page = bench.store.list(&list).unwrap();
        list.at = Some(page.revision);
        list.after = page.entries.last().map(|entry| entry.key.clone());
        seen.extend(page.entries);
        bench.put(&format!("p/{:02}", seen.len() % 50), "after");
        bench.put(&format!("p/x{}", seen.len()), "new");
        if !page.more {
            break;
        }
    }
    assert_eq!(seen.len(), 50);
    assert!(seen.iter().all(|entry| entry.value == b"before"));
    assert!(seen.is_sorted_by(|left, right| left.key < right.key));
}

#[test]
fn an_answer_that_would_not_fit_is_refused_before_anything_is_written() {
    let mut bench = Bench::new();
    let large = "x".repeat(1024 * 1024);
    let keys: Vec<String> = (0..9).map(|index| format!("k/{index}")).collect();
    for key in &keys {
        bench.put(key, &large);
    }
    let before = bench.store.revision();
    let is_refused =
        |error: StoreError| matches!(error, StoreError::TooLarge { limit: "answer_bytes_max", .. });
    assert!(is_refused(bench.store.entries(&keys, None).unwrap_err()));
    assert_eq!(bench.store.entries(&keys[..7], None).unwrap().len(), 7);
    let mut ops = vec![txn_put("a", "1")];
    ops.extend(keys.iter().cloned().map(TxnOp::Get));
    let txn = Txn { conditions: vec![], held: vec![], ops };
    assert!(is_refused(bench.store.turn(|turn| turn.txn(&txn)).unwrap_err()));
    let absent = |key: &String| (key.clone(), Expectation::Absent);
    let conditions = keys.iter().map(absent).collect();
    let txn = Txn { conditions, held: vec![], ops: vec![] };
    assert!(is_refused(bench.store.turn(|turn| turn.txn(&txn)).unwrap_err()));
    assert_eq!(bench.store.revision(), before);
    assert_eq!(bench.value("a"), None);
}

#[test]
fn the_entry_that_was_there_is_answered_only_when_it_is_asked_for() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let mut request = put("a", "2", Expectation::Anything);
    request.previous = false;
    let outcome = bench.turn(|turn| turn.put(&request));
    assert!(matches!(outcome, PutOutcome::Stored { previous: None, .. }));
    let mut request = delete("a", Expectation::Anything);
    request.previous = false;
    assert_eq!(bench.turn(|turn| turn.delete(&request)), DeleteOutcome::Deleted(None));
}
