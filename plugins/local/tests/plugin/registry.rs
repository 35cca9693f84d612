//! Registrations through the plugin.

use crate::{Node, TTL_MS, registration};
use pintle_plugin_local::Local;
use pintle_plugin_sdk::registry::{
    AddOutcome, Consistency, Event, Instance, OperatorOverride, RemoveOutcome,
};
use pintle_plugin_sdk::testing::{Host, RegisterOutcome};
use pintle_plugin_sdk::time::sleep;
use std::time::Duration;

async fn ids(host: &Host<Local>) -> Vec<String> {
    let page = host
        .registry()
        .instances("shop".into(), None, 1_000, Consistency::Linearizable)
        .await
        .unwrap();
    page.instances.into_iter().map(|state| state.instance.id).collect()
}

async fn register(host: &Host<Local>, handle: u64, id: &str) -> RegisterOutcome {
    host.registry().register(handle, registration(id)).await.unwrap()
}

fn is_registered(outcome: &RegisterOutcome) -> bool {
    matches!(outcome, RegisterOutcome::Registered(validity) if validity.valid_for_ms == TTL_MS)
}

#[test]
fn an_instance_stays_registered_until_it_is_deregistered() {
    Node::new().fresh(async |host| {
        assert!(is_registered(&register(&host, 1, "a").await));
        assert!(matches!(register(&host, 2, "a").await, RegisterOutcome::Taken(_)));
        sleep(Duration::from_secs(3_600)).await;
        assert_eq!(ids(&host).await, ["a"]);
        let events = host.registry().events().await.unwrap();
        assert!(
            events.iter().all(|(id, event)| { *id == 1 && matches!(event, Event::Registered(_)) })
        );
        host.registry().deregister(1).await.unwrap();
        assert!(ids(&host).await.is_empty());
        host.registry().deregister(1).await.unwrap();
        assert!(is_registered(&register(&host, 2, "a").await));
    });
}

#[test]
fn a_closed_registration_goes_without_being_waited_for() {
    Node::new().fresh(async |host| {
        register(&host, 1, "a").await;
        host.registry().close(1);
        sleep(Duration::from_millis(10)).await;
        assert!(ids(&host).await.is_empty());
    });
}

#[test]
fn after_a_trap_what_the_host_repeats_is_adopted_without_a_gap() {
    let node = Node::new();
    node.fresh(async |host| {
        register(&host, 1, "a").await;
        register(&host, 2, "b").await;
    });
    node.resumed(async |host| {
        assert_eq!(ids(&host).await, ["a", "b"]);
        assert!(is_registered(&register(&host, 1, "a").await));
        sleep(Duration::from_millis(u64::from(TTL_MS) + 100)).await;
        assert_eq!(ids(&host).await, ["a"]);
    });
}

#[test]
fn after_a_second_trap_the_first_incarnation_is_still_named() {
    let node = Node::new();
    let mut moved = registration("a");
    node.fresh(async |host| {
        register(&host, 1, "a").await;
    });
    node.resumed(async |_| ());
    node.resumed(async |host| {
        moved.instance.host = "10.9.9.9".into();
        let outcome = host.registry().register(1, moved).await.unwrap();
        assert!(is_registered(&outcome), "{outcome:?}");
    });
}

#[test]
fn after_a_crash_of_the_host_the_same_instance_is_adopted_and_another_is_not() {
    let node = Node::new();
    node.fresh(async |host| {
        register(&host, 1, "a").await;
        register(&host, 2, "b").await;
    });
    node.fresh(async |host| {
        assert!(is_registered(&register(&host, 1, "a").await));
        let mut moved = registration("b");
        moved.instance.port = 9999;
        let outcome = host.registry().register(2, moved.clone()).await.unwrap();
        assert!(matches!(outcome, RegisterOutcome::Taken(_)));
        sleep(Duration::from_millis(u64::from(TTL_MS))).await;
        let outcome = host.registry().register(2, moved).await.unwrap();
        assert!(is_registered(&outcome));
    });
}

#[test]
fn an_update_is_seen_and_a_new_name_refused() {
    Node::new().fresh(async |host| {
        let registry = host.registry();
        register(&host, 1, "a").await;
        let changed = Instance { weight: 5, ..registration("a").instance };
        registry.update(1, changed).await.unwrap();
        let page =
            registry.instances("shop".into(), None, 10, Consistency::Sequential).await.unwrap();
        assert_eq!(page.instances[0].instance.weight, 5);
        assert_eq!(page.instances[0].owner, "node/test");
        assert!(page.instances[0].ephemeral);
        let renamed = registration("z").instance;
        assert_eq!(registry.update(1, renamed).await.unwrap_err().code(), "invalid");
    });
}

#[test]
fn a_watch_delivers_each_change_with_what_was_there_before() {
    Node::new().fresh(async |host| {
        let registry = host.registry();
        register(&host, 1, "a").await;
        registry.watch(9, Some("shop".into())).await.unwrap();
        let events = registry.events().await.unwrap();
        let kinds: Vec<_> = events.iter().map(|(_, event)| event).collect();
        assert!(matches!(kinds[..], [Event::SnapshotBegin, Event::Put(_), Event::SnapshotEnd]));
        let word = OperatorOverride { enabled: Some(false), weight: None, note: "broken".into() };
        registry.set_override("shop".into(), "a".into(), Some(word.clone())).await.unwrap();
        registry.deregister(1).await.unwrap();
        let events = registry.events().await.unwrap();
        let [(9, Event::Put(put)), (9, Event::Removed(removed))] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(put.state.operator.as_ref(), Some(&word));
        assert_eq!(put.previous.as_ref().unwrap().operator, None);
        assert_eq!(removed.previous.as_ref().unwrap().operator, Some(word));
    });
}

#[test]
fn persistent_instances_are_added_replaced_and_removed() {
    let node = Node::new();
    let instance = || registration("p").instance;
    node.fresh(async |host| {
        let registry = host.registry();
        let add = async |replace| registry.add(instance(), replace).await.unwrap();
        assert!(matches!(add(false).await, AddOutcome::Stored));
        assert!(matches!(add(false).await, AddOutcome::Taken(_)));
        assert!(matches!(add(true).await, AddOutcome::Stored));
        host.stop().await.unwrap();
    });
    node.fresh(async |host| {
        assert_eq!(ids(&host).await, ["p"]);
        let remove = async || host.registry().remove("shop".into(), "p".into()).await.unwrap();
        assert_eq!(remove().await, RemoveOutcome::Removed);
        assert_eq!(remove().await, RemoveOutcome::Absent);
        register(&host, 1, "p").await;
        assert_eq!(remove().await, RemoveOutcome::Ephemeral);
    });
}
