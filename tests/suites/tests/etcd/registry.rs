//! Registrations: exclusive, kept alive, gone with their owner, there again after a loss.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::KeyValue;
use futures::{StreamExt, future::join_all};
use pintle::registry::{
    AddOutcome, Instance, InstanceEvent, InstanceState, InstanceWatch, Override, RegisterOutcome,
    Registration, RegistrationStatus, RemoveOutcome,
};
use pintle_test_proxy::{Action, Cut, Direction, Fault, Rule};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{eventually, within};

use crate::stage::{Node, Stage};

pub(crate) const TTL: Duration = Duration::from_secs(2);
/// So long that nothing in a test ends by it.
pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) fn web(id: &str) -> Instance {
    Instance::new("web", id, "127.0.0.1", 8080)
}

async fn ids(node: &Node) -> Result<Vec<String>> {
    let instances = node.instances("web").await?;
    Ok(instances.into_iter().map(|state| state.instance.id).collect())
}

async fn next_event(watch: &mut InstanceWatch) -> Result<InstanceEvent> {
    Ok(within("an event", watch.next()).await?.context("the watch ended")??)
}

/// Reads events until one is as wanted.
async fn event_with<T>(
    watch: &mut InstanceWatch,
    mut wanted: impl FnMut(InstanceEvent) -> Option<T>,
) -> Result<T> {
    within("the event", async {
        loop {
            if let Some(found) = wanted(next_event(watch).await?) {
                return anyhow::Ok(found);
            }
        }
    })
    .await?
}

