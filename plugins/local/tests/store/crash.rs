//! Power cuts at every point, and disks that fail and come back.

use crate::disk::Disk;
use crate::support::{Bench, ManualClock, TTL_MS, acquire, open, put, register};
use pintle_plugin_local::store::{
    Acquired, Adoption, Expectation, List, Mode, Options, Registered, Store, StoreError, Txn, TxnOp,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

type State = BTreeMap<String, Vec<u8>>;

/// One turn: some transactions, each of which writes the same value to two keys.
type Group = Vec<(u8, u8)>;

fn apply(state: &mut State, group: &Group) {
    for (key, value) in group {
        for side in ["left", "right"] {
            state.insert(format!("{side}/{}", key % 6), vec![*value; 700]);
        }
    }
}

fn write(store: &mut Store, group: &Group) -> Result<(), StoreError> {
    let work = |turn: &mut pintle_plugin_local::store::Turn<'_>| {
        for (key, value) in group {
            let ops = ["left", "right"].map(|side| TxnOp::Put {
                key: format!("{side}/{}", key % 6),
                value: vec![*value; 700],
                content_type: None,
            });
            turn.txn(&Txn { conditions: vec![], held: vec![], ops: ops.to_vec() })?;
        }
        Ok(())
    };
    store.turn(work).map(drop)
}

fn read(store: &Store) -> State {
    let page = store.list(&List { limit: 1_000, ..List::default() }).unwrap();
    assert!(!page.more);
    page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// Opens what a power cut left and checks it: all that was acknowledged is there, and what was
/// under way is there as a whole or not at all.
fn check_after_crash(disk: &Disk, acknowledged: &State, revision: u64, under_way: &Group) {
    let clock = Arc::new(ManualClock::default());
    let mut store = open(disk, &clock, &Options::default());
    let state = read(&store);
    let mut complete = acknowledged.clone();
    apply(&mut complete, under_way);
    if store.revision() == revision {
        assert_eq!(&state, acknowledged, "an acknowledged write is lost or another appeared");
    } else {
        assert_eq!(store.revision(), revision + under_way.len() as u64);
        assert_eq!(state, complete, "a turn took effect in part");
    }
    // And it goes on from there.
    let before = store.revision();
    write(&mut store, &vec![(1, 2)]).unwrap();
    assert_eq!(store.revision(), before + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_loses_nothing_acknowledged_and_leaves_nothing_half_done(
        groups in prop::collection::vec(
            prop::collection::vec((any::<u8>(), any::<u8>()), 1..5), 1..8),
        cut in 0u64..64,
        luck in prop::collection::vec(any::<bool>(), 64),
        // A log that is always full, one that is so now and then, and one that never is.
        log_bytes in prop_oneof![Just(1_024), Just(16 * 1_024), Just(256 * 1_024)],
        // Pages of changes that are in the log only may lie in the file.
        cache_bytes in prop_oneof![Just(0), Just(8 * 1_024 * 1_024)],
    ) {
        let mut bench = Bench::with(Options { log_bytes, cache_bytes, ..Options::default() });
        // A turn takes two operations where the log has room.
        let cut = if log_bytes == 1_024 { cut } else { cut % 16 };
        bench.disk.fail_after(cut, ErrorKind::Other);
        let (mut acknowledged, mut revision, mut under_way) = (State::new(), 0, Group::new());
        for group in &groups {
            match write(&mut bench.store, group) {
                Ok(()) => {
                    apply(&mut acknowledged, group);
                    revision = bench.store.revision();
                }
                Err(error) => {
                    prop_assert!(error.is_fault());
                    under_way = group.clone();
                    break;
                }
            }
        }
        check_after_crash(&bench.disk.after_crash(|| false), &acknowledged, revision, &under_way);
        check_after_crash(&bench.disk.after_crash(|| true), &acknowledged, revision, &under_way);
        let mut luck = luck.iter().cycle();
        let some = bench.disk.after_crash(|| *luck.next().unwrap());
        check_after_crash(&some, &acknowledged, revision, &under_way);
    }
}

#[test]
fn the_disk_of_these_tests_does_lose_what_was_not_synced() {
    use redb::StorageBackend;
    let disk = Disk::default();
    let file = disk.database();
    file.write(0, b"synced").unwrap();
    file.sync_data().unwrap();
    file.write(0, b"UNSYNC").unwrap();
    let mut found = [0; 6];
    disk.after_crash(|| false).database().read(0, &mut found).unwrap();
    assert_eq!(&found, b"synced");
    disk.after_crash(|| true).database().read(0, &mut found).unwrap();
    assert_eq!(&found, b"UNSYNC");
}

#[test]
fn tokens_rise_over_restarts_and_crashes() {
    let mut bench = Bench::new();
    let mut last = 0;
    for round in 0..12 {
        let grant = bench.hold("l", Mode::Exclusive);
        let token = grant.token.unwrap();
        assert!(token > last, "token {token} after {last} in round {round}");
        last = token;
        match round % 3 {
            0 => {
                bench.turn(|turn| turn.release(grant.lease));
                bench.restart();
            }
            1 => {
                bench.turn(|turn| turn.release(grant.lease));
                bench.crash();
            }
            _ => {
                bench.crash();
                bench.clock.advance_ms(u64::from(TTL_MS));
            }
        }
    }
}

#[test]
fn a_lock_held_at_a_crash_stays_held_for_a_full_ttl() {
    let mut bench = Bench::new();
    bench.hold("l", Mode::Exclusive);
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    bench.crash();
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    assert!(matches!(bench.acquire(&acquire("l", Mode::Exclusive, false)), Acquired::Busy(_)));
    bench.clock.advance_ms(1);
    assert!(matches!(bench.acquire(&acquire("l", Mode::Exclusive, false)), Acquired::Held(_)));
}

#[test]
fn a_successor_that_names_its_predecessor_removes_its_locks_and_adopts_its_registrations() {
    let mut bench = Bench::new();
    bench.hold("l", Mode::Exclusive);
    let request = register("s", "1");
    bench.turn(|turn| turn.register(&request, Adoption::NamedOnly));
    let predecessor = bench.store.incarnation();
    bench.crash();
    let other = bench.turn(|turn| turn.register(&request, Adoption::NamedOnly));
    assert!(matches!(other, Registered::Taken(_)), "adopted without being named");
    let effects = bench.effects(|turn| turn.succeed(&[predecessor]));
    assert_eq!(effects.locks.len(), 1);
    bench.hold("l", Mode::Exclusive);
    let adopted = bench.turn(|turn| turn.register(&request, Adoption::NamedOnly));
    let Registered::Registered { lease, .. } = adopted else { panic!("{adopted:?}") };
    let states = bench.store.instances("s", None, 10).unwrap();
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].lease, Some(lease));
}

