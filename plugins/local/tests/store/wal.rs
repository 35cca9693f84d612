//! The log ahead of the database: what it costs, how it ends, and what happens to one that is
//! damaged, lost, or of another life of the store.

use crate::disk::Disk;
use crate::support::{Bench, ManualClock, TTL_MS, open, put, register, try_open};
use pintle_plugin_local::store::{Adoption, Expectation, Mode, Options, StoreError};
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;

fn options(log_bytes: usize) -> Options {
    Options { log_bytes, ..Options::default() }
}

/// What opening a disk says that it cannot do.
fn refusal(disk: &Disk) -> String {
    match try_open(disk, &Arc::new(ManualClock::default()), &Options::default()) {
        Err(error @ StoreError::Unusable { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}

/// The value of `a` on a disk, as somebody finds it who opens the store there.
fn value(disk: &Disk) -> Option<String> {
    let store = open(disk, &Arc::new(ManualClock::default()), &Options::default());
    let entry = store.entry("a", None).unwrap();
    entry.map(|entry| String::from_utf8(entry.value).unwrap())
}

#[test]
fn a_change_is_durable_with_one_write_and_one_sync() {
    let mut bench = Bench::new();
    let mut counted = |change: &dyn Fn(&mut Bench)| {
        let before = bench.disk.operations();
        change(&mut bench);
        bench.disk.operations() - before
    };
    assert_eq!(counted(&|bench| assert_eq!(bench.put("a", "1"), 1)), 2);
    assert_eq!(counted(&|bench| assert!(bench.hold("l", Mode::Exclusive).token.is_some())), 2);
    let request = register("s", "1");
    let changed = counted(&|bench| {
        bench.turn(|turn| {
            turn.expire()?;
            turn.register(&request, Adoption::NamedOnly)
        });
    });
    assert_eq!(changed, 2);
    assert_eq!(counted(&|bench| bench.turn(|turn| turn.expire())), 0, "nothing was changed");
}

#[test]
fn a_full_log_begins_anew_and_nothing_is_lost_at_any_point() {
    let mut bench = Bench::with(options(8 * SECTOR_BYTES));
    let mut checkpoints = 0;
    for number in 0..40 {
        let before = bench.disk.operations();
        bench.put("a", &number.to_string());
        checkpoints += u32::from(bench.disk.operations() - before > 2);
        let left = bench.disk.after_crash(|| false);
        assert_eq!(value(&left), Some(number.to_string()));
    }
    // Seven records fit behind the head of the file, and the eighth change takes the database.
    assert_eq!(checkpoints, 5);
}

#[test]
fn a_change_that_is_larger_than_the_log_goes_to_the_database() {
    let mut bench = Bench::with(options(4 * SECTOR_BYTES));
    let large = "x".repeat(5 * SECTOR_BYTES);
    for value in ["1", large.as_str(), "3"] {
        bench.put("a", value);
        bench.crash();
        assert_eq!(bench.value("a").as_deref(), Some(value));
    }
}

#[test]
fn a_store_that_was_closed_needs_no_log() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.store.close().unwrap();
    bench.disk.log().replace(vec![]);
    assert_eq!(value(&bench.disk).as_deref(), Some("1"));
}

#[test]
fn a_log_that_is_missing_is_noticed() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let left = bench.disk.after_crash(|| false);
    left.log().replace(vec![]);
    let text = refusal(&left);
    assert!(text.contains("(memory, log)") && text.contains("missing"), "{text}");
    assert!(text.contains("put an empty file here"), "{text}");
}

#[test]
fn damage_to_the_log_is_noticed_unless_it_is_at_its_end() {
    const PUTS: usize = 12;
    let mut bench = Bench::new();
    for number in 0..PUTS {
        bench.put("a", &number.to_string());
    }
    let sound = bench.disk.after_crash(|| false).log().bytes();
    let used = (PUTS + 1) * SECTOR_BYTES;
    assert!(sound[used..].iter().all(|byte| *byte == 0), "a record took more than a sector");
    let mut lost = 0;
    let mut refused = 0;
    for offset in (0..used).step_by(11) {
        let left = bench.disk.after_crash(|| false);
        let mut damaged = sound.clone();
        damaged[offset] ^= 0x5A;
        left.log().replace(damaged);
        match try_open(&left, &Arc::new(ManualClock::default()), &Options::default()) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("(memory, log)"), "damage at {offset}: {error}");
            }
            Ok(store) => {
                let entry = store.entry("a", None).unwrap().unwrap();
                let number: usize = String::from_utf8(entry.value).unwrap().parse().unwrap();
                // The last record cannot be told from one that was being written.
                lost += usize::from(number != PUTS - 1);
                assert!(number == PUTS - 1 || offset >= used - SECTOR_BYTES, "damage at {offset}");
                assert!(number >= PUTS - 2, "damage at {offset}");
            }
        }
    }
    assert!(refused > 0 && lost > 0, "{refused} refused, {lost} lost: the test is too weak");
}

#[test]
fn a_log_that_was_cut_short_is_noticed() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let log = bench.disk.after_crash(|| false).log().bytes();
    for length in [1, 20, SECTOR_BYTES, log.len() / 2, log.len() - 1] {
        let left = bench.disk.after_crash(|| false);
        left.log().replace(log[..length].to_vec());
        let text = refusal(&left);
        assert!(text.contains("(memory, log)"), "{length} bytes: {text}");
    }
}

