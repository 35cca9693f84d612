//! The lock checkers on planted violations and on a simulated lock server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

mod simulated;

use std::time::Duration;

use pintle_test_history::{
    Holding, LockHistory, LockMode, Report, Resource, StaleToken, Token, check_locks, check_writes,
};
use proptest::prelude::*;
use simulated::Dice;

fn token(value: u64) -> Token {
    Token { epoch: "cluster".into(), value }
}

/// Acquired one tick after it was asked for.
fn held(holder: &str, mode: LockMode, value: u64, from: u64, until: u64) -> Holding {
    let (lock, holder) = ("jobs".to_owned(), holder.to_owned());
    let (asked, acquired, valid_until) = (from.saturating_sub(1), from, vec![(from, until)]);
    let token = (mode == LockMode::Exclusive).then(|| token(value));
    Holding { lock, holder, mode, token, asked, acquired, valid_until, ended: None }
}

fn exclusive(holder: &str, value: u64, from: u64, until: u64) -> Holding {
    held(holder, LockMode::Exclusive, value, from, until)
}

fn rules(report: &Report) -> Vec<&str> {
    report.violations.iter().map(|violation| violation.rule).collect()
}

#[test]
fn overlapping_holders_are_found_and_both_are_named() {
    let report = check_locks(&[exclusive("ann", 1, 10, 20), exclusive("bob", 2, 19, 30)]);
    assert_eq!(rules(&report), ["lock exclusion"]);
    let excerpt = &report.violations[0].excerpt;
    assert!(excerpt.contains("ann") && excerpt.contains("bob"), "{excerpt}");
}

#[test]
fn holders_that_follow_each_other_pass() {
    let mut first = exclusive("ann", 1, 10, 100);
    first.ended = Some(20);
    assert!(check_locks(&[first, exclusive("bob", 2, 20, 30)]).is_clean());
}

#[test]
fn holder_that_never_heard_of_its_end_believes_until_its_lease_ends() {
    let mut first = exclusive("ann", 1, 10, 20);
    first.valid_until.push((15, 40));
    assert_eq!(rules(&check_locks(&[first, exclusive("bob", 2, 30, 50)])), ["lock exclusion"]);
}

#[test]
fn late_renewal_does_not_fill_the_time_before_it() {
    let mut first = exclusive("ann", 1, 10, 20);
    first.valid_until.push((40, 50));
    assert!(check_locks(&[first.clone(), exclusive("bob", 2, 25, 35)]).is_clean());
    assert_eq!(rules(&check_locks(&[first, exclusive("bob", 2, 25, 45)])), ["lock exclusion"]);
}

#[test]
fn overlap_in_different_locks_passes() {
    let mut other = exclusive("bob", 1, 10, 20);
    other.lock = "other".into();
    assert!(check_locks(&[exclusive("ann", 1, 10, 20), other]).is_clean());
}

#[test]
fn shared_holders_exclude_only_exclusive_ones() {
    let shared = |holder, from, until| held(holder, LockMode::Shared, 0, from, until);
    assert!(check_locks(&[shared("ann", 10, 20), shared("bob", 12, 22)]).is_clean());
    let report = check_locks(&[shared("ann", 10, 20), exclusive("eve", 1, 12, 14)]);
    assert_eq!(rules(&report), ["lock exclusion"]);
}

#[test]
fn one_permit_too_many_is_found() {
    let permit = |holder, from| held(holder, LockMode::Permit(2), 0, from, from + 10);
    assert!(check_locks(&[permit("ann", 1), permit("bob", 2), permit("eve", 12)]).is_clean());
    let report = check_locks(&[permit("ann", 1), permit("bob", 2), permit("eve", 3)]);
    assert_eq!(rules(&report), ["lock permits"]);
}

#[test]
fn tokens_that_fall_repeat_or_are_missing_are_found() {
    let fallen = check_locks(&[exclusive("ann", 7, 10, 20), exclusive("bob", 6, 30, 40)]);
    assert_eq!(rules(&fallen), ["lock token rises"]);
    let repeated = check_locks(&[exclusive("ann", 7, 10, 20), exclusive("bob", 7, 30, 40)]);
    assert_eq!(rules(&repeated), ["lock token unique"]);
    let mut bare = exclusive("ann", 7, 10, 20);
    bare.token = None;
    assert_eq!(rules(&check_locks(&[bare])), ["lock token"]);
}

#[test]
fn answer_that_came_late_may_carry_a_lower_token() {
    let mut late = exclusive("ann", 6, 50, 50);
    late.asked = 5;
    assert!(check_locks(&[exclusive("bob", 7, 30, 40), late]).is_clean());
}

