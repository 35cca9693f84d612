//! Instances: who keeps them, when they go, and what operators say of them.

use crate::support::{Bench, TTL_MS, instance, register};
use pintle_plugin_local::store::{
    Added, Adoption, Instance, Override, Register, Registered, RegistryEvent, RegistryWatch,
    Removed, StoreError,
};
use std::collections::BTreeMap;

fn registered(bench: &mut Bench, request: &Register) -> u64 {
    match bench.turn(|turn| turn.register(request, Adoption::NamedOnly)) {
        Registered::Registered { lease, validity } => {
            assert_eq!(validity.valid_for_ms, request.ttl_ms);
            lease
        }
        taken => panic!("{taken:?}"),
    }
}

fn ids(bench: &Bench, service: &str) -> Vec<String> {
    let states = bench.store.instances(service, None, 1_000).unwrap();
    states.into_iter().map(|state| state.instance.id).collect()
}

fn disabled(note: &str) -> Override {
    Override { enabled: Some(false), weight: None, note: note.to_owned() }
}

#[test]
fn an_instance_is_listed_until_it_is_deregistered() {
    let mut bench = Bench::new();
    let lease = registered(&mut bench, &register("s", "1"));
    let states = bench.store.instances("s", None, 10).unwrap();
    assert_eq!(states[0].instance, instance("s", "1"));
    assert_eq!(states[0].owner, "node/local");
    assert!(bench.turn(|turn| turn.deregister(lease)));
    assert!(!bench.turn(|turn| turn.deregister(lease)));
    assert!(ids(&bench, "s").is_empty());
}

#[test]
fn of_two_owners_of_one_name_one_is_registered() {
    let mut bench = Bench::new();
    registered(&mut bench, &register("s", "1"));
    let other = Register { owner: "other".into(), ..register("s", "1") };
    let outcome = bench.turn(|turn| turn.register(&other, Adoption::SameOwnerAndAddress));
    let Registered::Taken(state) = outcome else { panic!("{outcome:?}") };
    assert_eq!(state.owner, "node/local");
}

#[test]
fn an_instance_whose_owner_is_silent_goes_within_its_ttl() {
    let mut bench = Bench::new();
    let kept = registered(&mut bench, &register("s", "kept"));
    let lease = registered(&mut bench, &register("s", "silent"));
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    assert!(bench.store.renew(kept).is_some());
    bench.clock.advance_ms(1);
    let effects = bench.effects(|turn| turn.expire());
    assert_eq!(effects.ended.iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), [lease]);
    assert_eq!(ids(&bench, "s"), ["kept"]);
}

#[test]
fn a_name_can_be_had_as_soon_as_its_owner_is_gone() {
    let mut bench = Bench::new();
    registered(&mut bench, &register("s", "1"));
    bench.clock.advance_ms(u64::from(TTL_MS));
    // Nobody has cleared it away yet.
    registered(&mut bench, &register("s", "1"));
    assert_eq!(ids(&bench, "s"), ["1"]);
}

#[test]
fn after_a_crash_instances_stay_for_a_full_ttl_and_go_unless_they_are_repeated() {
    let mut bench = Bench::new();
    registered(&mut bench, &register("s", "1"));
    registered(&mut bench, &register("s", "2"));
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    bench.crash();
    assert_eq!(ids(&bench, "s"), ["1", "2"]);
    let request = register("s", "1");
    let again = bench.turn(|turn| turn.register(&request, Adoption::SameOwnerAndAddress));
    let Registered::Registered { lease, .. } = again else { panic!("{again:?}") };
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    bench.store.renew(lease).unwrap();
    bench.turn(|turn| turn.expire());
    assert_eq!(ids(&bench, "s"), ["1", "2"]);
    bench.clock.advance_ms(1);
    bench.turn(|turn| turn.expire());
    assert_eq!(ids(&bench, "s"), ["1"]);
}

#[test]
fn a_name_is_not_adopted_by_another_owner_or_from_another_address() {
    let mut bench = Bench::new();
    registered(&mut bench, &register("s", "1"));
    bench.crash();
    let other_owner = Register { owner: "other".into(), ..register("s", "1") };
    let moved = Instance { host: "10.0.0.2".into(), ..instance("s", "1") };
    let other_address = Register { instance: moved, ..register("s", "1") };
    for request in [other_owner, other_address] {
        let outcome = bench.turn(|turn| turn.register(&request, Adoption::SameOwnerAndAddress));
        assert!(matches!(outcome, Registered::Taken(_)), "{outcome:?}");
    }
}

