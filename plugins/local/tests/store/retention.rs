//! Forgetting the past.

use crate::support::{Bench, put};
use pintle_plugin_local::store::{
    Change, ConfigEvent, ConfigWatch, Delete, Expectation, List, Mode, Options, Retention,
    StoreError, Target, WatchStart,
};

fn keeping(revisions_max: u64, versions_per_key: u32) -> Options {
    let retention = Retention { revisions_max, versions_per_key, ..Retention::default() };
    Options { retention, ..Options::default() }
}

fn delete(bench: &mut Bench, key: &str) {
    let delete =
        Delete { key: key.to_owned(), expect: Expectation::Anything, held: None, previous: true };
    bench.turn(|turn| turn.delete(&delete));
}

fn history(bench: &Bench, key: &str) -> (Vec<u64>, bool) {
    let page = bench.store.history(key, None, 1_000).unwrap();
    (page.changes.iter().map(Change::revision).collect(), page.complete)
}

#[test]
fn the_past_is_forgotten_beyond_its_bounds_and_the_present_never() {
    let mut bench = Bench::with(keeping(100, 3));
    bench.put("seldom", "once");
    for round in 0..500 {
        bench.put(&format!("k/{}", round % 5), &format!("{round}"));
    }
    let compacted = bench.store.compacted();
    assert!((390..=401).contains(&compacted), "compacted through {compacted}");
    assert_eq!(bench.value("seldom").as_deref(), Some("once"));
    assert_eq!(bench.value("k/4").as_deref(), Some("499"));
    let gone = bench.store.entry("k/4", Some(compacted - 1));
    assert!(matches!(gone, Err(StoreError::Compacted { .. })));
    // The oldest revision that is promised can be read in full.
    let list = List { limit: 100, at: Some(compacted), ..List::default() };
    assert_eq!(bench.store.list(&list).unwrap().entries.len(), 6);
    bench.restart();
    assert_eq!(bench.store.compacted(), compacted);
    assert_eq!(bench.store.list(&list).unwrap().entries.len(), 6);
}

#[test]
fn a_key_keeps_its_newest_versions_however_old_they_are() {
    let mut bench = Bench::with(keeping(20, 3));
    let versions: Vec<_> = (0..5).map(|round| bench.put("seldom", &round.to_string())).collect();
    let only = bench.put("once", "x");
    for _ in 0..200 {
        bench.put("hot", "x");
    }
    let expected: Vec<_> = versions.iter().rev().take(3).copied().collect();
    assert_eq!(history(&bench, "seldom"), (expected, false));
    assert_eq!(history(&bench, "once"), (vec![only], true));
}

#[test]
fn of_a_deleted_key_nothing_stays_for_ever() {
    let mut bench = Bench::with(keeping(20, 3));
    bench.put("gone", "x");
    delete(&mut bench, "gone");
    for _ in 0..100 {
        bench.put("hot", "x");
    }
    assert_eq!(history(&bench, "gone"), (vec![], true));
    let again = bench.put("gone", "y");
    assert_eq!(history(&bench, "gone"), (vec![again], true));
}

#[test]
fn a_history_across_a_deletion_is_complete_while_all_of_it_is_kept() {
    let mut bench = Bench::new();
    let first = bench.put("a", "1");
    delete(&mut bench, "a");
    let third = bench.put("a", "2");
    assert_eq!(history(&bench, "a"), (vec![third, first + 1, first], true));
    let page = bench.store.history("a", None, 2).unwrap();
    assert_eq!(page.next, Some(first + 1));
    assert!(page.complete);
    let rest = bench.store.history("a", page.next, 2).unwrap();
    assert_eq!(rest.changes.len(), 1);
    assert_eq!(rest.next, None);
}

#[test]
fn revisions_beyond_the_bytes_are_forgotten() {
    let retention = Retention { bytes_max: 100_000, ..Retention::default() };
    let mut bench = Bench::with(Options { retention, ..Options::default() });
    let value = "x".repeat(10_000);
    for _ in 0..50 {
        bench.put("a", &value);
    }
    assert!(bench.store.compacted() >= 38, "compacted through {}", bench.store.compacted());
}

#[test]
fn revisions_beyond_the_age_are_forgotten() {
    let retention = Retention { age_ms_max: Some(60_000), ..Retention::default() };
    let mut bench = Bench::with(Options { retention, ..Options::default() });
    for _ in 0..10 {
        bench.put("a", "old");
    }
    bench.clock.advance_ms(59_000);
    let young = bench.put("a", "young");
    assert_eq!(bench.store.compacted(), 0);
    bench.clock.advance_ms(10_000);
    let now = bench.put("b", "now");
    assert_eq!(bench.store.compacted(), young - 1);
    assert!(bench.store.entry("a", Some(young)).unwrap().is_some());
    assert!(bench.store.revision() == now);
}

