//! Configuration in nodes.

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use pintle::config::{
    Delete, DeleteOutcome, Expect, ListRequest, Put, PutOutcome, Txn, TxnOp, TxnOutcome, TxnResult,
};
use pintle::{Effect, config::Config};
use zookeeper_client::Error as OtherError;

use crate::support::{Host, create, other_client, shared, version};

async fn text(config: &Config, key: &str) -> Result<Option<String>> {
    let entry = config.get(key).await?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

async fn keys(config: &Config, prefix: &str, limit: u32) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut page = None;
    loop {
        let request = ListRequest { prefix: prefix.into(), page, limit, ..Default::default() };
        let listed = config.list(request).await?;
        keys.extend(listed.entries.iter().map(|entry| entry.key.to_string()));
        page = listed.next;
        if page.is_none() {
            return Ok(keys);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_a_node_and_its_parents_are_directories() -> Result<()> {
    let (host, other) = (Host::at("/value").await?, other_client().await?);
    let config = host.config()?;
    assert!(config.get("app/db/url").await?.is_none());
    let first = version(config.put(Put::new("app/db/url", "one")).await?)?;
    let (data, stat) = other.get_data("/value/app/db/url").await?;
    assert_eq!((data.as_slice(), stat.version), (&b"one"[..], 0));
    let second = version(config.put(Put::new("app/db/url", "two")).await?)?;
    assert_ne!(first, second);
    let entry = config.get("app/db/url").await?.context("nothing there")?;
    assert_eq!((&entry.value[..], &entry.version), (&b"two"[..], &second));
    assert!(entry.modified.is_some());
    assert_eq!(config.get("app/db").await?, None, "a directory is no key");
    assert_eq!(keys(&config, "", 0).await?, ["app/db/url"]);
    assert!(matches!(config.delete(Delete::new("app/db/url")).await?, DeleteOutcome::Deleted(_)));
    let before = other.check_stat("/value/app/db").await?.context("the directory")?;
    assert_eq!(config.delete(Delete::new("app/db/url")).await?, DeleteOutcome::Absent);
    let after = other.check_stat("/value/app/db").await?.context("the directory")?;
    assert_eq!(before.pzxid, after.pzxid, "what is not there is deleted without a trace");
    assert!(matches!(other.get_data("/value/app/db/url").await, Err(OtherError::NoNode)));
    assert!(other.check_stat("/value/app/db").await?.is_some(), "directories stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_in_a_directory_that_is_there_takes_one_request() -> Result<()> {
    let host = Host::at("/new").await?;
    let config = host.config()?;
    version(config.put(Put::new("app/a", "1")).await?)?;
    // To look takes requests of its own.
    let looks = [host.counter("operations").await?, host.counter("operations").await?];
    version(config.put(Put::new("app/b", "1").expect(Expect::Absent)).await?)?;
    let after = host.counter("operations").await?;
    assert_eq!(after - looks[1], looks[1] - looks[0] + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_servers_own_tool_wrote_is_read_and_changed() -> Result<()> {
    let server = shared().await?;
    server.ctl(&["create", "/tool"]).await?;
    server.ctl(&["create", "/tool/a", "one"]).await?;
    let host = Host::at("/tool").await?;
    let config = host.config()?;
    assert_eq!(text(&config, "a").await?.as_deref(), Some("one"));
    let before = config.get("a").await?.context("nothing there")?.version;
    let put = Put::new("a", "two").expect(Expect::Version(before));
    version(config.put(put).await?)?;
    assert!(server.ctl(&["get", "/tool/a"]).await?.ends_with("two"));
    server.ctl(&["deleteall", "/tool"]).await?;
    assert_eq!(text(&config, "a").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_data_is_a_directory_and_with_empty_data_a_value() -> Result<()> {
    let server = shared().await?;
    server.ctl(&["create", "/null"]).await?;
    server.ctl(&["create", "/null/directory"]).await?;
    create(&other_client().await?, "/null/empty", b"").await?;
    let host = Host::at("/null").await?;
    let config = host.config()?;
    assert_eq!(text(&config, "directory").await?, None);
    assert_eq!(text(&config, "empty").await?.as_deref(), Some(""));
    let put = Put::new("directory", "").expect(Expect::Absent);
    version(config.put(put).await?)?;
    assert_eq!(text(&config, "directory").await?.as_deref(), Some(""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_that_holds_others_becomes_a_directory() -> Result<()> {
    let host = Host::at("/parent").await?;
    let config = host.config()?;
    let first = version(config.put(Put::new("a", "1")).await?)?;
    config.put(Put::new("a/b", "2")).await?;
    assert!(matches!(config.delete(Delete::new("a")).await?, DeleteOutcome::Deleted(_)));
    assert_eq!(text(&config, "a").await?, None);
    assert_eq!(text(&config, "a/b").await?.as_deref(), Some("2"));
    let again = version(config.put(Put::new("a", "1")).await?)?;
    assert_ne!(first, again);
    let stale = config.put(Put::new("a", "x").expect(Expect::Version(first))).await?;
    assert!(matches!(stale, PutOutcome::Stale(Some(_))), "{stale:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_created_again_never_matches_an_old_version() -> Result<()> {
    let (host, other) = (Host::at("/again").await?, other_client().await?);
    let config = host.config()?;
    let first = version(config.put(Put::new("k", "1")).await?)?;
    other.delete("/again/k", None).await?;
    create(&other, "/again/k", b"2").await?;
    let stale = config.put(Put::new("k", "3").expect(Expect::Version(first.clone()))).await?;
    let PutOutcome::Stale(Some(current)) = stale else { bail!("{stale:?}") };
    assert_eq!(&current.value[..], b"2");
    let delete = Delete { expect: Expect::Version(first), ..Delete::new("k") };
    assert!(matches!(config.delete(delete).await?, DeleteOutcome::Stale(Some(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_writers_exactly_one_wins() -> Result<()> {
    let (one, other) = (Host::at("/race").await?, Host::at("/race").await?);
    let configs = [one.config()?, other.config()?];
    let mut expect = Expect::Absent;
    for round in 0..8 {
        let puts = (0..16).map(|writer| {
            let put = Put::new("deep/er/k", format!("{round}.{writer}")).expect(expect.clone());
            configs[writer % 2].put(put)
        });
        let mut stored = Vec::new();
        for outcome in join_all(puts).await {
            match outcome? {
                PutOutcome::Stored { version, .. } => stored.push(version),
                PutOutcome::Stale(current) => assert!(current.is_some()),
                PutOutcome::Fenced => bail!("fenced"),
            }
        }
        let [version] = &stored[..] else { bail!("{} of 16 were stored", stored.len()) };
        expect = Expect::Version(version.clone());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_comes_back_with_a_write() -> Result<()> {
    let host = Host::at("/previous").await?;
    let config = host.config()?;
    config.put(Put::new("k", "1")).await?;
    let PutOutcome::Stored { previous, .. } = config.put(Put::new("k", "2").previous()).await?
    else {
        bail!("not stored")
    };
    assert_eq!(&previous.context("nothing before")?.value[..], b"1");
    let delete = Delete { previous: true, ..Delete::new("k") };
    let DeleteOutcome::Deleted(Some(deleted)) = config.delete(delete).await? else {
        bail!("not deleted")
    };
    assert_eq!(&deleted.value[..], b"2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_happens_as_a_whole_or_not_at_all() -> Result<()> {
    let host = Host::at("/txn").await?;
    let config = host.config()?;
    config.put(Put::new("a", "1")).await?;
    let put = |key: &str, value: &'static str| TxnOp::Put {
        key: key.into(),
        value: value.into(),
        content_type: None,
    };
    let ops = || {
        vec![
            TxnOp::Get("a".into()),
            put("a", "2"),
            put("b/c/d", "3"),
            TxnOp::Delete("nothing/here".into()),
        ]
    };
    // No key twice: the read of `a` goes into a transaction of its own.
    let conditions = vec![("a".to_owned(), Expect::Exists), ("b".to_owned(), Expect::Absent)];
    let txn = Txn { conditions: conditions.clone(), ops: ops().split_off(1), ..Txn::default() };
    let TxnOutcome::Committed(results) = config.txn(txn).await? else { bail!("not committed") };
    assert!(matches!(&results[0], TxnResult::Stored(_)), "{results:?}");
    let stored = config.get("b/c/d").await?.context("nothing there")?.version;
    assert_eq!(results[1], TxnResult::Stored(stored));
    assert_eq!(results[2], TxnResult::Deleted(false));

    let read =
        Txn { ops: vec![TxnOp::Get("a".into()), TxnOp::Get("x/y".into())], ..Txn::default() };
    let TxnOutcome::Committed(results) = config.txn(read).await? else { bail!("not committed") };
    assert!(matches!(&results[0], TxnResult::Got(Some(entry)) if &entry.value[..] == b"2"));
    assert_eq!(results[1], TxnResult::Got(None));

    let conditions = vec![("a".to_owned(), Expect::Absent), ("b".to_owned(), Expect::Absent)];
    let txn = Txn { conditions, ops: vec![put("a", "lost"), put("z", "lost")], ..Txn::default() };
    let TxnOutcome::Stale(mismatches) = config.txn(txn).await? else { bail!("committed") };
    assert_eq!(mismatches.len(), 1);
    assert_eq!(mismatches[0].0, 0);
    assert_eq!(text(&config, "z").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_move_a_value_back_and_forth_never_lose_or_double_it() -> Result<()> {
    let (one, other) = (Host::at("/move").await?, Host::at("/move").await?);
    let configs = [one.config()?, other.config()?];
    configs[0].put(Put::new("left/v", "x")).await?;
    let moves = (0..24).map(|n| {
        let (from, to) = if n % 2 == 0 { ("left/v", "right/v") } else { ("right/v", "left/v") };
        let txn = Txn {
            conditions: vec![(from.into(), Expect::Exists), (to.into(), Expect::Absent)],
            ops: vec![
                TxnOp::Delete(from.into()),
                TxnOp::Put { key: to.into(), value: "x".into(), content_type: None },
            ],
            ..Txn::default()
        };
        configs[n % 2].txn(txn)
    });
    for outcome in join_all(moves).await {
        match outcome {
            Ok(TxnOutcome::Committed(_) | TxnOutcome::Stale(_)) => {}
            Err(error) if error.code() == "exhausted" => assert_eq!(error.effect(), Effect::None),
            other => bail!("{other:?}"),
        }
        let there = keys(&configs[0], "", 0).await?;
        assert_eq!(there.len(), 1, "{there:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_come_in_the_order_of_the_keys_whatever_the_tree() -> Result<()> {
    let host = Host::at("/pages").await?;
    let config = host.config()?;
    let mut expected: Vec<String> = [
        "p/a", "p/a-b", "p/a-b/c", "p/a/b", "p/a/b/c", "p/a/b-c", "p/b", "p/ä", "p/%2E", "p/50%25",
    ]
    .map(str::to_owned)
    .into();
    expected.extend((0..300).map(|n| format!("p/many/{n:03}")));
    join_all(expected.iter().map(|key| config.put(Put::new(key, "v")))).await;
    config.put(Put::new("pp/not-below", "v")).await?;
    expected.sort();
    for limit in [1, 7, 0] {
        assert_eq!(keys(&config, "p", limit).await?, expected, "{limit} a page");
    }
    assert_eq!(config.delete_prefix("p/a", None).await?, 3);
    assert_eq!(config.delete_prefix("p", None).await?, u64::try_from(expected.len() - 3)?);
    assert_eq!(keys(&config, "", 0).await?, ["pp/not-below"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_has_its_key_and_every_key_its_name() -> Result<()> {
    let (host, other) = (Host::at("/names").await?, other_client().await?);
    let config = host.config()?;
    for (node, key) in [
        ("dubbo%3A%2F%2F10.0.0.1", "dubbo%253A%252F%252F10.0.0.1"),
        ("100%", "100%25"),
        ("with space", "with space"),
        ("ü☃", "ü☃"),
    ] {
        create(&other, &format!("/names/{node}"), node.as_bytes()).await?;
        assert_eq!(text(&config, key).await?.as_deref(), Some(node));
    }
    let own = ["🙂", "%F0%9F", "a%00b", "%2E%2E", "a%0Ab", "%25F0%259F%2599%2582"];
    for key in own.into_iter().filter(|key| *key != "%F0%9F") {
        version(config.put(Put::new(key, key)).await?)?;
        assert_eq!(text(&config, key).await?.as_deref(), Some(key));
    }
    assert_eq!(keys(&config, "", 0).await?.len(), 9);
    let refused = config.put(Put::new(".pintle/v1/x", "")).await.unwrap_err();
    assert_eq!(refused.code(), "invalid", "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_server_would_hang_up_on_is_refused_by_the_limits_name() -> Result<()> {
    let host = Host::at("/large").await?;
    let config = host.config()?;
    let large = vec![7; 1_000_000];
    version(config.put(Put::new("k", large.clone())).await?)?;
    assert_eq!(config.get("k").await?.context("nothing there")?.value, large);
    let error = config.put(Put::new("k", vec![7; 1_048_576])).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("too-large", Effect::None));
    assert!(error.to_string().contains("jute.maxbuffer"), "{error}");
    assert_eq!(host.counter("reconnects").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_keys_are_read_together() -> Result<()> {
    let host = Host::at("/together").await?;
    let config = host.config()?;
    config.put(Put::new("a", "1")).await?;
    let wanted = ["a", "missing", "a/below"].map(str::to_owned);
    let entries = config.get_many(&wanted, Default::default()).await?;
    let found: Vec<_> = entries.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, false]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_said() -> Result<()> {
    let host = Host::at("/history").await?;
    let request = pintle::config::HistoryRequest { key: "k".into(), ..Default::default() };
    let error = host.config()?.history(request).await.unwrap_err();
    assert_eq!(error.code(), "unsupported");
    Ok(())
}
