//! The audit trail.

use anyhow::{Context, Result};
use http::Method;
use pintle_client::{
    api::{
        access::Role,
        audit::{AuditQuery, Record},
        bytes::Value,
        config::{Condition, Expect, Txn, TxnOp},
        registry::{InstanceSpec, Override, OwnerQuery},
    },
    config::{Delete, Put, WriteOutcome},
    lock::LeaseName,
    registry::{InstanceName, RegisterOutcome},
};
use pintle_test_suites::eventually;

use crate::{
    registry::registration,
    served::{Served, request},
};

async fn records(served: &Served, query: AuditQuery) -> Result<Vec<Record>> {
    Ok(served.owner().admin().audit(&query).await?.records)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_leaves_who_what_and_both_versions() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Operator, &[]).await?;
    let config = served.client().with_token(&secret)?.config("default");
    let mut versions = Vec::new();
    for value in ["one", "two"] {
        let WriteOutcome::Done(stored) = config.put(Put::new("app/a", value)).await? else {
            panic!("not stored")
        };
        versions.push(Some(stored.version));
    }
    let stale = Put { expect: Expect::Absent, ..Put::new("app/a", "three") };
    assert!(matches!(config.put(stale).await?, WriteOutcome::Stale(_)));
    config.delete(Delete::new("app/a")).await?;
    config.get("app/a").await?;

    let found =
        records(&served, AuditQuery { key: Some("app".into()), ..Default::default() }).await?;
    let told: Vec<_> = found
        .iter()
        .rev()
        .map(|record| {
            let change = &record.changes[0];
            assert_eq!((record.caller.as_str(), record.backend.as_deref()), ("ann", Some("main")));
            let outcome = record.outcome.as_str();
            (record.operation.as_str(), outcome, change.before.clone(), change.after.clone())
        })
        .collect();
    let [first, second] = [versions[0].clone(), versions[1].clone()];
    assert_eq!(
        told,
        [
            ("config.put", "done", None, first.clone()),
            ("config.put", "done", first, second.clone()),
            ("config.put", "stale", second.clone(), None),
            ("config.delete", "done", second, None),
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change_is_there_and_reading_is_not() -> Result<()> {
    let served = Served::guarded("").await?;
    let owner = served.owner();
    let config = owner.config("main");
    config
        .txn(&Txn {
            conditions: vec![Condition { key: "a".into(), expect: Expect::Absent }],
            held: Vec::new(),
            ops: vec![TxnOp::Put { key: "a".into(), value: Value::of(b"1"), content_type: None }],
        })
        .await
        // Not every plugin has transactions; that one was asked for is written down all the same.
        .ok();
    let lease = LeaseName { lock: "l".into(), id: "i".into() };
    owner.lock("main").put(&lease, &Default::default()).await?;
    owner.lock("main").keepalive(&lease).await?;
    owner.lock("main").release(&lease).await?;
    let name = InstanceName { service: "web".into(), id: "one".into() };
    let operator = Override { enabled: Some(false), weight: None, note: "rebuild".into() };
    // Both need a feature that the plugin may lack.
    owner.registry("main").set_override(&name, &operator).await.ok();
    served.token("ann", Role::Viewer, &[]).await?;
    owner.admin().revoke_token("ann").await?;
    let found = records(&served, AuditQuery::default()).await?;
    let operations: Vec<&str> = found.iter().rev().map(|r| r.operation.as_str()).collect();
    assert_eq!(
        operations,
        [
            "config.txn",
            "lock.acquire",
            "lock.release",
            "registry.override",
            "token.create",
            "token.revoke"
        ]
    );
    let text = serde_json::to_string(&found)?;
    assert!(text.contains("rebuild") && !text.contains("pintle_"), "{text}");
    let acquired = found.iter().find(|record| record.operation == "lock.acquire").context("it")?;
    assert!(acquired.changes[0].after.is_some(), "the token: {acquired:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_allowed_is_written_down_too() -> Result<()> {
    let served = Served::guarded("").await?;
    let secret = served.token("ann", Role::Viewer, &[]).await?;
    let config = served.client().with_token(&secret)?.config("default");
    assert!(config.put(Put::new("app/a", "1")).await.is_err());
    let by_outcome = AuditQuery { outcome: Some("forbidden".into()), ..Default::default() };
    let by_key = AuditQuery { key: Some("app".into()), ..Default::default() };
    let by_backend = AuditQuery { backend: Some("main".into()), ..Default::default() };
    for query in [by_outcome, by_key, by_backend] {
        let found = records(&served, query).await?;
        let [record] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((record.caller.as_str(), record.status), ("ann", 403));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_manages_the_server_names_what_it_is_about() -> Result<()> {
    let served = Served::guarded("").await?;
    let admin = served.owner().admin();
    admin.restart("main").await?;
    let sha256 = admin.plugin("memory").await?.sha256;
    // Nothing may wait for it; that somebody asked is written down all the same.
    let accepted = admin.accept("memory", None).await.is_ok();
    let found = records(&served, AuditQuery::default()).await?;
    let [accept, restart] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (restart.operation.as_str(), restart.backend.as_deref()),
        ("backend.restart", Some("main"))
    );
    assert_eq!(
        (accept.operation.as_str(), accept.changes[0].key.as_str()),
        ("plugin.accept", "memory")
    );
    assert_eq!(accept.changes[0].after, accepted.then_some(sha256));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_goes_away_is_written_down_as_it_ended() -> Result<()> {
    let served = Served::guarded("").await?;
    let mut tries = 0;
    let key = loop {
        let key = format!("a{tries}");
        let asked = request(Method::PUT, &format!("/v1/backends/main/config/keys/{key}"), "1")?;
        // Another thread may have been quick enough to answer.
        if futures::poll!(std::pin::pin!(served.open(asked))).is_pending() {
            break key;
        }
        tries += 1;
    };
    let query = AuditQuery { key: Some(key.clone()), ..Default::default() };
    let record = eventually("the line", async || Ok(records(&served, query.clone()).await?.pop()));
    assert_eq!(record.await?.outcome, "done");
    assert!(served.owner().config("main").get(&key).await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_was_given_up_is_written_down() -> Result<()> {
    let served = Served::guarded("").await?;
    let lock = served.owner().lock("main");
    let lease = LeaseName { lock: "l".into(), id: "i".into() };
    lock.put(&lease, &Default::default()).await?;
    let target = "/v1/backends/main/locks/l/leases/other";
    let mut acquire = Box::pin(served.open(request(Method::PUT, target, r#"{"wait_ms":60000}"#)?));
    while lock.inspect("l").await?.waiters.is_empty() {
        assert!(futures::poll!(acquire.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(acquire);
    let query = AuditQuery { outcome: Some("abandoned".into()), ..Default::default() };
    let found = records(&served, query).await?;
    let [record] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((record.operation.as_str(), record.status), ("lock.acquire", 0));
    assert_eq!(record.changes[0].key, "l");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_no_change() -> Result<()> {
    let served = Served::guarded("").await?;
    let registry = served.owner().registry("main");
    let name = InstanceName { service: "web".into(), id: "one".into() };
    let mut register = registration();
    for _ in 0..5 {
        registry.put(&name, &register).await?;
    }
    registry.keepalive(&name, &OwnerQuery { owner: "me".into() }).await?;
    assert_eq!(records(&served, AuditQuery::default()).await?.len(), 1);
    register.instance.weight = 7;
    registry.put(&name, &register).await?;
    assert_eq!(records(&served, AuditQuery::default()).await?.len(), 2);
    // One that is refused is there, though nothing changed.
    register.owner = "you".into();
    registry.put(&name, &register).await?;
    let found = records(&served, AuditQuery::default()).await?;
    assert_eq!((found.len(), found[0].outcome.as_str()), (3, "taken"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_keeps_its_registration_with_heartbeats_that_leave_no_lines() -> Result<()> {
    let served = Served::guarded("").await?;
    let registry = served.owner().registry("main");
    let name = InstanceName { service: "web".into(), id: "one".into() };
    let spec = InstanceSpec::new("h", 1);
    let RegisterOutcome::Registered(_guard) = registry.register(name, spec, 2_000).await? else {
        panic!("taken")
    };
    let heard = eventually("heartbeats", async || {
        let metrics = served.get("/metrics").await?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let line = "pintle_http_requests_total{operation=\"registry.keepalive\",code=\"2xx\"} 3";
        Ok(text.contains(line).then_some(()))
    });
    heard.await?;
    assert_eq!(records(&served, AuditQuery::default()).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_comes_in_pages_and_outlives_the_server() -> Result<()> {
    let served = Served::guarded("").await?;
    for number in 0..5 {
        served.owner().config("main").put(Put::new(format!("k/{number}"), "v")).await?;
    }
    let again = pintle_server::Api::open(served.pintle.clone(), None)?;
    let admin = pintle_client::Client::in_process(again.router_of_owner()).admin();
    let mut query = AuditQuery { limit: Some(2), ..Default::default() };
    let mut keys = Vec::new();
    loop {
        let page = admin.audit(&query).await?;
        assert!(page.records.len() <= 2);
        keys.extend(page.records.into_iter().map(|record| record.changes[0].key.clone()));
        query.page = page.next;
        if query.page.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["k/4", "k/3", "k/2", "k/1", "k/0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_without_a_data_folder_says_that_it_keeps_no_trail() -> Result<()> {
    let served = Served::new().await?;
    let error = served.client().admin().audit(&AuditQuery::default()).await.unwrap_err();
    assert_eq!(error.code(), "not-kept");
    let refused = served.token("ann", Role::Viewer, &[]).await.unwrap_err();
    assert!(refused.to_string().contains("keeps no tokens"), "{refused}");
    Ok(())
}