#[test]
fn an_adopted_instance_keeps_the_time_of_its_registration() {
    let mut bench = Bench::new();
    registered(&mut bench, &register("s", "1"));
    let before = bench.store.instances("s", None, 1).unwrap()[0].registered_ms;
    bench.clock.advance_ms(500);
    bench.restart();
    let request = register("s", "1");
    bench.turn(|turn| turn.register(&request, Adoption::SameOwnerAndAddress));
    assert_eq!(bench.store.instances("s", None, 1).unwrap()[0].registered_ms, before);
}

#[test]
fn an_update_replaces_the_record_but_not_the_name() {
    let mut bench = Bench::new();
    let lease = registered(&mut bench, &register("s", "1"));
    let changed = Instance { weight: 7, ..instance("s", "1") };
    assert!(bench.turn(|turn| turn.update(lease, &changed)));
    assert_eq!(bench.store.instances("s", None, 1).unwrap()[0].instance.weight, 7);
    let renamed = instance("s", "2");
    let refused = bench.store.turn(|turn| turn.update(lease, &renamed));
    assert!(matches!(refused, Err(StoreError::Invalid { .. })));
    bench.turn(|turn| turn.deregister(lease));
    assert!(!bench.turn(|turn| turn.update(lease, &changed)));
}

#[test]
fn persistent_instances_stay_until_they_are_removed() {
    let mut bench = Bench::new();
    let stored = instance("s", "p");
    assert_eq!(bench.turn(|turn| turn.add(&stored, false, "o")), Added::Stored);
    assert!(matches!(bench.turn(|turn| turn.add(&stored, false, "o")), Added::Taken(_)));
    assert_eq!(bench.turn(|turn| turn.add(&stored, true, "o")), Added::Stored);
    let request = register("s", "p");
    let outcome = bench.turn(|turn| turn.register(&request, Adoption::SameOwnerAndAddress));
    assert!(matches!(outcome, Registered::Taken(_)));
    bench.crash();
    bench.clock.advance_ms(u64::from(TTL_MS) * 10);
    bench.turn(|turn| turn.expire());
    assert_eq!(ids(&bench, "s"), ["p"]);
    assert_eq!(bench.turn(|turn| turn.remove("s", "p")), Removed::Removed);
    assert_eq!(bench.turn(|turn| turn.remove("s", "p")), Removed::Absent);
}

#[test]
fn a_live_instance_is_neither_replaced_nor_removed_by_others() {
    let mut bench = Bench::new();
    registered(&mut bench, &register("s", "1"));
    let stored = instance("s", "1");
    assert!(matches!(bench.turn(|turn| turn.add(&stored, true, "o")), Added::Taken(_)));
    assert_eq!(bench.turn(|turn| turn.remove("s", "1")), Removed::Ephemeral);
    bench.clock.advance_ms(u64::from(TTL_MS));
    assert_eq!(bench.turn(|turn| turn.remove("s", "1")), Removed::Absent);
}

#[test]
fn an_override_survives_the_instance_and_the_store() {
    let mut bench = Bench::new();
    let word = disabled("leaks memory");
    bench.turn(|turn| turn.set_override("s", "1", Some(word.clone())));
    let lease = registered(&mut bench, &register("s", "1"));
    let state = bench.store.instances("s", None, 1).unwrap().remove(0);
    assert_eq!(state.operator.as_ref(), Some(&word));
    assert!(state.instance.enabled, "the override is not merged into the record");
    bench.turn(|turn| turn.deregister(lease));
    bench.crash();
    registered(&mut bench, &register("s", "1"));
    let before = bench.store.instances("s", None, 1).unwrap().remove(0);
    assert_eq!(before.operator, Some(word));
    bench.turn(|turn| turn.set_override("s", "1", None));
    let after = bench.store.instances("s", None, 1).unwrap().remove(0);
    assert_eq!(after.operator, None);
    assert!(after.revision > before.revision);
}

#[test]
fn services_and_instances_come_in_pages_in_the_order_of_their_bytes() {
    let mut bench = Bench::new();
    for (service, id) in [("b", "2"), ("a", "1"), ("b", "10"), ("a b", "1"), ("b", "1")] {
        registered(&mut bench, &register(service, id));
    }
    let (first, more) = bench.store.services(None, 2).unwrap();
    assert!(more);
    let (second, more) = bench.store.services(Some(&first[1].name), 2).unwrap();
    assert!(!more);
    let all: Vec<_> = first.iter().chain(&second).map(|s| (s.name.as_str(), s.instances)).collect();
    assert_eq!(all, [("a", 1), ("a b", 1), ("b", 3)]);
    let first = bench.store.instances("b", None, 2).unwrap();
    let second = bench.store.instances("b", Some(&first[1].instance.id), 2).unwrap();
    let ids: Vec<_> = first.iter().chain(&second).map(|state| state.instance.id.as_str()).collect();
    assert_eq!(ids, ["1", "10", "2"]);
}

