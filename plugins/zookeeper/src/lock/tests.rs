//! Locks on servers that come and go, on a virtual clock.

use crate::ensemble::{DELETE, EXISTS, Ensemble, Fate};
use crate::wire::ErrorCode;
use pintle_plugin_sdk::Effect;
use pintle_plugin_sdk::lock::{AcquireRequest, Event, LockState, Mode};
use pintle_plugin_sdk::spawn;
use pintle_plugin_sdk::testing::{AcquireOutcome, run};
use pintle_plugin_sdk::time::{Instant, sleep};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const LOCK: &str = "/.pintle/v1/locks/job";
const OTHERS: &str = "/.pintle/v1/locks/job/_c_x-lock-0000000001";

fn request(wait_ms: u32) -> AcquireRequest {
    let (name, owner) = ("job".to_owned(), "me".to_owned());
    AcquireRequest { name, mode: Mode::Exclusive, ttl_ms: 30_000, wait_ms, owner }
}

#[test]
fn who_waits_keeps_the_place_in_the_queue_while_the_servers_are_away_for_a_moment() {
    run(async {
        let ensemble = Ensemble::start();
        ensemble.create(OTHERS, b"", 5);
        let host = ensemble.plugin(&[], &[]).await;
        host.set_timeout(Duration::from_secs(65));
        let servers = Rc::clone(&ensemble);
        spawn(async move {
            sleep(Duration::from_secs(5)).await;
            let claims = servers.below(LOCK);
            servers.is_down.set(true);
            servers.cut();
            sleep(Duration::from_secs(2)).await;
            servers.is_down.set(false);
            sleep(Duration::from_secs(3)).await;
            assert_eq!(servers.below(LOCK), claims);
            servers.delete(OTHERS);
        })
        .detach();
        let begun = Instant::now();
        let outcome = host.lock().acquire(1, request(60_000)).await.unwrap();
        assert!(matches!(outcome, AcquireOutcome::Held(_)), "{outcome:?}");
        assert_eq!(begun.elapsed().as_secs(), 10, "as soon as it is free");
    });
}

#[test]
fn a_lease_is_renewed_as_soon_as_a_server_is_back() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        let AcquireOutcome::Held(_) = host.lock().acquire(1, request(0)).await.unwrap() else {
            panic!("busy")
        };
        for down_ms in (1_000..12_000).step_by(500) {
            ensemble.is_down.set(true);
            ensemble.cut();
            sleep(Duration::from_millis(down_ms)).await;
            host.lock().events().await.unwrap();
            ensemble.is_down.set(false);
            // The link's own pause, and a little.
            sleep(Duration::from_millis(1_100)).await;
            let events = host.lock().events().await.unwrap();
            assert!(matches!(events.last(), Some((1, Event::Renewed(_)))), "{down_ms}: {events:?}");
        }
    });
}

#[test]
fn a_watch_that_began_in_a_fresh_ensemble_shows_the_tokens_of_later_holders() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        host.lock().watch(1, "job".to_owned()).await.unwrap();
        host.lock().events().await.unwrap();
        ensemble.create("/.pintle/v1/identity", b"abc", 0);
        ensemble.create(OTHERS, b"", 5);
        let events = host.lock().events().await.unwrap();
        let Some((1, Event::State(LockState { holders, .. }))) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(holders[0].token.as_ref().unwrap().epoch, "abc");
    });
}

#[test]
fn a_release_that_is_repeated_since_the_first_was_not_answered_in_time_says_that_it_was_held() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        host.lock().acquire(1, request(0)).await.unwrap();
        ensemble.obey(|asked| if asked.opcode == DELETE { Fate::Hold } else { Fate::Serve });
        host.set_timeout(Duration::from_secs(1));
        let error = host.lock().release(1).await.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown);
        ensemble.obey_nobody();
        ensemble.let_go();
        assert!(host.lock().release(1).await.unwrap());
    });
}

#[test]
fn a_release_that_is_repeated_since_the_first_was_refused_says_what_it_finds() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        host.lock().acquire(1, request(0)).await.unwrap();
        ensemble.obey(|asked| match asked.opcode == DELETE {
            true => Fate::Refuse(ErrorCode::NO_AUTH),
            false => Fate::Serve,
        });
        host.lock().release(1).await.unwrap_err();
        // It is tried again in the background.
        sleep(Duration::from_millis(1)).await;
        ensemble.below(LOCK).iter().filter(|path| path.len() > LOCK.len()).for_each(|claim| {
            ensemble.delete(claim);
        });
        ensemble.obey_nobody();
        assert!(!host.lock().release(1).await.unwrap());
    });
}

#[test]
fn on_servers_without_lasting_watches_a_refused_one_is_set_again() {
    run(async {
        let ensemble = Ensemble::start();
        ensemble.is_old.set(true);
        ensemble.create(LOCK, b"", 0);
        let host = ensemble.plugin(&[], &[]).await;
        let is_done = Cell::new(false);
        ensemble.obey(move |asked| {
            let is_meant = asked.is_watching && asked.path == LOCK && asked.opcode == EXISTS;
            match is_meant && !is_done.replace(true) {
                true => Fate::Refuse(ErrorCode::THROTTLED),
                false => Fate::Serve,
            }
        });
        host.lock().watch(1, "job".to_owned()).await.unwrap();
        host.lock().events().await.unwrap();
        ensemble.create(OTHERS, b"", 5);
        let events = host.lock().events().await.unwrap();
        assert!(matches!(events.last(), Some((1, Event::State(_)))), "{events:?}");
    });
}
