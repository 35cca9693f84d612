//! Registrations on servers that are slow, away or broken, on a virtual clock.

use crate::ZooKeeper;
use crate::ensemble::{Asked, CHILDREN, DELETE, EXISTS, Ensemble, Fate, GET_DATA, MULTI, SET_DATA};
use crate::wire::ErrorCode;
use pintle_plugin_sdk::record::InstanceRecord;
use pintle_plugin_sdk::registry::{Event, Instance, RegisterRequest};
use pintle_plugin_sdk::testing::{Host, RegisterOutcome, instance, run};
use pintle_plugin_sdk::time::sleep;
use pintle_plugin_sdk::{Effect, Error};
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const INSTANCES: &str = "/.pintle/v1/registry/instances";
/// A predecessor's session.
const SESSION: i64 = 77;
const TTL_MS: u32 = 40_000;

fn path(id: &str) -> String {
    format!("{INSTANCES}/web/{id}")
}

/// What a predecessor on the same host has registered, an hour after 1970 began.
fn left(ensemble: &Ensemble, id: &str) {
    let record = InstanceRecord {
        instance: instance("web", id),
        owner: "node/test".into(),
        registered_ms: Some(3_600_000),
    };
    ensemble.create(&path(id), &record.encode().unwrap(), SESSION);
}

async fn successor(ensemble: &Ensemble) -> Host<ZooKeeper> {
    ensemble.plugin(&[(SESSION, TTL_MS.into())], &[]).await
}

async fn register(host: &Host<ZooKeeper>, id: u64, wanted: Instance) -> Result<(), Error> {
    register_for(host, id, wanted, TTL_MS).await
}

async fn register_for(
    host: &Host<ZooKeeper>,
    id: u64,
    wanted: Instance,
    ttl_ms: u32,
) -> Result<(), Error> {
    let request = RegisterRequest { instance: wanted, ttl_ms };
    match host.registry().register(id, request).await? {
        RegisterOutcome::Registered(_) => Ok(()),
        RegisterOutcome::Taken(state) => panic!("taken by {}", state.owner),
    }
}

fn set_data(asked: &Asked) -> bool {
    asked.opcode == SET_DATA
}

/// The ids of the instances that watches tell of.
async fn put(host: &Host<ZooKeeper>) -> Vec<String> {
    let events = host.registry().events().await.unwrap();
    let id = |(_, event)| match event {
        Event::Put(put) => Some(put.state.instance.id),
        _ => None,
    };
    events.into_iter().filter_map(id).collect()
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

#[test]
fn an_adoption_that_takes_too_long_leaves_the_instance_for_the_next_attempt() {
    run(async {
        let ensemble = Ensemble::start();
        left(&ensemble, "a");
        let (before, host) = (ensemble.node(&path("a")).unwrap(), successor(&ensemble).await);
        ensemble.obey(|asked| if set_data(asked) { Fate::Stall } else { Fate::Serve });
        let heavier = || Instance { weight: 7, ..instance("web", "a") };
        let error = register(&host, 1, heavier()).await.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown);
        ensemble.obey_nobody();
        ensemble.cut();
        seconds(5).await;
        register(&host, 2, heavier()).await.unwrap();
        let after = ensemble.node(&path("a")).unwrap();
        assert_eq!((after.czxid, after.owner), (before.czxid, SESSION), "it was never away");
        assert_eq!(InstanceRecord::decode(&after.data).unwrap().instance, heavier());
    });
}

#[test]
fn what_an_attempt_itself_has_made_is_taken_back() {
    run(async {
        let ensemble = Ensemble::start();
        let host = successor(&ensemble).await;
        let is_creation = |asked: &Asked| asked.opcode == 15 && asked.path.ends_with("/web/a");
        let is_there = Rc::new(Cell::new(false));
        let there = Rc::clone(&is_there);
        // The first one fails, since there is no directory.
        ensemble.obey(move |asked| match is_creation(asked) && there.replace(true) {
            true => Fate::Swallow,
            false => Fate::Serve,
        });
        register(&host, 1, instance("web", "a")).await.unwrap_err();
        assert!(ensemble.node(&path("a")).is_some());
        ensemble.obey_nobody();
        ensemble.cut();
        seconds(20).await;
        assert!(ensemble.node(&path("a")).is_none());
    });
}

