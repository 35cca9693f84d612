//! Who gets a lock, in which order, and when it ends.

use crate::support::{Bench, TTL_MS, acquire};
use pintle_plugin_local::store::{Acquire, Acquired, Claim, Mode, StoreError, TTL_MS_MIN};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[test]
fn an_exclusive_lock_has_one_holder_and_a_token_that_rises() {
    let mut bench = Bench::new();
    let first = bench.hold("l", Mode::Exclusive);
    let Acquired::Busy(holders) = bench.acquire(&acquire("l", Mode::Exclusive, false)) else {
        panic!("two holders");
    };
    assert_eq!(holders[0].lease, first.lease);
    assert_eq!(holders[0].token, first.token);
    assert!(bench.turn(|turn| turn.release(first.lease)));
    let second = bench.hold("l", Mode::Exclusive);
    assert!(second.token > first.token);
}

#[test]
fn a_release_is_idempotent_and_never_touches_another() {
    let mut bench = Bench::new();
    let first = bench.hold("l", Mode::Exclusive);
    assert!(bench.turn(|turn| turn.release(first.lease)));
    let second = bench.hold("l", Mode::Exclusive);
    assert!(!bench.turn(|turn| turn.release(first.lease)));
    assert!(bench.store.is_valid(second.lease));
}

#[test]
fn waiters_get_the_lock_in_the_order_in_which_they_came() {
    let mut bench = Bench::new();
    let mut holder = bench.hold("l", Mode::Exclusive).lease;
    let waiters: Vec<_> = (0..20).map(|_| bench.wait_for("l", Mode::Exclusive)).collect();
    for waiter in waiters {
        let effects = bench.effects(|turn| turn.release(holder).map(drop));
        assert_eq!(effects.granted.len(), 1);
        assert_eq!(effects.granted[0].lease, waiter);
        holder = waiter;
    }
}

#[test]
fn shared_holders_exclude_exclusive_ones_only_and_nobody_overtakes() {
    let mut bench = Bench::new();
    let readers = [bench.hold("l", Mode::Shared), bench.hold("l", Mode::Shared)];
    assert!(readers.iter().all(|grant| grant.token.is_none()));
    let writer = bench.wait_for("l", Mode::Exclusive);
    let late = [bench.wait_for("l", Mode::Shared), bench.wait_for("l", Mode::Shared)];
    assert!(matches!(bench.acquire(&acquire("l", Mode::Shared, false)), Acquired::Busy(_)));
    let grants = |effects: pintle_plugin_local::store::Effects| -> Vec<u64> {
        effects.granted.iter().map(|grant| grant.lease).collect()
    };
    assert!(grants(bench.effects(|turn| turn.release(readers[0].lease).map(drop))).is_empty());
    let effects = bench.effects(|turn| turn.release(readers[1].lease).map(drop));
    assert_eq!(grants(effects), [writer]);
    let effects = bench.effects(|turn| turn.release(writer).map(drop));
    assert_eq!(grants(effects), late);
}

#[test]
fn all_who_use_a_semaphore_give_the_same_number_of_permits() {
    let mut bench = Bench::new();
    bench.hold("s", Mode::Permit(2));
    let refused = bench.store.turn(|turn| turn.acquire(&acquire("s", Mode::Permit(3), true)));
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    let refused = bench.store.turn(|turn| turn.acquire(&acquire("t", Mode::Permit(0), true)));
    assert!(matches!(refused, Err(StoreError::Invalid { .. })));
    bench.hold("s", Mode::Permit(2));
    bench.wait_for("s", Mode::Permit(2));
}

#[test]
fn a_ttl_out_of_bounds_is_refused() {
    let mut bench = Bench::new();
    for ttl_ms in [0, TTL_MS_MIN - 1, 3_600_001] {
        let request = Acquire { ttl_ms, ..acquire("l", Mode::Exclusive, false) };
        let refused = bench.store.turn(|turn| turn.acquire(&request));
        assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{ttl_ms}");
    }
}

