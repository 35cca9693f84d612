//! Locks through the plugin.

use crate::{Node, TTL_MS, exclusive, held};
use pintle_plugin_sdk::lock::{AcquireRequest, Event, Mode};
use pintle_plugin_sdk::testing::AcquireOutcome;
use pintle_plugin_sdk::time::{Instant, sleep};
use std::time::Duration;

#[test]
fn a_lease_is_renewed_for_as_long_as_it_is_wanted() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        let lease = held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        assert_eq!(lease.validity.valid_for_ms, TTL_MS);
        sleep(Duration::from_secs(3_600)).await;
        let events = lock.events().await.unwrap();
        let Some((1, Event::Renewed(validity))) = events.last() else { panic!("{events:?}") };
        let age = Duration::from_nanos(Instant::now().as_nanos() - validity.sent_at);
        assert!(age <= Duration::from_millis(u64::from(TTL_MS) / 3 + 1_100), "{age:?}");
        assert_eq!(lock.inspect("l".into()).await.unwrap().holders.len(), 1);
        assert!(lock.release(1).await.unwrap());
        assert!(!lock.release(1).await.unwrap());
        assert!(lock.inspect("l".into()).await.unwrap().holders.is_empty());
    });
}

#[test]
fn one_who_waits_gets_the_lock_when_it_becomes_free() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        let first = held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        let waiting = lock.acquire(2, exclusive("l", 4_000));
        let releasing = async {
            sleep(Duration::from_secs(1)).await;
            let state = lock.inspect("l".into()).await.unwrap();
            assert_eq!((state.holders.len(), state.waiters.len()), (1, 1));
            lock.release(1).await.unwrap();
            Instant::now()
        };
        let (second, released_at) = futures::join!(waiting, releasing);
        let second = held(second.unwrap());
        let (first, second) = (first.token.unwrap(), second.token.unwrap());
        assert_eq!(first.epoch, second.epoch);
        assert!(first.value < second.value);
        assert_eq!(Instant::now(), released_at, "the waiter was kept waiting");
    });
}

#[test]
fn one_who_waited_in_vain_is_told_who_holds_it_and_leaves_no_claim() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        let outcome = lock.acquire(2, exclusive("l", 2_000)).await.unwrap();
        let AcquireOutcome::Busy(holders) = outcome else { panic!("two holders") };
        assert_eq!(holders[0].owner, "test");
        assert!(lock.inspect("l".into()).await.unwrap().waiters.is_empty());
        // The id is free for another attempt.
        lock.release(1).await.unwrap();
        held(lock.acquire(2, exclusive("l", 0)).await.unwrap());
    });
}

#[test]
fn an_acquire_that_is_cancelled_leaves_no_claim() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        let call = host.next_call_id();
        let waiting = lock.acquire(2, exclusive("l", 4_000));
        let cancelling = async {
            sleep(Duration::from_secs(1)).await;
            host.cancel(call);
        };
        let (outcome, ()) = futures::join!(waiting, cancelling);
        assert_eq!(outcome.unwrap_err().code(), "cancelled");
        assert!(lock.inspect("l".into()).await.unwrap().waiters.is_empty());
        lock.release(1).await.unwrap();
        assert!(lock.inspect("l".into()).await.unwrap().holders.is_empty());
    });
}

#[test]
fn an_acquire_that_is_cancelled_in_the_moment_of_its_grant_leaves_no_claim() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        let call = host.next_call_id();
        let waiting = lock.acquire(2, exclusive("l", 4_000));
        let racing = async {
            sleep(Duration::from_secs(1)).await;
            lock.close(1);
            host.cancel(call);
        };
        let (outcome, ()) = futures::join!(waiting, racing);
        if let Ok(AcquireOutcome::Held(_)) = outcome {
            lock.release(2).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        let state = lock.inspect("l".into()).await.unwrap();
        assert!(state.holders.is_empty() && state.waiters.is_empty(), "{state:?}");
    });
}

#[test]
fn a_claim_taken_away_is_reported_lost_once() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        held(lock.acquire(1, exclusive("l", 0)).await.unwrap());
        let claim = lock.inspect("l".into()).await.unwrap().holders.remove(0);
        assert!(lock.force_release("l".into(), claim.claim_id.clone()).await.unwrap());
        sleep(Duration::from_secs(60)).await;
        let events = lock.events().await.unwrap();
        assert!(matches!(&events[..], [(1, Event::Lost(reason))] if reason.contains("force")));
        assert!(!lock.force_release("l".into(), claim.claim_id).await.unwrap());
        assert!(!lock.release(1).await.unwrap());
        let refused = lock.force_release("l".into(), "x".into()).await.unwrap_err();
        assert_eq!(refused.code(), "invalid");
    });
}

#[test]
fn a_watched_lock_shows_each_lasting_state() {
    Node::new().fresh(async |host| {
        let lock = host.lock();
        lock.watch(9, "l".into()).await.unwrap();
        let holders = async || {
            let events = lock.events().await.unwrap();
            match events.into_iter().rfind(|(id, _)| *id == 9) {
                Some((_, Event::State(state))) => Some(state.holders.len()),
                Some(other) => panic!("{other:?}"),
                None => None,
            }
        };
        assert_eq!(holders().await, Some(0));
        let shared = AcquireRequest { mode: Mode::Shared, ..exclusive("l", 0) };
        held(lock.acquire(1, shared.clone()).await.unwrap());
        held(lock.acquire(2, shared).await.unwrap());
        assert_eq!(holders().await, Some(2));
        held(lock.acquire(3, exclusive("other", 0)).await.unwrap());
        assert_eq!(holders().await, None);
        lock.release(1).await.unwrap();
        assert_eq!(holders().await, Some(1));
    });
}

#[test]
fn after_a_crash_of_the_host_a_lock_stays_held_for_a_full_ttl() {
    let node = Node::new();
    let first = node.fresh(async |host| {
        let lease = held(host.lock().acquire(1, exclusive("l", 0)).await.unwrap());
        sleep(Duration::from_secs(100)).await;
        lease.token.unwrap()
    });
    node.fresh(async |host| {
        let lock = host.lock();
        sleep(Duration::from_millis(u64::from(TTL_MS) - 10)).await;
        let outcome = lock.acquire(1, exclusive("l", 0)).await.unwrap();
        assert!(matches!(outcome, AcquireOutcome::Busy(_)));
        let second = held(lock.acquire(2, exclusive("l", 3_000)).await.unwrap()).token.unwrap();
        assert_eq!(second.epoch, first.epoch);
        assert!(second.value > first.value);
    });
}

#[test]
fn after_a_trap_the_successor_removes_the_locks_that_nobody_believes_in() {
    let node = Node::new();
    node.fresh(async |host| {
        held(host.lock().acquire(1, exclusive("l", 0)).await.unwrap());
    });
    node.resumed(async |host| {
        held(host.lock().acquire(1, exclusive("l", 0)).await.unwrap());
    });
}