#[test]
fn a_full_disk_is_told_apart_and_the_store_goes_on_when_there_is_room_again() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let held = bench.hold("l", Mode::Exclusive);
    let waiter = bench.wait_for("l", Mode::Exclusive);
    bench.disk.fail_after(0, ErrorKind::StorageFull);
    let failed = bench.store.turn(|turn| turn.put(&put("a", "2", Expectation::Anything)));
    let error = failed.unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert!(error.maybe_durable(), "a commit that failed may have reached the disk");
    assert!(matches!(bench.store.entry("a", None), Err(StoreError::Closed { .. })));
    assert!(bench.store.recover().is_err(), "the disk is still full");
    bench.disk.heal();
    bench.store.recover().unwrap();
    assert_eq!(bench.value("a").as_deref(), Some("1"));
    // Who held and who waited still does.
    assert!(bench.store.is_valid(held.lease));
    let (released, effects) = bench.store.turn(|turn| turn.release(held.lease)).unwrap();
    assert!(released);
    assert_eq!(effects.granted[0].lease, waiter);
}

/// Fails the disk at each operation of a turn in turn, brings it back, and looks at the locks.
#[test]
fn a_grant_that_nobody_was_told_of_is_taken_back() {
    let mut durable_all_the_same = 0;
    for operations in 0..40 {
        let mut bench = Bench::new();
        let before = bench.hold("other", Mode::Exclusive);
        bench.disk.fail_after(operations, ErrorKind::Other);
        let outcome = bench.store.turn(|turn| {
            turn.release(before.lease)?;
            turn.register(&register("s", "1"), Adoption::NamedOnly)?;
            turn.acquire(&acquire("l", Mode::Exclusive, false))
        });
        if outcome.is_ok() {
            assert!(durable_all_the_same > 0, "no failed commit was durable: the test is too weak");
            return;
        }
        bench.disk.heal();
        let effects = bench.store.recover().unwrap();
        assert!(bench.store.lock("l").unwrap().holders.is_empty(), "after {operations}");
        assert!(bench.store.instances("s", None, 9).unwrap().is_empty(), "after {operations}");
        let still_held = bench.store.lock("other").unwrap().holders.len() == 1;
        durable_all_the_same += u32::from(!still_held);
        let told = effects.ended.iter().any(|(lease, _)| *lease == before.lease);
        assert_eq!(told, !still_held, "after {operations}");
        // Nor does the disk remember.
        bench.restart();
        assert!(bench.store.lock("l").unwrap().holders.is_empty(), "after {operations}");
        assert!(bench.store.instances("s", None, 9).unwrap().is_empty(), "after {operations}");
    }
    panic!("40 operations were not enough for a turn");
}

#[test]
fn waiters_get_their_lock_after_a_recovery_that_freed_it() {
    for operations in 0..40 {
        let mut bench = Bench::new();
        let held = bench.hold("l", Mode::Exclusive);
        let waiter = bench.wait_for("l", Mode::Exclusive);
        bench.disk.fail_after(operations, ErrorKind::Other);
        if bench.store.turn(|turn| turn.release(held.lease)).is_ok() {
            return;
        }
        bench.disk.heal();
        let recovered = bench.store.recover().unwrap();
        let (_, released) = bench.store.turn(|turn| turn.release(held.lease)).unwrap();
        let grants: Vec<_> =
            recovered.granted.iter().chain(&released.granted).map(|grant| grant.lease).collect();
        assert_eq!(grants, [waiter], "after {operations}");
    }
    panic!("40 operations were not enough for a turn");
}

#[test]
fn a_large_store_needs_no_repair_after_a_crash_and_a_small_one_does() {
    let repairs = |quick_repair_bytes_min, puts: u32| {
        let options = Options { quick_repair_bytes_min, ..Options::default() };
        let mut bench = Bench::with(options);
        for index in 0..puts {
            bench.put(&format!("k/{index}"), "x");
        }
        bench.crash();
        let after_writing = bench.disk.repairs();
        // Nothing is written this time but that the store was opened.
        bench.crash();
        (after_writing, bench.disk.repairs())
    };
    assert_eq!(repairs(u64::MAX, 100), (1, 1));
    assert_eq!(repairs(0, 100), (0, 0));
}