#[test]
fn bad_records_are_refused() {
    let mut bench = Bench::new();
    let many = (0..65).map(|index| (format!("l{index}"), String::new())).collect();
    let bad = [
        Instance { service: String::new(), ..instance("s", "1") },
        Instance { id: "a\0b".into(), ..instance("s", "1") },
        Instance { id: "x".repeat(256), ..instance("s", "1") },
        Instance { weight: 10_001, ..instance("s", "1") },
        Instance { labels: vec![(String::new(), String::new())], ..instance("s", "1") },
        Instance { labels: many, ..instance("s", "1") },
    ];
    for instance in bad {
        let outcome = bench.store.turn(|turn| turn.add(&instance, false, "o"));
        assert!(outcome.is_err(), "{instance:?}");
    }
    assert_eq!(bench.store.services(None, 10).unwrap().0, []);
}

/// A follower's idea of a service, kept by the rules of a watch.
#[derive(Default)]
struct Follower {
    instances: BTreeMap<(String, String), u64>,
    staged: Option<BTreeMap<(String, String), u64>>,
    resyncs: usize,
}

impl Follower {
    fn take(&mut self, event: RegistryEvent) {
        let name = |instance: &Instance| (instance.service.clone(), instance.id.clone());
        match event {
            RegistryEvent::SnapshotBegin => self.staged = Some(BTreeMap::new()),
            RegistryEvent::Present(state) => {
                let staged = self.staged.as_mut().expect("inside a snapshot");
                let again = staged.insert(name(&state.instance), state.revision);
                assert_eq!(again, None, "an instance stands twice in a snapshot");
            }
            RegistryEvent::SnapshotEnd => self.instances = self.staged.take().unwrap(),
            RegistryEvent::Resync(_) => self.resyncs += 1,
            RegistryEvent::Changed(change) => {
                assert!(self.staged.is_none(), "a change inside a snapshot");
                let name = (change.service.clone(), change.id.clone());
                let known = self.instances.get(&name).copied();
                let before = change.previous.as_ref().map(|state| state.revision);
                assert_eq!(known, before, "`previous` of {name:?} is not what was there");
                match &change.state {
                    Some(state) => {
                        assert!(known.is_none_or(|known| known < state.revision), "went back");
                        self.instances.insert(name, state.revision);
                    }
                    None => drop(self.instances.remove(&name)),
                }
            }
        }
    }
}

#[test]
fn a_watch_delivers_a_snapshot_and_then_each_change_though_others_change_meanwhile() {
    let mut bench = Bench::new();
    let mut leases = BTreeMap::new();
    for index in 0..700 {
        let id = format!("{index:04}");
        leases.insert(id.clone(), registered(&mut bench, &register("s", &id)));
        registered(&mut bench, &register("t", &id));
    }
    let mut watch = RegistryWatch::new(Some("s".into()));
    let mut follower = Follower::default();
    for round in 0..40 {
        for event in watch.next(&bench.store).unwrap() {
            follower.take(event);
        }
        // Changes before, at and behind the place where the snapshot has got to.
        for index in [round, 255 + round, 699 - round] {
            let id = format!("{index:04}");
            match leases.remove(&id) {
                Some(lease) if round % 2 == 0 => drop(bench.turn(|turn| turn.deregister(lease))),
                Some(lease) => {
                    let changed = Instance { weight: round, ..instance("s", &id) };
                    bench.turn(|turn| turn.update(lease, &changed));
                }
                None => drop(registered(&mut bench, &register("s", &id))),
            }
        }
    }
    loop {
        let events = watch.next(&bench.store).unwrap();
        if events.is_empty() {
            break;
        }
        events.into_iter().for_each(|event| follower.take(event));
    }
    let expected: BTreeMap<_, _> = bench
        .store
        .instances("s", None, 1_000)
        .unwrap()
        .into_iter()
        .map(|state| ((state.instance.service, state.instance.id), state.revision))
        .collect();
    assert_eq!(follower.instances, expected);
    assert_eq!(follower.resyncs, 0);
}

#[test]
fn a_watch_that_is_too_slow_begins_anew_and_says_so() {
    let mut bench = Bench::new();
    let mut watch = RegistryWatch::new(None);
    let mut follower = Follower::default();
    let drain = |bench: &Bench, watch: &mut RegistryWatch, follower: &mut Follower| loop {
        let events = watch.next(&bench.store).unwrap();
        if events.is_empty() {
            break;
        }
        events.into_iter().for_each(|event| follower.take(event));
    };
    drain(&bench, &mut watch, &mut follower);
    bench.turn(|turn| {
        for index in 0..5_000 {
            turn.add(&instance("s", &format!("{index}")), false, "o")?;
        }
        Ok(())
    });
    drain(&bench, &mut watch, &mut follower);
    assert_eq!(follower.resyncs, 1);
    assert_eq!(follower.instances.len(), 5_000);
}
