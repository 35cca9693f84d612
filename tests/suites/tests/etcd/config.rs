//! Configuration: keys, versions, races, transactions, limits.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use etcd_client::{DeleteOptions, PutOptions};
use futures::future::try_join_all;
use pintle::{
    Effect,
    config::{
        Config, Consistency, Delete, DeleteOutcome, Entry, Expect, ListRequest, Page, Put,
        PutOutcome, ReadOptions, Txn, TxnOp, TxnOutcome, TxnResult, Version,
    },
};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{eventually, within};

use crate::stage::Stage;

pub(crate) async fn put(config: &Config, key: &str, value: &str) -> Result<Version> {
    stored(config.put(Put::new(key, value.to_owned())).await?)
}

fn stored(outcome: PutOutcome) -> Result<Version> {
    match outcome {
        PutOutcome::Stored { version, .. } => Ok(version),
        other => bail!("not stored: {other:?}"),
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|entry| &*entry.key).collect()
}

async fn list(config: &Config, prefix: &str) -> Result<Page> {
    Ok(config.list(ListRequest { prefix: prefix.into(), ..ListRequest::default() }).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn expectations_hold_or_tell_what_is_there() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let exists = config.put(Put::new("k", "0").expect(Expect::Exists)).await?;
    assert_eq!(exists, PutOutcome::Stale(None));
    let first = stored(config.put(Put::new("k", "1").expect(Expect::Absent)).await?)?;
    let PutOutcome::Stale(Some(there)) =
        config.put(Put::new("k", "2").expect(Expect::Absent)).await?
    else {
        bail!("two came first")
    };
    assert_eq!((&there.value[..], &there.version), (&b"1"[..], &first));

    let replacing = Put::new("k", "2").expect(Expect::Version(first.clone())).previous();
    let PutOutcome::Stored { version: second, previous } = config.put(replacing).await? else {
        bail!("not stored")
    };
    assert_eq!(previous.context("the entry before")?.version, first);
    assert_ne!(second, first);
    let late = config.put(Put::new("k", "3").expect(Expect::Version(first.clone()))).await?;
    assert!(matches!(late, PutOutcome::Stale(Some(entry)) if entry.version == second));
    stored(config.put(Put::new("k", "4").expect(Expect::Exists)).await?)?;

    let stale = Delete { expect: Expect::Version(second), ..Delete::new("k") };
    assert!(matches!(config.delete(stale).await?, DeleteOutcome::Stale(Some(_))));
    let deleted = config.delete(Delete { previous: true, ..Delete::new("k") }).await?;
    assert!(matches!(deleted, DeleteOutcome::Deleted(Some(entry)) if &entry.value[..] == b"4"));
    assert_eq!(config.delete(Delete::new("k")).await?, DeleteOutcome::Absent);
    let of_none = config.put(Put::new("k", "5").expect(Expect::Version(first))).await?;
    assert_eq!(of_none, PutOutcome::Stale(None));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_who_compare_and_set_lose_no_step() -> Result<()> {
    const WRITERS: usize = 16;
    const STEPS: u32 = 10;
    let stage = Stage::new().await?;
    let nodes = [stage.node("a").await?, stage.node("b").await?];
    put(&nodes[0].config, "n", "0").await?;
    let steps = (0..WRITERS).map(|writer| {
        let config = nodes[writer % nodes.len()].config.clone();
        tokio::spawn(async move { climb(&config, STEPS).await })
    });
    let mut versions = BTreeSet::new();
    for steps in steps.collect::<Vec<_>>() {
        for version in within("a writer", steps).await??? {
            assert!(versions.insert(version.to_string()), "{version} came twice");
        }
    }
    let last = nodes[1].config.get("n").await?.context("n")?;
    assert_eq!(last.value, (WRITERS as u32 * STEPS).to_string());
    Ok(())
}

/// Adds one to `n` as often as it is told, and tries again whenever another was faster.
async fn climb(config: &Config, steps: u32) -> Result<Vec<Version>> {
    let mut versions = Vec::new();
    let mut there = config.get("n").await?.context("n")?;
    while versions.len() < steps as usize {
        let next = std::str::from_utf8(&there.value)?.parse::<u32>()? + 1;
        let step = Put::new("n", next.to_string()).expect(Expect::Version(there.version.clone()));
        match config.put(step).await? {
            PutOutcome::Stored { version, .. } => {
                there = Entry { value: next.to_string().into(), version, ..there };
                versions.push(there.version.clone());
            }
            PutOutcome::Stale(now) => there = now.context("n")?,
            PutOutcome::Fenced => bail!("fenced without a lease"),
        }
    }
    Ok(versions)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_ends_at_a_separator() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    for key in ["a/b", "a/b/c", "a/b/d/e", "a/bc", "a/b.c", "ab", "a/b0/c"] {
        client.put(stage.key(key), key, None).await?;
    }
    assert_eq!(keys(&list(config, "a/b").await?), ["a/b/c", "a/b/d/e"]);
    assert_eq!(keys(&list(config, "").await?).len(), 7);
    assert_eq!(config.delete_prefix("a/b", None).await?, 2);
    let left = list(config, "").await?;
    assert_eq!(keys(&left), ["a/b", "a/b.c", "a/b0/c", "a/bc", "ab"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_beside_the_root_is_neither_seen_nor_touched() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    let beside = format!("{}beside/x", stage.root.trim_end_matches('/'));
    client.put(beside.as_str(), "1", None).await?;
    put(config, "x", "1").await?;
    assert_eq!(keys(&list(config, "").await?), ["x"]);
    assert_eq!(config.delete_prefix("", None).await?, 1);
    assert_eq!(client.get(beside.as_str(), None).await?.count(), 1);
    client.delete(beside, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_key_that_stayed_while_others_write() -> Result<()> {
    const STAYING: usize = 400;
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    for number in 0..STAYING {
        client.put(stage.key(&format!("p/{number:04}/stays")), "1", None).await?;
    }
    let (mut other, root) = (client.clone(), stage.root.clone());
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut turn = 0_usize;
        while stopped.try_recv().is_err() {
            let key = format!("{root}p/{:04}/goes", turn % STAYING);
            other.put(key.as_str(), "1", None).await?;
            other.delete(format!("{root}p/{:04}/goes", (turn + 7) % STAYING), None).await?;
            turn += 1;
        }
        anyhow::Ok(turn)
    });
    let mut found: Vec<String> = Vec::new();
    let mut request = ListRequest { prefix: "p".into(), limit: 37, ..ListRequest::default() };
    loop {
        let page = config.list(request.clone()).await?;
        assert!(page.entries.len() <= 37);
        found.extend(page.entries.iter().map(|entry| entry.key.to_string()));
        match page.next {
            Some(next) => request.page = Some(next),
            None => break,
        }
    }
    stop.send(()).ok();
    assert!(within("the writer", writing).await??? > 0);
    assert!(found.is_sorted_by(|one, next| one < next), "not in order, or twice");
    assert_eq!(found.iter().filter(|key| key.ends_with("/stays")).count(), STAYING);
    let bare = ListRequest { prefix: "p".into(), keys_only: true, ..ListRequest::default() };
    assert!(config.list(bare).await?.entries.iter().all(|entry| entry.value.is_empty()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_happens_whole_and_at_one_revision_or_not_at_all() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let version = put(config, "t/a", "1").await?;
    let write = |key: &str| TxnOp::Put { key: key.into(), value: "2".into(), content_type: None };
    let txn = Txn {
        conditions: vec![
            ("t/a".into(), Expect::Version(version.clone())),
            ("t/none".into(), Expect::Absent),
        ],
        held: Vec::new(),
        ops: vec![
            write("t/a"),
            write("t/b"),
            TxnOp::Get("t/c".into()),
            TxnOp::Delete("t/none".into()),
        ],
    };
    let TxnOutcome::Committed(results) = config.txn(txn.clone()).await? else { bail!("stale") };
    assert!(matches!(&results[0], TxnResult::Stored(stored) if *stored != version));
    assert_eq!(results[2..], [TxnResult::Got(None), TxnResult::Deleted(false)]);
    let revisions: BTreeSet<i64> =
        stage.keys_below("t/").await?.iter().map(|pair| pair.mod_revision()).collect();
    assert_eq!(revisions.len(), 1, "one transaction, several revisions");

    let TxnOutcome::Stale(mismatches) = config.txn(txn).await? else { bail!("committed twice") };
    assert_eq!(mismatches.len(), 1, "{mismatches:?}");
    let (index, there) = &mismatches[0];
    assert_eq!((*index, &there.as_ref().context("t/a")?.value[..]), (0, &b"2"[..]));
    let unchanged: BTreeSet<i64> =
        stage.keys_below("t/").await?.iter().map(|pair| pair.mod_revision()).collect();
    assert_eq!(unchanged, revisions);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_in_a_transaction_see_the_state_before_it() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    put(config, "g/read", "before").await?;
    let ops = vec![
        TxnOp::Put { key: "g/other".into(), value: "x".into(), content_type: None },
        TxnOp::Get("g/read".into()),
        TxnOp::Delete("g/other2".into()),
    ];
    let TxnOutcome::Committed(results) = config.txn(Txn { ops, ..Txn::default() }).await? else {
        bail!("stale without a condition")
    };
    assert!(
        matches!(&results[1], TxnResult::Got(Some(entry)) if &entry.value[..] == b"before"),
        "{results:?}"
    );
    let many = (0..128).map(|number| TxnOp::Put {
        key: format!("g/many/{number}"),
        value: "x".into(),
        content_type: None,
    });
    let full = Txn { ops: many.collect(), ..Txn::default() };
    assert!(matches!(config.txn(full).await?, TxnOutcome::Committed(all) if all.len() == 128));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_deleted_at_one_revision() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    for number in 0..20 {
        client.put(stage.key(&format!("d/{number}")), "1", None).await?;
    }
    let before = client.get(stage.key("d"), None).await?.header().context("header")?.revision();
    assert_eq!(config.delete_prefix("d", None).await?, 20);
    assert_eq!(config.delete_prefix("d", None).await?, 0);
    let after = client.get(stage.key("d"), None).await?.header().context("header")?.revision();
    if config.has_feature("config.delete-prefix-atomic") {
        // Other tests write to the same server meanwhile: all removals share one revision.
        let options =
            etcd_client::WatchOptions::new().with_prefix().with_start_revision(before + 1);
        let mut events = client.watch(stage.key("d/"), Some(options)).await?;
        let mut revisions = BTreeSet::new();
        let mut count = 0;
        while count < 20 {
            let message = within("events", events.message()).await??.context("the end")?;
            for event in message.events() {
                revisions.insert(event.kv().context("a key")?.mod_revision());
                count += 1;
            }
        }
        assert_eq!(revisions.len(), 1, "{before}..{after}: {revisions:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_holds_any_bytes_and_may_be_empty() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let all: Vec<u8> = (0..=255).collect();
    let large = vec![0xa5; 1 << 20];
    for (key, value) in [("v/all", all), ("v/empty", Vec::new()), ("v/large", large)] {
        config.put(Put::new(key, value.clone())).await?;
        assert_eq!(config.get(key).await?.context(key)?.value, value, "{key}");
        let stored = stage.client().await?.get(stage.key(key), None).await?;
        assert_eq!(stored.kvs()[0].value(), value, "{key}");
    }
    let listed = list(config, "v").await?;
    assert_eq!(listed.entries.len() + usize::from(listed.next.is_some()), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_named_and_harms_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let error = config.put(Put::new("big", vec![1; 2 << 20])).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("too-large", Effect::None), "{error}");
    let ops = (0..20).map(|number| TxnOp::Put {
        key: format!("big/{number}"),
        value: vec![1; 100 << 10].into(),
        content_type: None,
    });
    let error = config.txn(Txn { ops: ops.collect(), ..Txn::default() }).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("too-large", Effect::None), "{error}");
    assert!(stage.keys_below("big").await?.is_empty());
    put(config, "big", "small").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_refuses_writes_by_name_and_is_still_read() -> Result<()> {
    let arguments = vec!["--quota-backend-bytes".to_owned(), (4 << 20).to_string()];
    let stage = Stage::alone(EtcdOptions { arguments, ..EtcdOptions::default() }).await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    put(config, "small", "1").await?;
    let full = eventually("the end of the space", async || {
        Ok(config.put(Put::new("large", vec![b'x'; 512 << 10])).await.err())
    });
    let full = full.await?;
    assert_eq!((full.code(), full.effect()), ("exhausted", Effect::None), "{full}");
    assert_eq!(config.get("small").await?.context("small")?.value, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_values_are_listed_in_pages_that_fit() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    for number in 0..24 {
        client.put(stage.key(&format!("l/{number:02}")), vec![b'x'; 1 << 20], None).await?;
    }
    let mut request = ListRequest { prefix: "l".into(), ..ListRequest::default() };
    let mut count = 0;
    loop {
        let page = within("a page", config.list(request.clone())).await??;
        assert!(page.entries.iter().all(|entry| entry.value.len() == 1 << 20));
        count += page.entries.len();
        match page.next {
            Some(next) => request.page = Some(next),
            None => break,
        }
    }
    assert_eq!(count, 24);
    stage.wipe().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_read_at_the_same_time_are_each_their_own_whatever_their_size() -> Result<()>
{
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    // Together the large ones are more than one answer of the server may have.
    let size = |number: usize| if number < 40 { number } else { 600_000 };
    for number in 0..68 {
        node.config.put(Put::new(format!("k/{number}"), vec![b'x'; size(number)])).await?;
    }
    for consistency in [Consistency::Linearizable, Consistency::Sequential] {
        let options = ReadOptions { consistency: Some(consistency), ..ReadOptions::default() };
        let reads = (0..70).map(async |number| {
            let read = node.config.get_with(&format!("k/{number}"), options.clone()).await?;
            let expected = (number < 68).then(|| size(number));
            assert_eq!(read.map(|entry| entry.value.len()), expected, "k/{number}");
            anyhow::Ok(())
        });
        try_join_all(reads).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_key_can_name_is_counted_and_odd_names_are_escaped() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    for odd in [&b"u//x"[..], b"u/end/", b"u/\xff\xfe", b"/u/begin"] {
        client.put([stage.root.as_bytes(), odd].concat(), "odd", None).await?;
    }
    client.put(stage.key("u/line\nbreak"), "1", None).await?;
    client.put(stage.key("u/50%"), "2", None).await?;
    client.put(stage.key("u/../x"), "3", None).await?;
    let page = list(config, "u").await?;
    assert_eq!(keys(&page), ["u/%2E%2E/x", "u/50%25", "u/line%0Abreak"]);
    assert_eq!(page.skipped, 3, "of those below u");
    assert_eq!(config.get("u/50%25").await?.context("u/50%25")?.value, "2");
    put(config, "u/line%0Abreak", "changed").await?;
    let changed = client.get(stage.key("u/line\nbreak"), None).await?;
    assert_eq!(changed.kvs()[0].value(), b"changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_consistency_is_honoured() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let with = |consistency| ReadOptions { consistency: Some(consistency), ..Default::default() };
    for number in 0..50 {
        let version = put(config, "c", &number.to_string()).await?;
        for consistency in [Consistency::Linearizable, Consistency::Sequential] {
            let entry = config.get_with("c", with(consistency)).await?.context("c")?;
            assert_eq!(entry.version, version, "{consistency:?}");
        }
    }
    assert!(config.get_with("c", with(Consistency::Any)).await?.is_some());
    let keys: Vec<String> = ["none", "c", "c", "none/too"].map(str::to_owned).into();
    let many = config.get_many(&keys, ReadOptions::default()).await?;
    assert_eq!(many.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true, false]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_hangs_on_anothers_lease_is_only_a_value() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    let lease = client.lease_grant(60, None).await?.id();
    client.put(stage.key("e"), "1", Some(PutOptions::new().with_lease(lease))).await?;
    assert_eq!(config.get("e").await?.context("e")?.value, "1");
    client.lease_revoke(lease).await?;
    assert!(config.get("e").await?.is_none());
    client.delete(stage.root.as_str(), Some(DeleteOptions::new().with_prefix())).await?;
    Ok(())
}