#[test]
fn instances_are_not_reaped_before_the_host_could_repeat_them() {
    run(async {
        let ensemble = Ensemble::start();
        ["a", "b"].into_iter().for_each(|id| left(&ensemble, id));
        ensemble.is_down.set(true);
        let host = successor(&ensemble).await;
        seconds(35).await;
        ensemble.is_down.set(false);
        seconds(25).await;
        ensemble.cut();
        seconds(25).await;
        assert_eq!(ensemble.below(&path("")).len(), 2, "each connection counts anew");
        register(&host, 1, instance("web", "a")).await.unwrap();
        seconds(25).await;
        assert_eq!(ensemble.below(&path("")).len(), 2, "the host is at it");
        seconds(10).await;
        assert_eq!(ensemble.below(&path("")), [path("a")]);
    });
}

#[test]
fn an_instance_is_not_reaped_while_the_host_asks_for_it_in_vain() {
    run(async {
        let ensemble = Ensemble::start();
        left(&ensemble, "a");
        let host = successor(&ensemble).await;
        ensemble.obey(|asked| match set_data(asked) {
            true => Fate::Refuse(ErrorCode::NO_AUTH),
            false => Fate::Serve,
        });
        for id in 1..10 {
            let heavier = Instance { weight: 7, ..instance("web", "a") };
            register(&host, id, heavier).await.unwrap_err();
            seconds(10).await;
            assert!(ensemble.node(&path("a")).is_some(), "attempt {id}");
        }
        seconds(60).await;
        assert!(ensemble.node(&path("a")).is_none(), "given up");
    });
}

#[test]
fn an_instance_that_another_host_registers_meanwhile_is_not_reaped() {
    run(async {
        let ensemble = Ensemble::start();
        left(&ensemble, "a");
        let _host = successor(&ensemble).await;
        let (servers, is_done) = (Rc::downgrade(&ensemble), Cell::new(false));
        ensemble.obey(move |asked| {
            let is_reaper = matches!(asked.opcode, EXISTS | DELETE) && asked.path == path("a");
            if is_reaper && !is_done.replace(true) {
                let servers = servers.upgrade().unwrap();
                servers.delete(&path("a"));
                servers.create(&path("a"), b"another's", 5);
            }
            Fate::Serve
        });
        seconds(60).await;
        assert_eq!(ensemble.node(&path("a")).unwrap().owner, 5);
    });
}

#[test]
fn more_instances_than_an_answer_takes_are_reaped_too() {
    run(async {
        let ensemble = Ensemble::start();
        for (service, n) in (0..5).flat_map(|service| (0..100).map(move |n| (service, n))) {
            ensemble.create(&format!("{INSTANCES}/s{service}/{n:0200}"), b"", SESSION);
        }
        let settings = json!({ "request_bytes_max": 4_096, "answer_bytes_max": 65_536 });
        let resume = ensemble.left(&[(SESSION, TTL_MS.into())], &[]);
        let _host = ensemble.plugin_with(settings, Some(resume)).await;
        seconds(29).await;
        assert_eq!(ensemble.kept_by(SESSION, INSTANCES).len(), 500);
        seconds(5).await;
        assert_eq!(ensemble.kept_by(SESSION, INSTANCES).len(), 0);
        assert_eq!(ensemble.connections(), 2, "the main one, and that of the TTL");
    });
}

#[test]
fn adopting_an_instance_that_has_not_changed_writes_nothing() {
    run(async {
        let ensemble = Ensemble::start();
        ["a", "b"].into_iter().for_each(|id| left(&ensemble, id));
        let (before, host) = (ensemble.node(&path("a")), successor(&ensemble).await);
        register(&host, 1, instance("web", "a")).await.unwrap();
        assert_eq!(ensemble.node(&path("a")), before);
        register(&host, 2, Instance { weight: 7, ..instance("web", "b") }).await.unwrap();
        let record = InstanceRecord::decode(&ensemble.node(&path("b")).unwrap().data).unwrap();
        assert_eq!((record.instance.weight, record.registered_ms), (7, Some(3_600_000)));
    });
}

#[test]
fn an_instance_goes_on_by_the_session_that_has_it_where_its_ttl_would_get_another_now() {
    run(async {
        let ensemble = Ensemble::start();
        left(&ensemble, "a");
        // It had the next shorter session, since there was no place for its own.
        let (before, host) = (ensemble.node(&path("a")), successor(&ensemble).await);
        register_for(&host, 1, instance("web", "a"), TTL_MS + 10_000).await.unwrap();
        seconds(120).await;
        assert_eq!(ensemble.node(&path("a")), before, "neither written nor reaped");
    });
}