#[test]
fn epoch_may_change_once_but_not_come_back() {
    let of = |epoch: &str, mut holding: Holding| {
        holding.token = holding.token.map(|token| Token { epoch: epoch.into(), ..token });
        holding
    };
    let mut holdings =
        vec![of("old", exclusive("ann", 9, 10, 20)), of("new", exclusive("bob", 1, 30, 40))];
    assert!(check_locks(&holdings).is_clean());
    holdings.push(of("old", exclusive("eve", 10, 50, 60)));
    assert_eq!(rules(&check_locks(&holdings)), ["lock epoch"]);
}

#[test]
fn recorder_keeps_what_holders_believe() {
    let history = LockHistory::new();
    let second = Duration::from_secs(1);
    let (mode, lock) = (LockMode::Exclusive, "jobs");
    let first = history.acquired(lock, "ann", mode, Some(token(1)), history.now(), second);
    history.renewed(first, history.now(), 2 * second);
    history.ended(first);
    let second = history.acquired(lock, "bob", mode, Some(token(2)), history.now(), second);
    assert!(check_locks(&history.holdings()).is_clean());
    history.acquired(lock, "eve", mode, Some(token(3)), history.now(), Duration::from_secs(9));
    history.ended(second);
    assert_eq!(rules(&check_locks(&history.holdings())), ["lock exclusion"]);
}

#[test]
fn checking_resource_refuses_what_an_unchecked_one_takes() {
    for (resource, stale) in [(Resource::checking(), 0), (Resource::unchecked(), 1)] {
        resource.write("disk", "ann", token(1)).unwrap();
        resource.write("disk", "bob", token(2)).unwrap();
        let late = resource.write("disk", "ann", token(1));
        assert_eq!(late.is_err(), stale == 0);
        if let Err(StaleToken { highest }) = late {
            assert_eq!(highest, token(2));
        }
        resource.write("disk", "bob", token(2)).unwrap();
        resource.write("tape", "ann", token(1)).unwrap();
        let report = check_writes(&resource.accepted());
        assert_eq!(rules(&report), vec!["stale write"; stale], "{report}");
    }
}

/// A lock server with leases, and clients that pause, lose replies and learn of losses late.
fn simulate(seed: u64, clients: usize, count: usize) -> Vec<Holding> {
    const TTL: u64 = 50;
    let mut dice = Dice::new(seed);
    let (mut now, mut next_token) = (0, 1);
    // Who holds it by the server, as an index into `holdings`, and until when.
    let mut holder: Option<(usize, u64)> = None;
    let mut asked: Vec<Option<u64>> = vec![None; clients];
    let mut holdings: Vec<Holding> = Vec::new();
    while holdings.len() < count {
        now += 1 + dice.roll(5);
        holder = holder.filter(|(_, until)| *until > now);
        let client = dice.roll(clients as u64) as usize;
        let name = format!("client {client}");
        match (holder, asked[client]) {
            (Some((holding, _)), _) if holdings[holding].holder == name => {
                if now < holdings[holding].acquired {
                    // The answer is still on its way.
                } else if dice.percent(60) {
                    let sent = now - dice.roll(3);
                    let holding = &mut holdings[holding];
                    if holding.valid_until.last().is_some_and(|(_, until)| *until > now) {
                        holding.valid_until.push((now, sent + TTL));
                        holder = holder.map(|(index, _)| (index, now + TTL));
                    }
                } else {
                    holdings[holding].ended = Some(now);
                    holder = None;
                }
            }
            (None, Some(sent)) => {
                let mut holding = exclusive(&name, next_token, now + dice.roll(70), 0);
                holding.asked = sent;
                holding.valid_until = vec![(holding.acquired, now + TTL)];
                next_token += 1 + dice.roll(3);
                holder = Some((holdings.len(), now + TTL));
                holdings.push(holding);
                asked[client] = None;
            }
            (_, None) => asked[client] = Some(now),
            _ => {}
        }
    }
    holdings
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn holders_of_a_correct_server_pass(seed: u64, clients in 1usize..9) {
        let report = check_locks(&simulate(seed, clients, 200));
        prop_assert!(report.is_clean(), "{}", report);
    }

    #[test]
    fn holder_that_believes_too_long_is_found(seed: u64, clients in 2usize..9) {
        let mut holdings = simulate(seed, clients, 50);
        // Somebody ignores the end of the lease until well into the next holder's.
        let next = holdings[25].clone();
        prop_assume!(next.valid_until[0].1 > next.acquired);
        prop_assume!(next.ended.is_none_or(|ended| ended > next.acquired));
        holdings[24].ended = None;
        let acquired = holdings[24].acquired;
        holdings[24].valid_until = vec![(acquired, next.acquired.max(acquired) + 1)];
        prop_assume!(acquired <= next.acquired);
        let report = check_locks(&holdings);
        prop_assert!(rules(&report).contains(&"lock exclusion"), "{}", report);
    }
}
