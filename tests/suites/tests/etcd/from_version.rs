//! Watches from a version on: every change once, whatever happens in between.

use anyhow::{Context, Result, bail};
use etcd_client::{Client, Txn, TxnOp};
use futures::StreamExt;
use pintle::config::{Changes, Put, Version, WatchEvent};
use pintle_test_proxy::{Cut, Direction, Fault, Proxy};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{follow::text, within};

use crate::{
    config::put,
    stage::{Node, Stage},
    watch::prefix,
};

/// More than the memory of a sandbox: the plugin ends when it is given this.
const TOO_LARGE_BYTES: usize = 128 << 20;

async fn next(changes: &mut Changes) -> Result<WatchEvent> {
    Ok(within("a change", changes.next()).await?.context("the watch ended")??)
}

async fn next_put(changes: &mut Changes) -> Result<String> {
    match next(changes).await? {
        WatchEvent::Put { entry, .. } => Ok(format!("{}={}", entry.key, text(&entry.value))),
        other => bail!("{other:?}"),
    }
}

/// A watch of `v` from the version of `v/a`, which is `0`, through a proxy.
struct Watched {
    stage: Stage,
    proxy: Proxy,
    node: Node,
    changes: Changes,
    client: Client,
}

impl Watched {
    async fn through_a_proxy() -> Result<Self> {
        let stage = Stage::new().await?;
        let proxy = stage.proxy().await?;
        let node = stage.node_through("a", &proxy).await?;
        let version = put(&node.config, "v/a", "0").await?;
        let changes = node.config.watch_from(prefix("v"), version).await?;
        let client = stage.client().await?;
        Ok(Self { stage, proxy, node, changes, client })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_comes_once_over_lost_connections_and_ends_of_the_plugin() -> Result<()> {
    let Watched { stage, proxy, node, mut changes, mut client } =
        Watched::through_a_proxy().await?;
    let (mut expected, mut seen) = (Vec::new(), Vec::new());
    for round in 0..6 {
        for count in 0..10 {
            // Two changes at one revision, so that an end can fall between them.
            let value = format!("{round}.{count}");
            let puts = ["v/a", "v/b"].map(|key| TxnOp::put(stage.key(key), value.as_str(), None));
            client.txn(Txn::new().and_then(puts)).await?;
            expected.extend(["v/a", "v/b"].map(|key| format!("{key}={value}")));
        }
        if round % 2 == 0 {
            proxy.cut_all(Cut::Reset).await?;
        } else {
            let too_large = Put::new("x", vec![0; TOO_LARGE_BYTES]);
            let error = node.config.put(too_large).await.unwrap_err();
            assert_eq!(error.code(), "plugin-ended", "{error}");
        }
        while seen.len() + 5 < expected.len() {
            seen.push(next_put(&mut changes).await?);
        }
    }
    while seen.len() < expected.len() {
        seen.push(next_put(&mut changes).await?);
    }
    assert_eq!(seen, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_becomes_a_resync_and_a_snapshot() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let old = put(&node.config, "v/a", "1").await?;
    put(&node.config, "v/a", "2").await?;
    let mut client = stage.client().await?;
    let last = client.put(stage.key("v/b"), "1", None).await?;
    client.compact(last.header().context("a header")?.revision(), None).await?;
    let mut changes = node.config.watch_from(prefix("v"), old).await?;
    assert!(matches!(next(&mut changes).await?, WatchEvent::Resync(_)));
    assert_eq!(next(&mut changes).await?, WatchEvent::SnapshotBegin);
    assert_eq!(next_put(&mut changes).await?, "v/a=2");
    assert_eq!(next_put(&mut changes).await?, "v/b=1");
    assert_eq!(next(&mut changes).await?, WatchEvent::SnapshotEnd);
    put(&node.config, "v/b", "2").await?;
    assert_eq!(next_put(&mut changes).await?, "v/b=2");
    Ok(())
}

/// A put, with what was there before.
fn with_previous(event: &WatchEvent) -> Result<(String, Option<String>)> {
    let WatchEvent::Put { entry, previous } = event else { bail!("{event:?}") };
    Ok((text(&entry.value), previous.as_ref().map(|before| text(&before.value))))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_tells_what_was_before_also_over_a_lost_connection() -> Result<()> {
    let Watched { stage, proxy, node: _node, mut changes, mut client } =
        Watched::through_a_proxy().await?;
    for number in 1..=6 {
        if number % 2 == 0 {
            proxy.refuse().await?;
            proxy.cut_all(Cut::Reset).await?;
        }
        client.put(stage.key("v/a"), number.to_string(), None).await?;
        proxy.heal().await?;
        let event = next(&mut changes).await?;
        let before = (number - 1).to_string();
        assert_eq!(with_previous(&event)?, (number.to_string(), Some(before)));
    }
    client.put(stage.key("v/new"), "1", None).await?;
    assert_eq!(with_previous(&next(&mut changes).await?)?, ("1".into(), None));
    client.delete(stage.key("v/new"), None).await?;
    let WatchEvent::Removed { previous, .. } = next(&mut changes).await? else {
        bail!("no removal")
    };
    assert_eq!(text(&previous.context("what was before")?.value), "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_value_that_was_compacted_on_its_way_is_a_gap_and_not_nothing() -> Result<()> {
    // More than connection and windows hold: the server still has most of it when it compacts.
    const CHANGES: usize = 120;
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let proxy = stage.proxy().await?;
    let settings = stage.settings("a").endpoints([proxy.addr().to_string()]);
    // A connection that is silent for a while is no reason to leave it.
    let node = stage.start(settings.plugin("ping_after_ms = 600000")).await?;
    let value = |number: usize| format!("{}{number}", " ".repeat(256 << 10));
    let version = put(&node.config, "v/a", &value(0)).await?;
    let mut changes = node.config.watch_from(prefix("v"), version).await?;
    let mut client = stage.client().await?;
    client.put(stage.key("v/a"), value(1), None).await?;
    assert_eq!(with_previous(&next(&mut changes).await?)?, (value(1), Some(value(0))));

    proxy.set(Fault::BlackholeTowards(Direction::ToClient));
    let mut revision = 0;
    for number in 2..=CHANGES {
        let done = client.put(stage.key("v/a"), value(number), None).await?;
        revision = done.header().context("a header")?.revision();
    }
    client.compact(revision, None).await?;
    proxy.heal().await?;
    let mut resyncs = 0;
    let mut last = 1;
    while last < CHANGES {
        match next(&mut changes).await? {
            WatchEvent::Resync(_) => resyncs += 1,
            event @ WatchEvent::Put { .. } if resyncs == 0 => {
                last += 1;
                assert_eq!(with_previous(&event)?, (value(last), Some(value(last - 1))));
            }
            // The snapshot, which has no previous values.
            WatchEvent::Put { entry, .. } => last = text(&entry.value).trim().parse()?,
            _ => {}
        }
    }
    assert_eq!(resyncs, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_no_version_ends_the_watch_with_the_reason() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let opened = node.config.watch_from(prefix("v"), Version::from("yesterday")).await;
    let error = match opened {
        Ok(mut changes) => {
            let end = within("the end", changes.next()).await?.context("a reason")?;
            end.unwrap_err()
        }
        Err(error) => error,
    };
    assert_eq!(error.code(), "invalid", "{error}");
    assert!(error.to_string().contains("yesterday"), "{error}");
    Ok(())
}