#[test]
fn an_instance_with_a_shorter_ttl_than_before_moves_to_its_session_without_a_gap() {
    run(async {
        let ensemble = Ensemble::start();
        left(&ensemble, "a");
        let host = successor(&ensemble).await;
        let servers = Rc::downgrade(&ensemble);
        ensemble.obey(move |_| {
            assert!(servers.upgrade().unwrap().node(&path("a")).is_some());
            Fate::Serve
        });
        register_for(&host, 1, instance("web", "a"), TTL_MS / 2).await.unwrap();
        seconds(120).await;
        let node = ensemble.node(&path("a")).unwrap();
        assert!(node.owner != SESSION && ensemble.sessions().contains(&node.owner));
        let record = InstanceRecord::decode(&node.data).unwrap();
        assert_eq!(record.registered_ms, Some(3_600_000), "since then, whoever kept it");
    });
}

#[test]
fn a_move_that_nobody_waits_for_any_more_is_taken_back() {
    run(async {
        let ensemble = Ensemble::start();
        left(&ensemble, "a");
        let host = successor(&ensemble).await;
        ensemble.obey(|asked| match asked.opcode == MULTI && asked.path == path("a") {
            true => Fate::Swallow,
            false => Fate::Serve,
        });
        let moving = register_for(&host, 1, instance("web", "a"), TTL_MS / 2);
        assert_eq!(moving.await.unwrap_err().effect(), Effect::Unknown);
        ensemble.obey_nobody();
        ensemble.cut();
        seconds(20).await;
        assert!(ensemble.node(&path("a")).is_none());
    });
}

#[test]
fn an_instance_of_another_host_is_never_taken_over() {
    run(async {
        let ensemble = Ensemble::start();
        ["a", "b"].into_iter().for_each(|id| left(&ensemble, id));
        let host = successor(&ensemble).await;
        ensemble.delete(&path("b"));
        ensemble.create(&path("b"), b"another's", 5);
        let request = RegisterRequest { instance: instance("web", "b"), ttl_ms: TTL_MS / 2 };
        let outcome = host.registry().register(1, request).await.unwrap();
        assert!(matches!(outcome, RegisterOutcome::Taken(_)), "{outcome:?}");
        assert_eq!(ensemble.node(&path("b")).unwrap().owner, 5);
    });
}

/// Whether a host has heard anything of how an instance is registered.
async fn heard(host: &Host<ZooKeeper>) -> bool {
    let events = host.registry().events().await.unwrap();
    let is_of_it =
        |event: &Event| matches!(event, Event::Registered(_) | Event::Suspect(_) | Event::Lost(_));
    events.iter().any(|(_, event)| is_of_it(event))
}

#[test]
fn an_update_raises_no_doubt_and_a_deletion_after_it_is_seen_at_once() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        register(&host, 1, instance("web", "a")).await.unwrap();
        seconds(1).await;
        assert!(heard(&host).await, "nothing was told at the beginning");
        let heavier = Instance { weight: 7, ..instance("web", "a") };
        host.registry().update(1, heavier).await.unwrap();
        seconds(1).await;
        assert!(!heard(&host).await, "the update raised a doubt");
        ensemble.delete(&path("a"));
        seconds(1).await;
        assert!(heard(&host).await, "nothing was told of the deletion");
        assert!(ensemble.node(&path("a")).is_some(), "it is not registered again");
    });
}

#[test]
fn an_update_whose_answer_is_lost_is_what_is_registered_after_a_loss() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        register(&host, 1, instance("web", "a")).await.unwrap();
        ensemble.obey(|asked| if set_data(asked) { Fate::Swallow } else { Fate::Serve });
        let heavier = Instance { weight: 7, ..instance("web", "a") };
        let error = host.registry().update(1, heavier.clone()).await.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown);
        ensemble.obey_nobody();
        ensemble.expire_all();
        seconds(5).await;
        let record = InstanceRecord::decode(&ensemble.node(&path("a")).unwrap().data).unwrap();
        assert_eq!(record.instance, heavier);
    });
}

/// What is registered in the end where an update is met by `fate` at its request `opcode`, nobody
/// waits for it any more, the connection is made anew, and the session expires later.
async fn updated_in_vain(opcode: i32, fate: fn() -> Fate) -> Instance {
    let ensemble = Ensemble::start();
    let host = ensemble.plugin(&[], &[]).await;
    register(&host, 1, instance("web", "a")).await.unwrap();
    ensemble.obey(move |asked| if asked.opcode == opcode { fate() } else { Fate::Serve });
    let heavier = Instance { weight: 7, ..instance("web", "a") };
    host.registry().update(1, heavier).await.unwrap_err();
    ensemble.obey_nobody();
    ensemble.cut();
    seconds(60).await;
    ensemble.expire_all();
    seconds(5).await;
    InstanceRecord::decode(&ensemble.node(&path("a")).unwrap().data).unwrap().instance
}

