//! Watches from a version on: every change once, whatever happens in between.

use anyhow::{Context, Result, bail};
use etcd_client::{Txn, TxnOp};
use futures::StreamExt;
use pintle::config::{Changes, Put, Version, WatchEvent};
use pintle_test_proxy::Cut;
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{follow::text, within};

use crate::{config::put, stage::Stage, watch::prefix};

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

#[tokio::test(flavor = "multi_thread")]
async fn each_change_comes_once_over_lost_connections_and_ends_of_the_plugin() -> Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy().await?;
    let node = stage.node_through("a", &proxy).await?;
    let version = put(&node.config, "v/a", "0").await?;
    let mut changes = node.config.watch_from(prefix("v"), version).await?;
    let mut client = stage.client().await?;
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
