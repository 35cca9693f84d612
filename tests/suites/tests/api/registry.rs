//! Services and their instances.

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use http::StatusCode;
use pintle_client::{
    api::{
        event::InstanceEvent,
        problem::code,
        registry::{InstanceSpec, InstanceState, ListQuery, Override, OwnerQuery, Register},
    },
    registry::{InstanceName, RegisterOutcome, Registry},
    watch::Delivery,
};
use pintle_test_suites::{eventually, within};

use crate::served::Served;

const INSTANCE: &str = "/v1/backends/main/registry/services/web/instances/one";

/// Of an owner who will come again within 15 seconds.
pub(crate) fn registration() -> Register {
    Register {
        instance: InstanceSpec::new("h", 1),
        owner: "me".into(),
        ttl_ms: 15_000,
        persistent: false,
        replace: false,
    }
}

fn name(id: &str) -> InstanceName {
    InstanceName { service: "web".into(), id: id.into() }
}

async fn listed(registry: &Registry) -> Result<Vec<InstanceState>> {
    Ok(registry.instances("web", &ListQuery::default()).await?.instances)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_listed_while_its_guard_lives() -> Result<()> {
    let served = Served::new().await?;
    let registry = served.client().registry("default");
    let spec = InstanceSpec { zone: Some("a".into()), ..InstanceSpec::new("10.0.0.1", 80) };
    let RegisterOutcome::Registered(guard) =
        registry.register(name("one"), spec.clone(), 15_000).await?
    else {
        panic!("taken")
    };
    let instances = listed(&registry).await?;
    let [state] = instances.as_slice() else { panic!("{instances:?}") };
    assert_eq!((state.host.as_str(), state.port, state.ephemeral), ("10.0.0.1", 80, true));
    let services = registry.services(&ListQuery::default()).await?.services;
    assert_eq!((services[0].name.as_str(), services[0].instances), ("web", 1));

    let second = registry.register(name("one"), spec, 15_000).await?;
    let RegisterOutcome::Taken(other) = second else { panic!("registered twice") };
    assert_eq!(other.host, "10.0.0.1");
    assert!(guard.deregister().await?.removed);
    assert!(listed(&registry).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_client_is_silent_is_gone() -> Result<()> {
    let served = Served::new().await?;
    let body = r#"{"instance":{"host":"h","port":1},"ttl_ms":2000,"owner":"me"}"#;
    let mut watch = served.client().registry("main").watch(Some("web".into())).await?;
    assert_eq!(served.put(INSTANCE, body).await?.status, StatusCode::OK);
    let alive = served.post(&format!("{INSTANCE}/keepalive?owner=me"), "").await?;
    assert_eq!(alive.status, StatusCode::OK);
    loop {
        match within("an event", watch.next()).await?.context("the end")?? {
            Delivery::Event(InstanceEvent::Removed(removed)) => {
                assert_eq!(removed.id, "one");
                break;
            }
            Delivery::Event(_) => {}
            Delivery::Disconnected(reason) => bail!("{reason}"),
        }
    }
    let gone = served.post(&format!("{INSTANCE}/keepalive?owner=me"), "").await?;
    assert_eq!(gone.status, StatusCode::GONE);
    assert_eq!(gone.problem()?.code(), code::REGISTRATION_UNKNOWN);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ttl_of_a_registration_can_be_shortened_and_has_bounds() -> Result<()> {
    let served = Served::new().await?;
    let long = r#"{"instance":{"host":"h","port":1},"ttl_ms":600000,"owner":"me"}"#;
    assert_eq!(served.put(INSTANCE, long).await?.status, StatusCode::OK);
    let endless =
        r#"{"instance":{"host":"h","port":1},"ttl_ms":18446744073709551615,"owner":"me"}"#;
    let refused = served.put(INSTANCE, endless).await?.problem()?;
    assert_eq!(refused.code(), code::INVALID);
    assert!(refused.detail.contains("ttl_ms"), "{refused:?}");
    let short = r#"{"instance":{"host":"h","port":1},"ttl_ms":2000,"owner":"me"}"#;
    assert_eq!(served.put(INSTANCE, short).await?.status, StatusCode::OK);
    let registry = served.client().registry("main");
    eventually("the end", async || Ok(listed(&registry).await?.is_empty().then_some(()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_has_ended_takes_no_place() -> Result<()> {
    let served = Served::new().await?;
    let registry = served.client().registry("main");
    let owner = OwnerQuery { owner: "me".into() };
    let register = Register {
        instance: InstanceSpec::new("h", 1),
        owner: "me".into(),
        ttl_ms: 3_600_000,
        persistent: false,
        replace: false,
    };
    for number in 0..5 {
        let name = name(&number.to_string());
        registry.put(&name, &register).await?;
        assert!(registry.remove(&name, &owner).await?.removed);
    }
    // Nor does one that never was.
    assert!(registry.keepalive(&name("none"), &owner).await.is_err());
    registry.remove(&name("none"), &owner).await.ok();
    registry.put(&name("short"), &Register { ttl_ms: 1, ..register }).await.unwrap_err();
    eventually("free places", async || {
        let metrics = served.get("/metrics").await?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        Ok(text.contains("\npintle_registrations 0\n").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_after_the_last_event_that_was_seen() -> Result<()> {
    const WATCH: &str = "/v1/backends/main/registry/watch?service=web";
    let served = Served::new().await?;
    let registry = served.client().registry("main");
    let register = Register {
        instance: InstanceSpec::new("h", 1),
        owner: String::new(),
        ttl_ms: 15_000,
        persistent: true,
        replace: false,
    };
    registry.put(&name("one"), &register).await?;
    // Keeps the upstream watch, and with it the events to resume from.
    let _keeper = registry.watch(Some("web".into())).await?;
    let text = served.events(WATCH, None, "snapshot-end").await?;
    let id = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).context("an id")?;
    registry.put(&name("two"), &register).await?;
    let resumed = served.events(WATCH, Some(id), "two").await?;
    assert!(!resumed.contains("snapshot-begin") && !resumed.contains("one"), "{resumed}");
    let anew = served.events(WATCH, Some("0.1"), "two").await?;
    assert!(anew.contains("snapshot-begin") && anew.contains("one"), "{anew}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_renews_changes_or_removes_a_registration() -> Result<()> {
    let served = Served::new().await?;
    let registry = served.client().registry("main");
    let mut register = registration();
    assert!(matches!(registry.put(&name("one"), &register).await?, RegisterOutcome::Registered(_)));
    let stranger = OwnerQuery { owner: "you".into() };
    assert_eq!(registry.keepalive(&name("one"), &stranger).await.unwrap_err().code(), code::TAKEN);
    assert_eq!(registry.remove(&name("one"), &stranger).await.unwrap_err().code(), code::TAKEN);

    register.instance.weight = 7;
    registry.put(&name("one"), &register).await?;
    assert_eq!(listed(&registry).await?[0].weight, 7);
    let owner = OwnerQuery { owner: "me".into() };
    assert!(registry.remove(&name("one"), &owner).await?.removed);
    assert!(!registry.remove(&name("one"), &owner).await?.removed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_instance_stays_and_an_operator_has_the_last_word() -> Result<()> {
    let served = Served::new().await?;
    let registry = served.client().registry("main");
    let register = Register {
        instance: InstanceSpec::new("h", 1),
        owner: String::new(),
        ttl_ms: 15_000,
        persistent: true,
        replace: false,
    };
    let outcome = registry.put(&name("one"), &register).await?;
    assert!(matches!(outcome, RegisterOutcome::Registered(r) if r.valid_for_ms.is_none()));
    assert!(matches!(registry.put(&name("one"), &register).await?, RegisterOutcome::Taken(_)));
    let replace = Register { replace: true, ..register };
    assert!(matches!(registry.put(&name("one"), &replace).await?, RegisterOutcome::Registered(_)));

    let off = Override { enabled: Some(false), weight: None, note: "on fire".into() };
    registry.set_override(&name("one"), &off).await?;
    let state = listed(&registry).await?.remove(0);
    assert_eq!((state.enabled, state.operator), (false, Some(off)));
    registry.clear_override(&name("one")).await?;
    assert!(listed(&registry).await?[0].enabled);
    assert!(registry.remove(&name("one"), &OwnerQuery::default()).await?.removed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_registers_again_with_a_server_that_forgot_it() -> Result<()> {
    let served = Served::new().await?;
    let listening = served.listen(0).await?;
    let port = listening.address.port();
    let registry = listening.client()?.registry("main");
    let spec = InstanceSpec::new("h", 1);
    let RegisterOutcome::Registered(mut guard) =
        registry.register(name("one"), spec, 2_000).await?
    else {
        panic!("taken")
    };
    listening.stop().await?;
    let standing = within("doubt", guard.changed()).await?;
    assert!(matches!(standing, pintle_client::registration::Standing::Doubtful(_)));
    let fresh = Served::new().await?;
    let _listening = fresh.listen(port).await?;
    let standing = within("recovery", guard.changed()).await?;
    assert_eq!(standing, pintle_client::registration::Standing::Registered);
    assert_eq!(listed(&fresh.client().registry("main")).await?.len(), 1);
    Ok(())
}
