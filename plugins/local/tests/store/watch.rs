//! Watches on keys.

use crate::support::Bench;
use pintle_plugin_local::store::{ConfigEvent, ConfigWatch, Target, WatchStart};

fn drain(bench: &Bench, watch: &mut ConfigWatch) -> Vec<ConfigEvent> {
    let mut all = Vec::new();
    loop {
        let events = watch.next(&bench.store).unwrap();
        if events.is_empty() {
            return all;
        }
        all.extend(events);
    }
}

#[test]
fn a_watch_begins_with_every_key_of_its_target_and_nothing_else() {
    let mut bench = Bench::new();
    for key in ["a", "a/b", "a/b/1", "a/b/2", "a/bc"] {
        bench.put(key, "x");
    }
    let mut watch = ConfigWatch::new(Target::Prefix("a/b".into()), WatchStart::Snapshot, true);
    assert_eq!(watch.complete_through(), None);
    let events = drain(&bench, &mut watch);
    assert_eq!(events[0], ConfigEvent::SnapshotBegin);
    assert_eq!(events[3], ConfigEvent::SnapshotEnd(5));
    let keys: Vec<_> = events[1..3]
        .iter()
        .map(|event| match event {
            ConfigEvent::Put { entry, previous: None } => entry.key.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys, ["a/b/1", "a/b/2"]);
    assert_eq!(watch.complete_through(), Some(5));
}

#[test]
fn a_snapshot_shows_one_moment_and_what_comes_later_follows_it() {
    let mut bench = Bench::new();
    for index in 0..1_000 {
        bench.turn(|turn| {
            let put = crate::support::put(
                &format!("k/{index:04}"),
                "before",
                pintle_plugin_local::store::Expectation::Anything,
            );
            turn.put(&put)
        });
    }
    let mut watch = ConfigWatch::new(Target::Prefix("k".into()), WatchStart::Snapshot, true);
    let mut events = Vec::new();
    for step in 0..6 {
        events.extend(watch.next(&bench.store).unwrap());
        bench.put(&format!("k/{:04}", step * 190), "after");
        bench.put(&format!("k/new{step}"), "after");
    }
    events.extend(drain(&bench, &mut watch));
    let end = events
        .iter()
        .position(|event| matches!(event, ConfigEvent::SnapshotEnd(1_000)))
        .expect("the snapshot ends");
    assert_eq!(end, 1_001);
    for event in &events[1..end] {
        assert!(matches!(event, ConfigEvent::Put { entry, .. } if entry.value == b"before"));
    }
    assert_eq!(events.len() - end - 1, 12);
    assert!(matches!(
        &events[end + 1],
        ConfigEvent::Put { previous: Some(previous), .. } if previous.value == b"before"
    ));
}

#[test]
fn a_watch_of_one_key_sees_each_write_once_and_in_order() {
    let mut bench = Bench::new();
    let mut watch = ConfigWatch::new(Target::Key("a".into()), WatchStart::Snapshot, false);
    let events = drain(&bench, &mut watch);
    assert_eq!(events, [ConfigEvent::SnapshotBegin, ConfigEvent::SnapshotEnd(0)]);
    for round in 0..600 {
        bench.put("a", &round.to_string());
        bench.put("a/b", "other");
    }
    let values: Vec<_> = drain(&bench, &mut watch)
        .into_iter()
        .map(|event| match event {
            ConfigEvent::Put { entry, previous: None } => crate::support::text(entry),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = (0..600).map(|round| round.to_string()).collect();
    assert_eq!(values, expected);
    assert_eq!(watch.complete_through(), Some(bench.store.revision()));
}

#[test]
fn a_watch_goes_on_after_a_restart_of_the_store_from_where_it_was() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let mut watch = ConfigWatch::new(Target::Key("a".into()), WatchStart::Snapshot, true);
    drain(&bench, &mut watch);
    let seen = watch.complete_through().unwrap();
    bench.put("a", "2");
    bench.crash();
    let mut watch = ConfigWatch::new(Target::Key("a".into()), WatchStart::After(seen), true);
    let events = drain(&bench, &mut watch);
    assert_eq!(events.len(), 1);
    assert!(matches!(
        &events[0],
        ConfigEvent::Put { entry, previous: Some(previous) }
            if entry.value == b"2" && previous.value == b"1"
    ));
}