#[test]
fn an_update_that_was_never_sent_does_not_come_into_force_later() {
    run(async {
        assert_eq!(updated_in_vain(GET_DATA, || Fate::Stall).await, instance("web", "a"));
    });
}

#[test]
fn an_update_whose_answer_is_lost_is_in_force_later_if_the_server_has_it() {
    run(async {
        assert_eq!(updated_in_vain(SET_DATA, || Fate::Stall).await, instance("web", "a"));
    });
    run(async {
        assert_eq!(updated_in_vain(SET_DATA, || Fate::Swallow).await.weight, 7);
    });
}

#[test]
fn an_update_that_was_refused_is_not_registered_after_a_loss() {
    run(async {
        let ensemble = Ensemble::start();
        let host = ensemble.plugin(&[], &[]).await;
        register(&host, 1, instance("web", "a")).await.unwrap();
        ensemble.obey(|asked| match set_data(asked) {
            true => Fate::Refuse(ErrorCode::NO_AUTH),
            false => Fate::Serve,
        });
        let heavier = Instance { weight: 7, ..instance("web", "a") };
        host.registry().update(1, heavier).await.unwrap_err();
        ensemble.obey_nobody();
        ensemble.expire_all();
        seconds(5).await;
        let record = InstanceRecord::decode(&ensemble.node(&path("a")).unwrap().data).unwrap();
        assert_eq!(record.instance, instance("web", "a"));
    });
}

#[test]
fn on_servers_without_lasting_watches_no_new_service_is_missed() {
    run(async {
        let ensemble = Ensemble::start();
        ensemble.is_old.set(true);
        left(&ensemble, "a");
        let host = ensemble.plugin(&[], &[]).await;
        let (servers, is_done) = (Rc::downgrade(&ensemble), Cell::new(false));
        // Between any two of its requests, and this is the one after which it comes too late.
        let is_first = |asked: &Asked| asked.opcode == CHILDREN && asked.path == INSTANCES;
        ensemble.obey(move |asked| {
            if asked.is_watching && is_first(asked) && !is_done.replace(true) {
                let record = InstanceRecord {
                    instance: instance("new", "n"),
                    owner: String::new(),
                    registered_ms: None,
                };
                let path = format!("{INSTANCES}/new/n");
                servers.upgrade().unwrap().create(&path, &record.encode().unwrap(), 5);
            }
            Fate::Serve
        });
        host.registry().watch(9, None).await.unwrap();
        assert_eq!(put(&host).await, ["n", "a"]);
    });
}

#[test]
fn on_servers_without_lasting_watches_one_that_ends_silences_no_other() {
    run(async {
        let ensemble = Ensemble::start();
        ensemble.is_old.set(true);
        left(&ensemble, "a");
        let host = ensemble.plugin(&[], &[]).await;
        host.registry().watch(1, None).await.unwrap();
        host.registry().watch(2, Some("web".to_owned())).await.unwrap();
        host.registry().events().await.unwrap();
        host.registry().close(2);
        host.registry().events().await.unwrap();
        left(&ensemble, "b");
        assert_eq!(put(&host).await, ["b"]);
    });
}

/// Of which instances a watch of a service on an older server tells, one of whose requests was refused
/// once: after `before` was there and `after` came.
async fn told_although_refused(
    refused: i32,
    before: Option<Instance>,
    after: Instance,
) -> Vec<String> {
    let ensemble = Ensemble::start();
    ensemble.is_old.set(true);
    let host = ensemble.plugin(&[], &[]).await;
    if let Some(before) = before {
        host.registry().add(before, false).await.unwrap();
    }
    let is_done = Cell::new(false);
    ensemble.obey(move |asked| {
        let is_meant = asked.is_watching && asked.path.starts_with(&format!("{INSTANCES}/web"));
        match is_meant && asked.opcode == refused && !is_done.replace(true) {
            true => Fate::Refuse(ErrorCode::THROTTLED),
            false => Fate::Serve,
        }
    });
    host.registry().watch(1, Some("web".to_owned())).await.unwrap();
    host.registry().events().await.unwrap();
    host.registry().add(after, true).await.unwrap();
    put(&host).await
}

#[test]
fn on_servers_without_lasting_watches_a_refused_one_is_set_again() {
    let (a, b) = (|| instance("web", "a"), || instance("web", "b"));
    let heavier = Instance { weight: 7, ..a() };
    run(async {
        assert_eq!(told_although_refused(EXISTS, None, a()).await, ["a"], "a service that comes");
        assert_eq!(told_although_refused(CHILDREN, Some(a()), b()).await, ["b"], "an instance");
        assert_eq!(told_although_refused(GET_DATA, Some(a()), heavier).await, ["a"], "its record");
    });
}
