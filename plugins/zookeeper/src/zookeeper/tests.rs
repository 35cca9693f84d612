//! The plugin with the connections that a host grants, and after another.

use crate::ensemble::Ensemble;
use pintle_plugin_sdk::lock::{AcquireRequest, Mode};
use pintle_plugin_sdk::registry::RegisterRequest;
use pintle_plugin_sdk::testing::{AcquireOutcome, RegisterOutcome, checkpoint, instance, run};
use pintle_plugin_sdk::time::sleep;
use serde_json::json;
use std::time::Duration;

/// `limits.connections` of a backend of which nothing else is said.
const CONNECTIONS: usize = 8;

fn acquire(name: u64, ttl_ms: u32) -> AcquireRequest {
    let (name, owner) = (name.to_string(), "me".to_owned());
    AcquireRequest { name, mode: Mode::Exclusive, ttl_ms, wait_ms: 0, owner }
}

fn register(id: u64, ttl_ms: u32) -> RegisterRequest {
    RegisterRequest { instance: instance("web", &id.to_string()), ttl_ms }
}

#[test]
fn any_number_of_ttls_and_of_predecessors_does_with_the_connections_of_a_default_backend() {
    run(async {
        let ensemble = Ensemble::start();
        ensemble.lines_max.set(Some(CONNECTIONS));
        let registries = [(101, 10_000), (102, 20_000), (103, 2_000)];
        let locks: Vec<_> = (201..220).map(|session| (session, 30_000)).collect();
        let host = ensemble.plugin(&registries, &locks).await;
        for number in 1..=20_u64 {
            let ttl_ms = 2_000 + 1_000 * u32::try_from(number).unwrap();
            let held = host.lock().acquire(number, acquire(number, ttl_ms)).await.unwrap();
            assert!(matches!(held, AcquireOutcome::Held(_)), "{ttl_ms}: {held:?}");
            let registered = host.registry().register(number, register(number, ttl_ms)).await;
            assert!(matches!(registered, Ok(RegisterOutcome::Registered(_))), "{registered:?}");
        }
        for _ in 0..5 {
            ensemble.cut();
            sleep(Duration::from_secs(10)).await;
            let health = host.health().await.unwrap();
            assert!(health.message.starts_with("connected to"), "{health:?}");
        }
        assert!(ensemble.most_connections() <= CONNECTIONS);
        let predecessors = ensemble.sessions().into_iter().filter(|session| *session > 200);
        assert_eq!(predecessors.filter(|session| *session < 300).count(), 0, "all are closed");
    });
}

#[test]
fn ttls_that_are_not_used_any_more_cost_no_connection() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        for number in 1..=3_u64 {
            let ttl_ms = 10_000 * u32::try_from(number).unwrap();
            host.registry().register(number, register(number, ttl_ms)).await.unwrap();
            host.registry().deregister(number).await.unwrap();
            assert_eq!(ensemble.connections(), 2, "the main one, and that of the TTL");
            sleep(Duration::from_secs(150)).await;
            assert_eq!(ensemble.connections(), 1);
        }
    });
}

#[test]
fn where_the_root_is_another_the_instances_of_a_predecessor_go() {
    let ensemble = Ensemble::start();
    let settings = |root| json!({ "root": root });
    run(async {
        let host = ensemble.plugin_with(settings("/old"), None).await;
        host.registry().register(1, register(1, 30_000)).await.unwrap();
    });
    let instance = "/old/.pintle/v1/registry/instances/web/1";
    // Each run ends like a sandbox that traps.
    for (root, is_there) in [("/old/", true), ("/", false)] {
        run(async {
            let _successor = ensemble.plugin_with(settings(root), checkpoint()).await;
            sleep(Duration::from_secs(5)).await;
            assert_eq!(ensemble.node(instance).is_some(), is_there, "below {root}");
        });
    }
}