#[test]
fn a_lease_lives_while_it_is_renewed_and_not_longer() {
    let mut bench = Bench::new();
    let lease = bench.hold("l", Mode::Exclusive).lease;
    let waiter = bench.wait_for("l", Mode::Exclusive);
    for _ in 0..5 {
        bench.clock.advance_ms(u64::from(TTL_MS) - 1);
        assert!(bench.store.renew(lease).is_some());
        assert!(bench.effects(|turn| turn.expire()).granted.is_empty());
    }
    bench.clock.advance_ms(u64::from(TTL_MS));
    assert!(bench.store.renew(lease).is_none(), "a lease that is over was renewed");
    assert!(!bench.turn(|turn| Ok(turn.is_held(lease))));
    let effects = bench.effects(|turn| turn.expire());
    assert_eq!(effects.ended[0].0, lease);
    assert_eq!(effects.granted[0].lease, waiter);
    // The new holder's time begins with its grant, not with its request.
    assert_eq!(effects.granted[0].validity.valid_for_ms, TTL_MS);
    bench.clock.advance_ms(u64::from(TTL_MS) - 1);
    assert!(bench.store.is_valid(waiter));
}

#[test]
fn a_waiter_that_gives_up_leaves_no_claim() {
    let mut bench = Bench::new();
    let holder = bench.hold("l", Mode::Shared);
    let writer = bench.wait_for("l", Mode::Exclusive);
    let reader = bench.wait_for("l", Mode::Shared);
    // The reader waited for the writer only.
    let effects = bench.effects(|turn| turn.release(writer).map(drop));
    assert_eq!(effects.granted[0].lease, reader);
    bench.turn(|turn| turn.release(holder.lease));
    bench.turn(|turn| turn.release(reader));
    assert_eq!(bench.store.lock("l").unwrap(), Default::default());
    assert_eq!(bench.store.locks("", None, 10).unwrap(), (vec![], false));
}

#[test]
fn a_claim_released_by_force_is_lost_and_the_next_one_is_served() {
    let mut bench = Bench::new();
    let holder = bench.hold("l", Mode::Exclusive);
    let waiters = [bench.wait_for("l", Mode::Exclusive), bench.wait_for("l", Mode::Exclusive)];
    let effects = bench.effects(|turn| turn.force_release("l", waiters[0]).map(drop));
    assert_eq!(effects.ended[0].0, waiters[0]);
    let effects = bench.effects(|turn| turn.force_release("l", holder.lease).map(drop));
    assert_eq!(effects.ended[0].0, holder.lease);
    assert_eq!(effects.granted[0].lease, waiters[1]);
    assert!(!bench.turn(|turn| turn.force_release("l", holder.lease)));
    assert!(!bench.turn(|turn| turn.force_release("other", waiters[1])));
    assert!(bench.store.renew(holder.lease).is_none());
}