/// Waits until the registration stands as wanted.
pub(crate) async fn status_is(
    registration: &Registration,
    wanted: impl Fn(&RegistrationStatus) -> bool,
) -> Result<()> {
    eventually("a status of the registration", async || {
        Ok(wanted(&registration.status()).then_some(()))
    })
    .await
    .with_context(|| format!("{:?}", registration.status()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_listed_with_all_that_it_says_until_it_is_deregistered() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("node-a").await?, stage.node("node-b").await?);
    let instance = Instance {
        version: "1.2.3".into(),
        zone: Some("eu-1".into()),
        weight: 250,
        labels: vec![("tier".into(), "front".into()), ("ü".into(), "a=b,c".into())],
        ..web("10.0.0.1:8080/x%")
    };
    let registration = a.register(instance.clone(), LONG).await?;
    let listed = b.instances("web").await?;
    let [state] = &listed[..] else { bail!("not one: {listed:?}") };
    assert_eq!(state.instance, instance);
    assert!(state.ephemeral && state.operator.is_none());
    assert!(state.owner.contains("node-a") && state.owner.contains("main"), "{}", state.owner);
    assert!(state.registered.is_some());
    let services = b.registry.services(None, 0).await?.services;
    assert_eq!((services.len(), &*services[0].name, services[0].instances), (1, "web", 1));
    assert!(stage.leased_key().await?.lease() != 0);

    registration.deregister().await?;
    assert!(b.instances("web").await?.is_empty());
    assert!(stage.leased_keys().await?.is_empty());
    assert!(b.registry.services(None, 0).await?.services.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_one_name_exactly_one_gets_it() -> Result<()> {
    let stage = Stage::new().await?;
    let nodes = [stage.node("a").await?, stage.node("b").await?];
    for round in 0..5 {
        let id = format!("{round}");
        let all = (0..16).map(|number| nodes[number % 2].registry.register(web(&id), LONG));
        let mut won = Vec::new();
        let mut owners = Vec::new();
        for outcome in within("the race", join_all(all)).await? {
            match outcome? {
                RegisterOutcome::Registered(registration) => won.push(registration),
                RegisterOutcome::Taken(owner) => owners.push(owner),
            }
        }
        assert_eq!((won.len(), owners.len()), (1, 15));
        assert!(owners.iter().all(|owner| owner.instance.id == id));
        assert_eq!(nodes[0].instances("web").await?.len(), 1);
        won.remove(0).deregister().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_host_died_is_gone_and_its_name_is_free() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let dying = stage.node_through("a", &proxy).await?;
    let b = stage.node("b").await?;
    let registration = dying.register(web("1"), TTL).await?;
    let mut watch = b.registry.watch(Some("web".into())).await?;
    event_with(&mut watch, |event| matches!(event, InstanceEvent::Put { .. }).then_some(()))
        .await?;
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    let previous = event_with(&mut watch, |event| match event {
        InstanceEvent::Removed { id, previous, .. } if &*id == "1" => Some(previous),
        _ => None,
    });
    assert!(previous.await?.is_some_and(|before| before.instance == web("1")));
    assert!(ids(&b).await?.is_empty());
    assert_ne!(registration.status(), RegistrationStatus::Registered);
    let again = b.register(web("1"), LONG).await?;

    // The first one comes back, finds another in its place, and leaves it alone.
    proxy.heal().await?;
    status_is(&registration, |status| matches!(status, RegistrationStatus::Taken(_))).await?;
    assert_eq!(again.status(), RegistrationStatus::Registered);
    drop(registration);
    let listed = b.instances("web").await?;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].owner.contains('b'), "{}", listed[0].owner);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_lives_on_while_it_is_renewed() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let registration = node.register(web("1"), TTL).await?;
    let before = stage.leased_key().await?;
    // Three renewals, each at a third, are as long as it would live without.
    eventually("five renewals", async || {
        let renewed = stage.etcd.metric("etcd_debugging_lease_renewed_total", &[]).await?;
        Ok((renewed >= 5.0).then_some(()))
    })
    .await?;
    let after = stage.leased_key().await?;
    assert_eq!(after.create_revision(), before.create_revision(), "it was gone in between");
    assert_eq!(registration.status(), RegistrationStatus::Registered);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_lease_was_revoked_an_instance_is_registered_again() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let registration = node.register(web("revoked"), LONG).await?;
    let first = stage.leased_key().await?;
    let other = stage.node("b").await?;
    let mut watch = other.registry.watch(Some("web".into())).await?;
    let is_put = |event| matches!(event, InstanceEvent::Put { .. }).then_some(());
    event_with(&mut watch, is_put).await?;
    // The new registration is held up, so that the loss can be seen.
    let record = Rule::request(|message| message.contains(br#""id":"revoked""#));
    let held_up = proxy.arm(record, Action::Fault(Fault::BlackholeTowards(Direction::ToServer)));
    stage.etcd.ctl(&["lease", "revoke", &format!("{:x}", first.lease())]).await?;
    status_is(&registration, |status| matches!(status, RegistrationStatus::Lost(_))).await?;
    held_up.fired().await?;
    proxy.heal().await?;
    status_is(&registration, |status| *status == RegistrationStatus::Registered).await?;
    let again = stage.leased_key().await?;
    assert_eq!(again.key(), first.key());
    assert_ne!(again.lease(), first.lease());
    let is_removal = |event| matches!(event, InstanceEvent::Removed { .. }).then_some(());
    event_with(&mut watch, is_removal).await?;
    event_with(&mut watch, is_put).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_key_was_deleted_an_instance_is_registered_again() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let registration = node.register(web("1"), LONG).await?;
    let key = stage.leased_key().await?;
    stage.etcd.ctl(&["del", key.key_str()?]).await?;
    eventually("the instance", async || Ok((ids(&node).await? == ["1"]).then_some(()))).await?;
    status_is(&registration, |status| *status == RegistrationStatus::Registered).await
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_survive_a_restart_of_the_server() -> Result<()> {
    const INSTANCES: usize = 20;
    let mut stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let mut registrations = Vec::new();
    for number in 0..INSTANCES {
        registrations.push(node.register(web(&number.to_string()), TTL).await?);
    }
    for _ in 0..2 {
        let server = stage.server()?;
        server.kill()?;
        server.restart().await?;
        eventually("all instances", async || {
            // It may not be connected again yet.
            let count = node.instances("web").await.map_or(0, |all| all.len());
            Ok((count == INSTANCES).then_some(()))
        })
        .await?;
    }
    for registration in &registrations {
        status_is(registration, |status| *status == RegistrationStatus::Registered).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_come_back_to_a_server_that_lost_them() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let other = Stage::alone(EtcdOptions::default()).await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let registration = node.register(web("1"), TTL).await?;
    // Behind the same address there is an empty server now, as after a loss of the disk.
    proxy.set_upstream(other.etcd.address());
    proxy.cut_all(Cut::Reset).await?;
    let mut client = other.client().await?;
    eventually("the registration", async || {
        let options = etcd_client::GetOptions::new().with_prefix();
        let found = client.get(stage.root.as_str(), Some(options)).await?;
        Ok(found.kvs().iter().any(|pair| pair.lease() != 0).then_some(()))
    })
    .await?;
    status_is(&registration, |status| *status == RegistrationStatus::Registered).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_is_kept_apart_and_outlives_the_instance() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let registration = a.register(web("1"), LONG).await?;
    let mut watch = b.registry.watch(Some("web".into())).await?;
    let put = |event| match event {
        InstanceEvent::Put { state, .. } => Some(state),
        _ => None,
    };
    assert!(event_with(&mut watch, put).await?.operator.is_none());
    let drained =
        Override { enabled: Some(false), weight: Some(5), note: "drained for a repair".into() };
    b.registry.set_override("web", "1", Some(drained.clone())).await?;
    let state = event_with(&mut watch, put).await?;
    assert_eq!(state.operator.as_ref(), Some(&drained));
    assert!(!state.enabled() && state.weight() == 5);
    assert_eq!(state.instance, web("1"), "what it says of itself is untouched");

    registration.deregister().await?;
    event_with(&mut watch, |event| matches!(event, InstanceEvent::Removed { .. }).then_some(()))
        .await?;
    assert!(b.instances("web").await?.is_empty(), "an override is no instance");
    assert!(b.registry.services(None, 0).await?.services.is_empty());
    let _again = a.register(web("1"), LONG).await?;
    let state = event_with(&mut watch, put).await?;
    assert_eq!(state.operator, Some(drained));
    b.registry.set_override("web", "1", None).await?;
    let state = event_with(&mut watch, put).await?;
    assert!(state.operator.is_none() && state.enabled());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_the_record_and_not_the_lease() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let registration = a.register(web("1"), LONG).await?;
    let before = stage.leased_key().await?;
    let mut watch = b.registry.watch(None).await?;
    event_with(&mut watch, |event| matches!(event, InstanceEvent::SnapshotEnd).then_some(()))
        .await?;
    registration.update(Instance { weight: 7, enabled: false, ..web("1") }).await?;
    let (state, previous) = event_with(&mut watch, |event| match event {
        InstanceEvent::Put { state, previous } => Some((state, previous)),
        _ => None,
    })
    .await?;
    assert_eq!((state.instance.weight, state.enabled()), (7, false));
    assert_eq!(previous.context("what was before")?.instance, web("1"));
    let after = stage.leased_key().await?;
    assert_eq!(after.lease(), before.lease());
    assert_eq!(after.create_revision(), before.create_revision());

    // A lost session brings back what it says now.
    stage.client().await?.lease_revoke(after.lease()).await?;
    eventually("the instance", async || {
        let found = b.instances("web").await?;
        Ok(found.first().map(|state| state.instance.weight))
    })
    .await
    .map(|weight| assert_eq!(weight, 7))
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_that_race_with_a_new_registration_are_not_lost() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    let registration = a.register(web("1"), LONG).await?;
    let mut client = stage.client().await?;
    for weight in 1..=20 {
        if let Some(key) = stage.leased_keys().await?.first() {
            client.lease_revoke(key.lease()).await?;
        }
        // Refused while it is not registered: it is said when it is again.
        let said = Instance { weight, ..web("1") };
        if let Err(error) = registration.update(said).await {
            assert!(error.is_transient(), "{error}");
        }
    }
    eventually("the last word", async || {
        let found = b.instances("web").await?;
        Ok(found.first().filter(|state| state.instance.weight == 20).map(drop))
    })
    .await?;
    status_is(&registration, |status| *status == RegistrationStatus::Registered).await
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_an_instance_while_it_is_registered_again_leaves_no_orphan() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let mut client = stage.client().await?;
    for number in 0..20_u32 {
        let id = number.to_string();
        let registration = node.register(web(&id), LONG).await?;
        let all = stage.leased_keys().await?;
        let own = |pair: &&KeyValue| pair.key().ends_with(format!("/{id}").as_bytes());
        client.lease_revoke(all.iter().find(own).context("its key")?.lease()).await?;
        // A little later each time, so that each step is met by some.
        let later = Duration::from_micros(u64::from(number) * 300);
        let _ = tokio::time::timeout(later, registration.changed()).await;
        if number % 2 == 0 {
            drop(registration);
        } else {
            registration.deregister().await?;
            let is_left = stage.leased_keys().await?.iter().any(|pair| own(&pair));
            assert!(!is_left, "{id} is registered after it was deregistered");
        }
    }
    // What was being written when it was dropped may show for a moment; an orphan stays.
    let shown = async {
        while stage.leased_keys().await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), shown).await;
    eventually("no key", async || Ok(stage.leased_keys().await?.is_empty().then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_no_session_keeps_stays_until_it_is_removed() -> Result<()> {
    let stage = Stage::new().await?;
    let (a, b) = (stage.node("a").await?, stage.node("b").await?);
    assert_eq!(a.registry.add(web("1"), false).await?, AddOutcome::Stored);
    assert!(matches!(b.registry.add(web("1"), false).await?, AddOutcome::Taken(_)));
    let heavier = Instance { weight: 200, ..web("1") };
    assert_eq!(b.registry.add(heavier, true).await?, AddOutcome::Stored);
    within("the shutdown", a.pintle.shutdown()).await?;
    let listed = b.instances("web").await?;
    assert_eq!((listed.len(), listed[0].instance.weight, listed[0].ephemeral), (1, 200, false));
    assert!(matches!(b.registry.register(web("1"), TTL).await?, RegisterOutcome::Taken(_)));
    assert!(stage.leased_keys().await?.is_empty());

    let live = b.register(web("2"), LONG).await?;
    assert!(matches!(b.registry.add(web("2"), true).await?, AddOutcome::Taken(_)));
    assert_eq!(b.registry.remove("web", "2").await?, RemoveOutcome::Ephemeral);
    assert_eq!(b.registry.remove("web", "1").await?, RemoveOutcome::Removed);
    assert_eq!(b.registry.remove("web", "1").await?, RemoveOutcome::Absent);
    assert_eq!(ids(&b).await?, ["2"]);
    live.deregister().await.map_err(Into::into)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_instances_come_in_pages_and_names_do_not_run_together() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let mut kept = Vec::new();
    for (service, id) in [("a", "b/c"), ("a/b", "c"), ("a", "d"), ("b", "1"), ("a%2Fb", "1")] {
        let instance = Instance::new(service, id, "localhost", 1);
        kept.push(node.register(instance, LONG).await?);
    }
    let mut names = Vec::new();
    let mut page = None;
    loop {
        let found = node.registry.services(page, 2).await?;
        assert!(found.services.len() <= 2);
        names.extend(found.services.into_iter().map(|service| (service.name, service.instances)));
        match found.next {
            Some(next) => page = Some(next),
            None => break,
        }
    }
    let wanted = [("a", 2), ("a%2Fb", 1), ("a/b", 1), ("b", 1)];
    assert_eq!(names, wanted.map(|(name, count)| (name.to_owned(), count)));
    let first = node.registry.instances("a", None, 1, None).await?;
    let ids = |all: &[InstanceState]| -> Vec<String> {
        all.iter().map(|state| state.instance.id.clone()).collect()
    };
    assert_eq!(ids(&first.instances), ["b/c"]);
    let second = node.registry.instances("a", first.next, 1, None).await?;
    assert_eq!(ids(&second.instances), ["d"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_reply_was_lost_is_neither_orphan_nor_double() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let other = stage.node("b").await?;
    for round in 0..5 {
        let id = format!("lost-reply-{round}");
        let needle = id.clone().into_bytes();
        let rule = Rule::reply_to(move |message| message.contains(&needle));
        let armed = proxy.arm(rule, Action::CutBefore(Cut::Reset));
        let outcome = within("the registration", node.registry.register(web(&id), LONG)).await?;
        armed.fired().await?;
        match outcome {
            Ok(RegisterOutcome::Registered(registration)) => {
                assert_eq!(ids(&other).await?, [id.as_str()]);
                registration.deregister().await?;
            }
            Ok(RegisterOutcome::Taken(owner)) => bail!("taken by itself: {owner:?}"),
            Err(_) => {}
        }
        // Whatever was said: nothing is left that would block the name for a TTL.
        let again = eventually("the name", async || {
            Ok(match other.registry.register(web(&id), LONG).await? {
                RegisterOutcome::Registered(registration) => Some(registration),
                RegisterOutcome::Taken(_) => None,
            })
        });
        again.await?.deregister().await?;
    }
    eventually("no key", async || Ok(stage.leased_keys().await?.is_empty().then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_given_up_while_it_is_asked_for_leaves_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let rule = Rule::reply_to(|message| message.contains(b"given-up"));
    let towards = Fault::BlackholeTowards(Direction::ToClient);
    let armed = proxy.arm(rule, Action::Fault(towards));
    let registering = node.registry.register(web("given-up"), LONG);
    tokio::select! {
        outcome = registering => bail!("it was answered: {outcome:?}"),
        fired = armed.fired() => fired?,
    }
    // The server has done it; the answer comes after the call was dropped.
    proxy.heal().await?;
    eventually("no key", async || Ok(stage.leased_keys().await?.is_empty().then_some(()))).await
}
