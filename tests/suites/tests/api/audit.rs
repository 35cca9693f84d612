//! The audit trail.

use anyhow::{Context, Result};
use http::Method;
use pintle_client::{
    api::{
        access::Role,
        audit::{AuditQuery, Record},
        bytes::Value,
        config::{Condition, DeletePrefixQuery, Expect, Txn, TxnOp, TxnResult},
        registry::{InstanceSpec, Override, OwnerQuery, Register},
    },
    config::{Delete, Put, TxnOutcome, WriteOutcome},
    lock::{AcquireOutcome, LeaseName},
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

fn put_op(key: &str, value: &str) -> TxnOp {
    TxnOp::Put { key: key.into(), value: Value::of(value.as_bytes()), content_type: None }
}

fn condition(key: &str, expect: Expect) -> Condition {
    Condition { key: key.into(), expect }
}

/// The keys of a record with the versions before and after.
fn versions(record: &Record) -> Vec<(&str, Option<&str>, Option<&str>)> {
    let changes = record.changes.iter();
    changes.map(|it| (it.key.as_str(), it.before.as_deref(), it.after.as_deref())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_tells_the_versions_that_it_expected_and_made() -> Result<()> {
    let served = Served::whole().await?;
    let config = served.owner().config("local");
    let mut first = Vec::new();
    for key in ["a", "b", "c", "d"] {
        let WriteOutcome::Done(stored) = config.put(Put::new(key, "1")).await? else {
            panic!("not stored")
        };
        first.push(stored.version);
    }
    let [a, b, _, d] = first.as_slice() else { panic!("{first:?}") };
    let txn = Txn {
        conditions: vec![
            condition("a", Expect::Version(a.clone())),
            condition("b", Expect::Version(b.clone())),
            condition("c", Expect::Exists),
            condition("new", Expect::Absent),
        ],
        held: Vec::new(),
        ops: vec![
            put_op("a", "2"),
            TxnOp::Delete { key: "b".into() },
            put_op("c", "2"),
            put_op("new", "2"),
            TxnOp::Delete { key: "nothing".into() },
            TxnOp::Get { key: "d".into() },
        ],
    };
    let TxnOutcome::Committed(committed) = config.txn(&txn).await? else { panic!("stale") };
    let TxnResult::Put { version } = &committed.results[0] else { panic!("{committed:?}") };
    // The same again fails in its first condition, and another one in a key that it does not change.
    assert!(matches!(config.txn(&txn).await?, TxnOutcome::Stale(_)));
    let about_d = Txn {
        conditions: vec![condition("d", Expect::Absent)],
        held: Vec::new(),
        ops: vec![TxnOp::Delete { key: "d".into() }],
    };
    assert!(matches!(config.txn(&about_d).await?, TxnOutcome::Stale(_)));

    let query = AuditQuery { operation: Some("config.txn".into()), ..Default::default() };
    let found = records(&served, query).await?;
    let [other, stale, done] = found.as_slice() else { panic!("{found:?}") };
    let new = Some(version.as_str());
    assert_eq!(done.outcome, "done");
    assert_eq!(
        versions(done),
        [
            ("a", Some(a.as_str()), new),
            ("b", Some(b.as_str()), None),
            // That it existed was asked, and not at which version.
            ("c", None, new),
            ("new", None, new),
            ("nothing", None, None),
        ]
    );
    assert_eq!(stale.outcome, "stale");
    assert_eq!(versions(stale)[0], ("a", new, None), "{stale:?}");
    assert!(stale.changes.iter().all(|change| change.after.is_none()), "{stale:?}");
    assert_eq!(versions(other), [("d", Some(d.as_str()), None)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_names_each_of_the_most_keys_that_it_may_have() -> Result<()> {
    let served = Served::whole().await?;
    let config = served.owner().config("local");
    let keys: Vec<String> = (0..128).map(|number| format!("{number:03}")).collect();
    let conditions = |version: Option<&String>| {
        let expect = version.map_or(Expect::Absent, |it| Expect::Version(it.clone()));
        keys.iter().map(|key| condition(key, expect.clone())).collect()
    };
    let ops = |value| keys.iter().map(|key| put_op(key, value)).collect();
    let mut made = None;
    for value in ["1", "2"] {
        let txn = Txn { conditions: conditions(made.as_ref()), held: Vec::new(), ops: ops(value) };
        let TxnOutcome::Committed(committed) = config.txn(&txn).await? else { panic!("stale") };
        let TxnResult::Put { version } = &committed.results[127] else { panic!("{committed:?}") };
        let found = records(&served, AuditQuery::default()).await?;
        let told = versions(&found[0]);
        assert_eq!(told.len(), 128);
        for (key, told) in keys.iter().zip(told) {
            assert_eq!(told, (key.as_str(), made.as_deref(), Some(version.as_str())));
        }
        made = Some(version.clone());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_thing_before_and_after_is_told_for_each_noun() -> Result<()> {
    let served = Served::whole().await?;
    let owner = served.owner();
    let (config, lock, registry) =
        (owner.config("local"), owner.lock("local"), owner.registry("local"));
    for key in ["p/a", "p/b"] {
        config.put(Put::new(key, "1")).await?;
    }
    config.delete_prefix(&DeletePrefixQuery { prefix: "p".into(), held: None }).await?;

    let lease = LeaseName { lock: "l".into(), id: "first".into() };
    let AcquireOutcome::Held(held) = lock.put(&lease, &Default::default()).await? else {
        panic!("busy")
    };
    let token = held.token.context("a token")?.value.to_string();
    let other = LeaseName { lock: "l".into(), id: "second".into() };
    assert!(matches!(lock.put(&other, &Default::default()).await?, AcquireOutcome::Busy(_)));
    lock.release(&lease).await?;
    lock.put(&other, &Default::default()).await?;
    let claim = lock.inspect("l").await?.holders[0].claim_id.clone();
    assert!(lock.force_release("l", &claim).await?.released);
    assert!(!lock.force_release("l", &claim).await?.released);

    let name = InstanceName { service: "web".into(), id: "one".into() };
    let stored = Register { persistent: true, ..registration() };
    registry.put(&name, &stored).await?;
    let RegisterOutcome::Taken(present) = registry.put(&name, &stored).await? else {
        panic!("stored twice")
    };
    let operator = Override { enabled: Some(false), weight: None, note: "rebuild".into() };
    registry.set_override(&name, &operator).await?;
    registry.clear_override(&name).await?;
    registry.remove(&name, &OwnerQuery { owner: "me".into() }).await?;

    let found = records(&served, AuditQuery::default()).await?;
    let told: Vec<_> = found
        .iter()
        .rev()
        .skip(2)
        .map(|record| {
            let [(key, before, after)] = versions(record)[..] else { panic!("{record:?}") };
            let (operation, outcome) = (record.operation.as_str(), record.outcome.as_str());
            (operation, outcome, key, before, after, record.detail.as_deref().unwrap_or_default())
        })
        .collect();
    let (token, version) = (Some(token.as_str()), Some(present.version.as_str()));
    let later = told[4].4;
    assert!(later.is_some() && later != token, "{told:?}");
    let forced = format!("claim {claim}");
    let gone = format!("{forced}, which was gone");
    let expected = [
        ("config.delete-prefix", "done", "p", None, None, "2 keys below it"),
        ("lock.acquire", "done", "l", None, token, ""),
        ("lock.acquire", "lock-busy", "l", token, None, ""),
        ("lock.release", "done", "l", token, None, ""),
        ("lock.acquire", "done", "l", None, later, ""),
        ("lock.force-release", "done", "l", None, None, forced.as_str()),
        ("lock.force-release", "done", "l", None, None, gone.as_str()),
        ("registry.register", "done", "web/one", None, None, ""),
        ("registry.register", "taken", "web/one", version, None, ""),
        ("registry.override", "done", "web/one", None, None, "enabled false, rebuild"),
        ("registry.clear-override", "done", "web/one", None, None, ""),
        ("registry.remove", "done", "web/one", None, None, ""),
    ];
    assert_eq!(told, expected);
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