#[test]
fn a_file_of_somebody_else_is_not_taken_for_the_log() {
    let mut bench = Bench::new();
    bench.store.close().unwrap();
    bench.disk.log().replace(b"what I had to say in this matter".to_vec());
    let text = refusal(&bench.disk);
    assert!(text.contains("no log of Pintle; move the file away"), "{text}");
    assert!(bench.disk.log().bytes().starts_with(b"what I had"), "it was overwritten");
}

#[test]
fn a_copy_that_was_put_back_is_not_mixed_with_the_log_of_a_later_life() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.restart();
    bench.put("a", "2");
    bench.store.close().unwrap();
    let copy = bench.disk.database().bytes();
    bench.store = open(&bench.disk, &bench.clock, &bench.options);
    for _ in 0..5 {
        bench.put("a", "3");
    }
    bench.crash();
    bench.store.close().unwrap();
    bench.disk.database().replace(copy);
    bench.store = open(&bench.disk, &bench.clock, &bench.options);
    assert_eq!(bench.value("a").as_deref(), Some("2"));
    // Records of before lie behind this one.
    bench.put("a", "4");
    bench.crash();
    assert_eq!(bench.value("a").as_deref(), Some("4"));
}

#[test]
fn what_a_failed_write_left_in_the_log_is_settled_by_the_recovery() {
    for operations in 0..3 {
        let mut bench = Bench::new();
        bench.put("a", "1");
        bench.disk.fail_after(operations, std::io::ErrorKind::Other);
        let outcome = bench.store.turn(|turn| turn.put(&put("a", "2", Expectation::Anything)));
        assert_eq!(outcome.is_ok(), operations == 2, "after {operations}");
        bench.disk.heal();
        bench.store.recover().unwrap();
        let settled = bench.value("a");
        // What was found is what stays, also where the disk lost what it had not confirmed.
        bench.crash();
        assert_eq!(bench.value("a"), settled, "after {operations}");
    }
}

#[test]
fn what_was_acknowledged_and_could_not_be_shown_is_there_after_the_recovery() {
    let mut bench = Bench::with(Options { cache_bytes: 0, ..Options::default() });
    bench.put("a", "1");
    assert_eq!(bench.value("a").as_deref(), Some("1"));
    bench.disk.fail_after(2, std::io::ErrorKind::Other);
    bench.put("a", "2");
    let failed = bench.store.entry("a", None).unwrap_err();
    assert!(failed.closes_store() && !failed.maybe_durable(), "{failed}");
    bench.store.note_failure(&failed);
    bench.disk.heal();
    bench.store.recover().unwrap();
    assert_eq!(bench.value("a").as_deref(), Some("2"));
}

#[test]
fn on_a_full_disk_all_that_was_acknowledged_can_be_read_and_goes_on_when_there_is_room() {
    let mut bench = Bench::with(options(32 * SECTOR_BYTES));
    bench.disk.set_full(true);
    let large = |number: usize| format!("{number:04}").repeat(200);
    let put = |bench: &mut Bench, number: usize| {
        let change = put(&format!("k/{number}"), &large(number), Expectation::Anything);
        bench.store.turn(|turn| turn.put(&change)).map(drop)
    };
    let mut acknowledged = 0;
    // Until a recovery finds no room at all.
    loop {
        let before = acknowledged;
        let refused = loop {
            match put(&mut bench, acknowledged) {
                Ok(()) => acknowledged += 1,
                Err(refused) => break refused,
            }
        };
        assert!(refused.is_disk_full(), "{refused}");
        bench.store.recover().unwrap();
        for number in 0..acknowledged {
            assert_eq!(bench.value(&format!("k/{number}")), Some(large(number)));
        }
        if acknowledged == before {
            break;
        }
    }
    assert!(acknowledged > 3, "{acknowledged} were acknowledged: the test is too weak");
    assert!(put(&mut bench, acknowledged).unwrap_err().is_disk_full());
    bench.disk.set_full(false);
    bench.store.recover().unwrap();
    put(&mut bench, acknowledged).unwrap();
    bench.crash();
    for number in 0..=acknowledged {
        assert_eq!(bench.value(&format!("k/{number}")), Some(large(number)));
    }
}

#[test]
fn a_database_of_before_a_checkpoint_is_not_continued_by_the_log_behind_it() {
    let mut bench = Bench::with(options(4 * SECTOR_BYTES));
    let mut earlier = bench.disk.database().bytes();
    for number in 0.. {
        let before = bench.disk.operations();
        bench.put("a", &number.to_string());
        if number > 4 && bench.disk.operations() - before > 2 {
            break;
        }
        earlier = bench.disk.database().bytes();
    }
    bench.put("a", "behind the checkpoint");
    let left = bench.disk.after_crash(|| false);
    left.database().replace(earlier);
    assert!(refusal(&left).contains("later state"), "{}", refusal(&left));
}

#[test]
fn what_leases_keep_comes_back_from_the_log() {
    let mut bench = Bench::new();
    let held = bench.hold("l", Mode::Exclusive);
    let released = bench.hold("gone", Mode::Exclusive);
    bench.turn(|turn| turn.release(released.lease));
    bench.crash();
    assert_eq!(bench.store.lock("l").unwrap().holders.len(), 1);
    assert!(bench.store.lock("gone").unwrap().holders.is_empty());
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    assert!(bench.store.is_valid(held.lease));
}