#[test]
fn locks_in_use_are_listed_below_a_prefix_in_pages() {
    let mut bench = Bench::new();
    for name in ["a", "a/b", "a/b/c", "a/bc", "a/c", "b"] {
        bench.hold(name, Mode::Exclusive);
    }
    let mut names = Vec::new();
    loop {
        let after = names.last().cloned();
        let (page, more) = bench.store.locks("a", after.as_deref(), 2).unwrap();
        names.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(names, ["a/b", "a/b/c", "a/bc", "a/c"]);
}

#[test]
fn stopping_ends_own_leases_and_leaves_those_of_others() {
    let mut bench = Bench::new();
    bench.hold("old", Mode::Exclusive);
    bench.crash();
    bench.hold("own", Mode::Exclusive);
    bench.turn(|turn| turn.end_own());
    bench.restart();
    assert_eq!(bench.store.locks("", None, 10).unwrap().0, ["old"]);
}

#[derive(Clone, Debug)]
enum Op {
    Acquire(u8, Mode, bool),
    Release(usize),
    Force(usize),
    Renew(usize),
    Advance(u64),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![
        3 => Just(Mode::Exclusive),
        2 => Just(Mode::Shared),
        2 => Just(Mode::Permit(2)),
    ];
    prop_oneof![
        6 => (0..2u8, mode, any::<bool>()).prop_map(|(name, mode, wait)| Op::Acquire(name, mode, wait)),
        3 => any::<usize>().prop_map(Op::Release),
        1 => any::<usize>().prop_map(Op::Force),
        2 => any::<usize>().prop_map(Op::Renew),
        2 => (1..u64::from(TTL_MS)).prop_map(Op::Advance),
        1 => Just(Op::Crash),
    ]
}

/// What must be true of the holders of one lock at any time.
fn check_holders(holders: &[Claim]) {
    let exclusive = holders.iter().filter(|claim| claim.mode == Mode::Exclusive).count();
    let permits = holders.iter().filter(|claim| matches!(claim.mode, Mode::Permit(_))).count();
    assert!(exclusive == 0 || holders.len() == 1, "{holders:?}");
    assert!(permits <= 2, "{holders:?}");
    assert!(permits == 0 || permits == holders.len(), "{holders:?}");
    assert!(holders.iter().all(|claim| claim.token.is_some() == (claim.mode == Mode::Exclusive)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn exclusion_order_and_tokens_hold_whatever_happens(ops in prop::collection::vec(op(), 1..60)) {
        let mut bench = Bench::new();
        let mut leases: Vec<(String, u64)> = Vec::new();
        let mut tokens: BTreeMap<String, u64> = BTreeMap::new();
        // Granted leases that their holder may still believe in, by the clock of its own.
        let mut believed: BTreeMap<u64, (String, Mode, u64)> = BTreeMap::new();
        let mut now_ms = 0;
        for op in ops {
            let pick = |index: usize| leases.get(index % leases.len().max(1)).cloned();
            let mut granted = Vec::new();
            match op {
                Op::Acquire(name, mode, wait) => {
                    let name = format!("lock/{name}");
                    let request = acquire(&name, mode, wait);
                    let (outcome, effects) = bench.store.turn(|turn| turn.acquire(&request)).unwrap();
                    granted.extend(effects.granted);
                    match outcome {
                        Acquired::Held(grant) => {
                            leases.push((name, grant.lease));
                            granted.push(grant);
                        }
                        Acquired::Queued(lease) => leases.push((name, lease)),
                        Acquired::Busy(_) => prop_assert!(!wait),
                    }
                }
                Op::Release(index) => if let Some((_, lease)) = pick(index) {
                    believed.remove(&lease);
                    granted = bench.effects(|turn| turn.release(lease).map(drop)).granted;
                },
                Op::Force(index) => if let Some((name, lease)) = pick(index) {
                    // Its holder is told at once.
                    believed.remove(&lease);
                    granted = bench.effects(|turn| turn.force_release(&name, lease).map(drop)).granted;
                },
                Op::Renew(index) => {
                    let renewed = pick(index)
                        .map(|(_, lease)| lease)
                        .filter(|lease| bench.store.renew(*lease).is_some());
                    let belief = renewed.and_then(|lease| believed.get_mut(&lease));
                    if let Some((_, _, until)) = belief {
                        *until = now_ms + u64::from(TTL_MS);
                    }
                }
                Op::Advance(ms) => {
                    bench.clock.advance_ms(ms);
                    now_ms += ms;
                    granted = bench.effects(|turn| turn.expire()).granted;
                }
                // The clock begins anew; beliefs do not.
                Op::Crash => bench.crash(),
            }
            believed.retain(|_, (_, _, until)| now_ms < *until);
            for grant in granted {
                let (name, _) = leases.iter().find(|(_, lease)| *lease == grant.lease).unwrap();
                let state = bench.store.lock(name).unwrap();
                let claim = state.holders.iter().find(|claim| claim.lease == grant.lease);
                let mode = claim.expect("a granted lease is held").mode;
                if let Some(token) = grant.token {
                    let last = tokens.insert(name.clone(), token);
                    prop_assert!(last.is_none_or(|last| last < token));
                }
                believed.insert(grant.lease, (name.clone(), mode, now_ms + u64::from(TTL_MS)));
            }
            for name in ["lock/0", "lock/1"] {
                let state = bench.store.lock(name).unwrap();
                check_holders(&state.holders);
                prop_assert!(state.waiters.is_sorted_by_key(|claim| claim.lease));
                // Whoever may still believe in a lease does hold it.
                let believers = believed.iter().filter(|(_, (of, _, _))| of == name);
                for (lease, _) in believers {
                    prop_assert!(state.holders.iter().any(|claim| claim.lease == *lease));
                }
            }
        }
    }
}
