//! Configuration.

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use pintle_client::{
    api::{
        bytes::Value,
        config::{
            Condition, DeletePrefixQuery, EntriesPage, Entry, Expect, ListQuery, Txn, TxnOp,
            TxnResult, WatchQuery, WriteQuery,
        },
        event::ConfigEvent,
    },
    config::{Config, Delete, Put, TxnOutcome, WriteOutcome},
    watch::{Delivery, Watch},
};
use pintle_test_suites::within;

use crate::served::{Served, request};

const KEYS: &str = "/v1/backends/main/config/keys";
const FROM_FIRST: &str = "/v1/backends/main/config/watch?prefix=w&from_version=1";

async fn put(config: &Config, key: &str, value: &str) -> Result<String> {
    match config.put(Put::new(key, value.to_owned())).await? {
        WriteOutcome::Done(stored) => Ok(stored.version),
        other => bail!("not stored: {other:?}"),
    }
}

fn with(name: HeaderName, value: &str) -> Result<HeaderMap> {
    Ok(HeaderMap::from_iter([(name, HeaderValue::from_str(value)?)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_stored_and_read_byte_for_byte() -> Result<()> {
    let served = Served::new().await?;
    let target = &format!("{KEYS}/app/blob");
    let mut put = request(Method::PUT, target, "")?;
    *put.body_mut() = b"\xff\x00\n".to_vec().into();
    let stored = served.send(put).await?;
    assert_eq!(stored.status, StatusCode::OK);

    let reply = served.get(target).await?;
    assert_eq!(&reply.body[..], b"\xff\x00\n");
    assert_eq!(reply.headers[header::ETAG], stored.headers[header::ETAG]);
    assert_eq!(reply.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");

    let entry: Entry = served.get(&format!("{target}?format=json")).await?.json()?;
    assert_eq!(entry.value, Value { value: None, value_base64: Some("/wAK".into()) });
    assert_eq!(entry.key, "app/blob");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_media_type_is_kept_and_that_of_a_form_is_not() -> Result<()> {
    let served = Served::new().await?;
    for (sent, kept) in [
        ("text/yaml", "text/yaml"),
        ("application/x-www-form-urlencoded", "application/octet-stream"),
    ] {
        let mut put = request(Method::PUT, &format!("{KEYS}/a"), "x: 1")?;
        put.headers_mut().extend(with(header::CONTENT_TYPE, sent)?);
        served.send(put).await?;
        let reply = served.get(&format!("{KEYS}/a")).await?;
        assert_eq!(reply.headers[header::CONTENT_TYPE], kept);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_has_a_path() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("default");
    let keys = ["a", "a/b c", "a/50%25", "a/%2E%2E/b", "a/ü?x=1#y", "a/+&;=", "a/\"quoted\""];
    for key in keys {
        put(&config, key, key).await?;
    }
    for key in keys {
        let entry = config.get(key).await?.with_context(|| key.to_owned())?;
        assert_eq!((entry.key.as_str(), entry.value), (key, Value::of(key.as_bytes())));
    }
    // A slash may be escaped as well.
    assert_eq!(&served.get(&format!("{KEYS}/a%2Fb%20c")).await?.body[..], b"a/b c");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_expects_something_else_is_refused_with_what_is_there() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("main");
    let expecting = |expect| Put { expect, ..Put::new("k", "new") };

    let missing = config.put(expecting(Expect::Exists)).await?;
    assert_eq!(missing, WriteOutcome::Stale(None));
    let first = put(&config, "k", "one").await?;
    let second = put(&config, "k", "two").await?;
    let WriteOutcome::Stale(Some(current)) = config.put(expecting(Expect::Version(first))).await?
    else {
        panic!("an old version was accepted")
    };
    assert_eq!((current.version, current.value), (second.clone(), Value::of(b"two")));
    assert!(matches!(config.put(expecting(Expect::Absent)).await?, WriteOutcome::Stale(Some(_))));
    let right = config.put(expecting(Expect::Version(second.clone()))).await?;
    assert!(matches!(right, WriteOutcome::Done(_)));

    let delete = Delete { expect: Expect::Version(second), ..Delete::new("k") };
    assert!(matches!(config.delete(delete).await?, WriteOutcome::Stale(Some(_))));

    let mut raw = request(Method::PUT, &format!("{KEYS}/k"), "x")?;
    raw.headers_mut().extend(with(header::IF_NONE_MATCH, "*")?);
    let reply = served.send(raw).await?;
    assert_eq!(reply.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(reply.problem()?.current.map(|entry| entry.value), Some(Value::of(b"new")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_has_the_version_is_not_sent_it_again() -> Result<()> {
    let served = Served::new().await?;
    put(&served.client().config("main"), "k", "v").await?;
    let tag = served.get(&format!("{KEYS}/k")).await?.headers[header::ETAG].clone();
    let mut again = request(Method::GET, &format!("{KEYS}/k"), "")?;
    again.headers_mut().insert(header::IF_NONE_MATCH, tag);
    let reply = served.send(again).await?;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::NOT_MODIFIED, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_or_deleted_is_returned_on_request() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("main");
    put(&config, "k", "old").await?;
    let query = WriteQuery { previous: true, held: None };
    let replace = Put { query: query.clone(), ..Put::new("k", "new") };
    let WriteOutcome::Done(stored) = config.put(replace).await? else { panic!("not stored") };
    assert_eq!(stored.previous.map(|entry| entry.value), Some(Value::of(b"old")));
    let delete = Delete { query, ..Delete::new("k") };
    let WriteOutcome::Done(deleted) = config.delete(delete).await? else { panic!("not deleted") };
    assert_eq!(deleted.previous.map(|entry| entry.value), Some(Value::of(b"new")));
    let again = config.delete(Delete::new("k")).await?;
    assert!(matches!(again, WriteOutcome::Done(deleted) if !deleted.deleted));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_comes_in_pages_and_a_prefix_can_be_deleted() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("main");
    for key in ["p/a", "p/b", "p/c", "pq"] {
        put(&config, key, "v").await?;
    }
    let mut query = ListQuery { prefix: "p".into(), limit: Some(2), ..ListQuery::default() };
    let mut keys = Vec::new();
    loop {
        let page: EntriesPage = config.list(&query).await?;
        assert!(page.entries.len() <= 2);
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        query.page = page.next;
        if query.page.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["p/a", "p/b", "p/c"]);
    let bare = config.list(&ListQuery { keys_only: true, ..ListQuery::default() }).await?;
    assert!(bare.entries.iter().all(|entry| entry.value == Value::omitted()));

    let query = DeletePrefixQuery { prefix: "p".into(), held: None };
    let outcome = config.delete_prefix(&query).await?;
    assert!(matches!(outcome, WriteOutcome::Done(done) if done.deleted == 3));
    assert!(config.get("pq").await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_happens_as_a_whole_or_not_at_all() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("main");
    put(&config, "from", "10").await?;
    let condition = |expect| Condition { key: "from".into(), expect };
    let ops = vec![
        TxnOp::Get { key: "from".into() },
        TxnOp::Put { key: "to".into(), value: Value::of(b"10"), content_type: None },
        TxnOp::Delete { key: "gone".into() },
    ];
    let mut txn = Txn { conditions: vec![condition(Expect::Absent)], held: Vec::new(), ops };
    let TxnOutcome::Stale(mismatches) = config.txn(&txn).await? else { panic!("it happened") };
    assert_eq!(mismatches[0].index, 0);
    assert!(config.get("to").await?.is_none());

    txn.conditions = vec![condition(Expect::Exists)];
    let TxnOutcome::Committed(committed) = config.txn(&txn).await? else { panic!("refused") };
    assert!(matches!(&committed.results[0], TxnResult::Get { entry: Some(_) }));
    assert!(matches!(&committed.results[1], TxnResult::Put { .. }));
    assert_eq!(committed.results[2], TxnResult::Delete { deleted: false });
    assert!(config.get("to").await?.is_some());
    Ok(())
}

async fn next(watch: &mut Watch<ConfigEvent>) -> Result<Delivery<ConfigEvent>> {
    Ok(within("an event", watch.next()).await?.context("the watch ended")??)
}

async fn event(watch: &mut Watch<ConfigEvent>) -> Result<ConfigEvent> {
    match next(watch).await? {
        Delivery::Event(event) => Ok(event),
        Delivery::Disconnected(reason) => bail!("disconnected: {reason}"),
    }
}

fn is_put(event: &ConfigEvent, key: &str, value: &str) -> bool {
    let ConfigEvent::Put(put) = event else { return false };
    put.entry.key == key && put.entry.value == Value::of(value.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_what_is_there_and_goes_on_with_what_changes() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("main");
    put(&config, "w/a", "1").await?;
    let mut watch = config.watch_prefix("w").await?;
    assert_eq!(event(&mut watch).await?, ConfigEvent::SnapshotBegin);
    assert!(is_put(&event(&mut watch).await?, "w/a", "1"));
    assert_eq!(event(&mut watch).await?, ConfigEvent::SnapshotEnd);
    put(&config, "other", "x").await?;
    put(&config, "w/a", "2").await?;
    config.delete(Delete::new("w/a")).await?;
    assert!(is_put(&event(&mut watch).await?, "w/a", "2"));
    let ConfigEvent::Removed(removed) = event(&mut watch).await? else { panic!("not removed") };
    assert_eq!(removed.key, "w/a");
    assert_eq!(removed.previous.map(|entry| entry.value), Some(Value::of(b"2")));
    Ok(())
}

const WATCH: &str = "/v1/backends/main/config/watch?prefix=w";

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_after_the_last_event_that_was_seen() -> Result<()> {
    let served = Served::new().await?;
    let config = served.client().config("main");
    // Keeps the upstream watch, and with it the events to resume from.
    let mut keeper = config.watch_prefix("w").await?;
    while event(&mut keeper).await? != ConfigEvent::SnapshotEnd {}
    put(&config, "w/a", "first").await?;
    while !is_put(&event(&mut keeper).await?, "w/a", "first") {}
    let text = served.events(WATCH, None, "snapshot-end").await?;
    let id = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).context("an id")?;
    put(&config, "w/b", "second").await?;
    put(&config, "w/c", "third").await?;
    let resumed = served.events(WATCH, Some(id), "third").await?;
    assert!(!resumed.contains("snapshot-begin") && !resumed.contains("first"), "{resumed}");
    assert!(resumed.contains("second"), "{resumed}");

    // What is not kept any more begins anew, and says so.
    for unknown in ["0.1", "nonsense"] {
        let anew = served.events(WATCH, Some(unknown), "third").await?;
        assert!(anew.contains("snapshot-begin") || anew.contains("resync"), "{anew}");
        assert!(anew.contains("first") && anew.contains("second"), "{anew}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_back_to_a_server_that_was_restarted() -> Result<()> {
    let served = Served::new().await?;
    let listening = served.listen(0).await?;
    let port = listening.address.port();
    let config = listening.client()?.config("main");
    put(&config, "w/a", "1").await?;
    let mut watch = config.watch_prefix("w").await?;
    while event(&mut watch).await? != ConfigEvent::SnapshotEnd {}
    listening.stop().await?;
    let Delivery::Disconnected(reason) = next(&mut watch).await? else { panic!("an event") };
    assert!(reason.contains("stopping"), "{reason}");

    let again = served.restarted();
    put(&again.client().config("main"), "w/a", "2").await?;
    let _listening = again.listen(port).await?;
    // Whether it resumes or begins with a snapshot: the value arrives.
    while !is_put(&event(&mut watch).await?, "w/a", "2") {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_begins_after_it_and_a_lost_connection_repeats_nothing() -> Result<()>
{
    let served = Served::local().await?;
    let listening = served.listen(0).await?;
    let port = listening.address.port();
    let config = listening.client()?.config("main");
    let first = put(&config, "w/a", "1").await?;
    put(&config, "w/a", "2").await?;
    let op = |key: &str| TxnOp::Put { key: key.into(), value: Value::of(b"3"), content_type: None };
    let txn = Txn { ops: vec![op("w/a"), op("w/b"), op("w/c")], ..Txn::default() };
    config.txn(&txn).await?;
    let prefix = Some("w".into());
    let query = WatchQuery { prefix, from_version: Some(first), ..WatchQuery::default() };
    let mut watch = config.watch(&query).await?;
    for (key, value) in [("w/a", "2"), ("w/a", "3"), ("w/b", "3")] {
        assert!(is_put(&event(&mut watch).await?, key, value));
    }
    listening.stop().await?;
    // What came before the end and was not asked for yet may still be delivered.
    let mut rest = Vec::new();
    while let Delivery::Event(event) = next(&mut watch).await? {
        rest.push(event);
    }
    let again = served.restarted();
    put(&again.client().config("main"), "w/d", "4").await?;
    let _listening = again.listen(port).await?;
    while rest.len() < 2 {
        rest.push(event(&mut watch).await?);
    }
    assert!(is_put(&rest[0], "w/c", "3") && is_put(&rest[1], "w/d", "4"), "{rest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_is_refused_where_the_backend_cannot() -> Result<()> {
    let served = Served::new().await?;
    let problem = served.get(FROM_FIRST).await?.problem()?;
    assert_eq!(problem.code(), "unsupported");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_a_watch_from_a_version_that_cannot_be_read_is_refused() -> Result<()> {
    let served = Served::local().await?;
    for id in ["a.7", "0@", "é"] {
        let mut watch = request(Method::GET, FROM_FIRST, "")?;
        let header = HeaderValue::from_bytes(id.as_bytes())?;
        watch.headers_mut().insert("last-event-id", header);
        let problem = served.send(watch).await?.problem()?;
        assert_eq!((problem.status, problem.code()), (400, "invalid"), "{id}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_a_snapshot_half_way_gets_another() -> Result<()> {
    let served = Served::local().await?;
    put(&served.client().config("main"), "w/a", "1").await?;
    let text = served.events(FROM_FIRST, Some("snapshot"), "snapshot-end").await?;
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["resync", "snapshot-begin", "put", "snapshot-end"], "{text}");
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 4, "{text}");
    assert!(ids[..3].iter().all(|id| *id == "snapshot") && ids[3].starts_with("0@"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_does_not_read_holds_back_nobody() -> Result<()> {
    let served = Served::new().await?;
    let listening = served.listen(0).await?;
    let config = listening.client()?.config("main");
    let mut lazy = config.watch_prefix("w").await?;
    let mut eager = config.watch_prefix("w").await?;
    // More than the host keeps for late readers and the buffers in between hold.
    let (puts, value) = (1_600, "x".repeat(16 << 10));
    let writing = async {
        for count in 0..puts {
            put(&config, "w/a", &format!("{count} {value}")).await?;
        }
        anyhow::Ok(())
    };
    let last = format!("{} {value}", puts - 1);
    let reading = async {
        while !is_put(&event(&mut eager).await?, "w/a", &last) {}
        anyhow::Ok(())
    };
    futures::try_join!(writing, reading)?;
    let (mut seen, mut resyncs) = (0, 0);
    loop {
        match event(&mut lazy).await? {
            ConfigEvent::Resync(_) => resyncs += 1,
            event if is_put(&event, "w/a", &last) => break,
            _ => seen += 1,
        }
    }
    assert!(seen < puts && resyncs > 0, "the lazy reader saw {seen}, and {resyncs} resyncs");
    Ok(())
}