#[test]
fn the_newest_revision_survives_a_log_that_is_empty() {
    let retention = Retention { age_ms_max: Some(1_000), ..Retention::default() };
    let mut bench = Bench::with(Options { retention, ..Options::default() });
    let token = bench.hold("l", Mode::Exclusive).token.unwrap();
    let revision = bench.put("a", "1");
    assert!(revision > token);
    bench.clock.advance_ms(10_000);
    bench.turn(|turn| turn.expire());
    assert_eq!(bench.store.compacted(), revision);
    bench.crash();
    assert_eq!(bench.store.revision(), revision);
    assert_eq!(bench.put("a", "2"), revision + 1);
}

#[test]
fn a_watch_from_before_what_is_kept_says_so_and_begins_anew() {
    let mut bench = Bench::with(keeping(20, 1));
    for round in 0..100 {
        bench.put(&format!("k/{}", round % 3), "x");
    }
    let compacted = bench.store.compacted();
    let target = Target::Prefix("k".into());
    for (start, resync) in
        [(0, true), (compacted - 1, true), (compacted, false), (compacted + 5, false)]
    {
        let mut watch = ConfigWatch::new(target.clone(), WatchStart::After(start), false);
        let first = watch.next(&bench.store).unwrap().remove(0);
        assert_eq!(matches!(first, ConfigEvent::Resync(_)), resync, "from {start}: {first:?}");
    }
    let mut watch = ConfigWatch::new(target, WatchStart::After(1_000), false);
    assert!(matches!(watch.next(&bench.store).unwrap()[0], ConfigEvent::Resync(_)));
}

#[test]
fn a_watch_overtaken_by_forgetting_gets_a_new_snapshot() {
    let mut bench = Bench::with(keeping(20, 1));
    bench.put("a", "1");
    let mut watch = ConfigWatch::new(Target::Key("a".into()), WatchStart::Snapshot, false);
    while !watch.next(&bench.store).unwrap().is_empty() {}
    for round in 0..100 {
        bench.put("a", &round.to_string());
    }
    let mut events = Vec::new();
    loop {
        let more = watch.next(&bench.store).unwrap();
        if more.is_empty() {
            break;
        }
        events.extend(more);
    }
    assert!(matches!(events[0], ConfigEvent::Resync(_)));
    assert_eq!(events[1], ConfigEvent::SnapshotBegin);
    assert!(matches!(&events[2], ConfigEvent::Put { entry, .. } if entry.value == b"99"));
    assert_eq!(events[3], ConfigEvent::SnapshotEnd(bench.store.revision()));
    assert_eq!(events.len(), 4);
}

#[test]
fn a_snapshot_overtaken_by_forgetting_begins_again_at_once() {
    let mut bench = Bench::with(keeping(20, 1));
    for index in 0..600 {
        bench.put(&format!("k/{index:03}"), "x");
    }
    let mut watch = ConfigWatch::new(Target::Prefix("k".into()), WatchStart::Snapshot, false);
    assert_eq!(watch.next(&bench.store).unwrap(), [ConfigEvent::SnapshotBegin]);
    assert_eq!(watch.next(&bench.store).unwrap().len(), 256);
    for _ in 0..100 {
        bench.put("k/000", "y");
    }
    let events = watch.next(&bench.store).unwrap();
    assert!(matches!(events[..], [ConfigEvent::Resync(_), ConfigEvent::SnapshotBegin]));
    let mut entries = 0;
    loop {
        let events = watch.next(&bench.store).unwrap();
        entries += events.iter().filter(|event| matches!(event, ConfigEvent::Put { .. })).count();
        if events.iter().any(|event| matches!(event, ConfigEvent::SnapshotEnd(_))) {
            break;
        }
    }
    assert_eq!(entries, 600);
}

#[test]
fn a_deletion_of_very_many_keys_is_logged_and_forgotten_as_one() {
    let mut bench = Bench::with(keeping(2, 1));
    bench.turn(|turn| {
        for index in 0..20_000 {
            turn.put(&put(&format!("k/{index}"), "x", Expectation::Anything))?;
        }
        Ok(())
    });
    let before = bench.store.revision();
    bench.turn(|turn| turn.delete_prefix("k", None));
    let mut watch = ConfigWatch::new(Target::Prefix("k".into()), WatchStart::After(before), true);
    let mut removed = 0;
    loop {
        let events = watch.next(&bench.store).unwrap();
        if events.is_empty() {
            break;
        }
        for event in events {
            assert!(matches!(event, ConfigEvent::Removed { previous: Some(_), .. }), "{event:?}");
            removed += 1;
        }
    }
    assert_eq!(removed, 20_000);
    // It takes several turns; from the first on the revision counts as gone, also over a restart.
    let mut turns = 0;
    let kept = |bench: &Bench| {
        (0..20_000).filter(|index| !history(bench, &format!("k/{index}")).0.is_empty()).count()
    };
    while kept(&bench) > 0 {
        bench.put("a", "x");
        bench.restart();
        turns += 1;
        let at_before = bench.store.entry("k/7", Some(before));
        let gone = matches!(at_before, Err(StoreError::Compacted { .. }));
        assert!(gone || kept(&bench) == 20_000, "a revision is read of which parts are gone");
        assert!(turns < 100, "the past is not forgotten");
    }
    assert!(turns > 10, "{turns} turns forgot it all");
    assert!(bench.store.compacted() > before);
}
