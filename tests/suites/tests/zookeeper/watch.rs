//! Watches: complete, in bounds, and never silent over a gap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use futures::StreamExt as _;
use pintle::config::{Delete, Put, Target, WatchEvent};
use pintle_test_proxy::Cut;
use pintle_test_suites::within;

use crate::support::{Host, create, eventually, next, other_client, proxy, shared, take};

fn below(prefix: &str) -> Target {
    Target::Prefix(prefix.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_is_there_and_each_change_below_its_prefix() -> Result<()> {
    let host = Host::at("/watched").await?;
    let config = host.config()?;
    config.put(Put::new("w/a", "1")).await?;
    config.put(Put::new("w/deep/er/b", "1")).await?;
    config.put(Put::new("w", "not below")).await?;
    let mut watch = config.watch(below("w")).await?;
    let snapshot = take(&mut watch, 4).await?;
    assert_eq!(snapshot, ["begin", "w/a=1", "w/deep/er/b=1", "end"]);
    config.put(Put::new("wide", "not below")).await?;
    config.put(Put::new("w", "not below either")).await?;
    config.put(Put::new("w/a", "2")).await?;
    assert_eq!(next(&mut watch).await?, "w/a=2");
    config.put(Put::new("w/new/c", "1")).await?;
    assert_eq!(next(&mut watch).await?, "w/new/c=1");
    config.delete(Delete::new("w/deep/er/b")).await?;
    assert_eq!(next(&mut watch).await?, "-w/deep/er/b");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_servers_own_tool_writes_is_told() -> Result<()> {
    let server = shared().await?;
    let host = Host::at("/watched-tool").await?;
    let mut watch = host.config()?.watch(below("")).await?;
    assert_eq!(take(&mut watch, 2).await?, ["begin", "end"]);
    server.ctl(&["create", "/watched-tool"]).await?;
    server.ctl(&["create", "/watched-tool/a"]).await?;
    server.ctl(&["create", "/watched-tool/a/b", "1"]).await?;
    assert_eq!(next(&mut watch).await?, "a/b=1");
    server.ctl(&["set", "/watched-tool/a/b", "2"]).await?;
    assert_eq!(next(&mut watch).await?, "a/b=2");
    server.ctl(&["deleteall", "/watched-tool/a"]).await?;
    assert_eq!(next(&mut watch).await?, "-a/b");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_watched_from_before_it_exists_and_beside_its_tree() -> Result<()> {
    let host = Host::at("/watched-key").await?;
    let config = host.config()?;
    let mut key = config.watch(Target::Key("k".into())).await?;
    let mut tree = config.watch(below("k")).await?;
    assert_eq!(take(&mut key, 2).await?, ["begin", "end"]);
    assert_eq!(take(&mut tree, 2).await?, ["begin", "end"]);
    config.put(Put::new("k/below", "0")).await?;
    config.put(Put::new("k", "1")).await?;
    assert_eq!(next(&mut tree).await?, "k/below=0");
    assert_eq!(next(&mut key).await?, "k=1");
    config.delete(Delete::new("k")).await?;
    assert_eq!(next(&mut key).await?, "-k", "it holds others, and is no key any more");
    drop(key);
    config.put(Put::new("k/below", "1")).await?;
    assert_eq!(next(&mut tree).await?, "k/below=1", "the other watch is as it was");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_marked_also_where_what_happened_in_it_left_no_trace() -> Result<()> {
    let ((host, proxy), other) = (Host::proxied("/gap").await?, other_client().await?);
    create(&other, "/gap/kept", b"1").await?;
    create(&other, "/gap/going", b"1").await?;
    let mut watch = host.config()?.watch(below("")).await?;
    assert_eq!(take(&mut watch, 4).await?, ["begin", "going=1", "kept=1", "end"]);
    proxy.refuse().await?;
    proxy.cut_all(Cut::Reset).await?;
    create(&other, "/gap/brief", b"1").await?;
    other.delete("/gap/brief", None).await?;
    other.delete("/gap/going", None).await?;
    other.set_data("/gap/kept", b"2", None).await?;
    proxy.heal().await?;
    assert_eq!(next(&mut watch).await?, "resync");
    let mut told = take(&mut watch, 2).await?;
    told.sort();
    assert_eq!(told, ["-going", "kept=2"], "and then only what differs");
    other.set_data("/gap/kept", b"3", None).await?;
    assert_eq!(next(&mut watch).await?, "kept=3", "and it goes on");
    Ok(())
}

/// R3 in small: no final state is missed, however often the connection breaks.
#[tokio::test(flavor = "multi_thread")]
async fn no_final_state_is_missed_over_many_disconnections() -> Result<()> {
    const NODES: usize = 200;
    const DISCONNECTIONS: u32 = 40;
    let (proxy, other) = (proxy(shared().await?).await?, other_client().await?);
    // Its pauses between attempts follow from the session's time.
    let settings = "root = \"/r3\"\nsession_timeout_ms = 4000";
    let host = Host::start(&[proxy.addr().to_string()], settings).await?;
    let mut expected = BTreeMap::new();
    for node in 0..NODES {
        create(&other, &format!("/r3/{node:03}"), b"0").await?;
        expected.insert(format!("{node:03}"), "0".to_owned());
    }
    let config = host.config()?;
    let mut watch = config.watch(below("")).await?;
    let shown = Arc::new(Mutex::new(BTreeMap::new()));
    let showing = Arc::clone(&shown);
    let following = tokio::spawn(async move {
        while let Some(Ok(event)) = watch.next().await {
            let mut shown = showing.lock().unwrap();
            match event {
                WatchEvent::Put { entry, .. } => {
                    let value = String::from_utf8_lossy(&entry.value).into_owned();
                    shown.insert(entry.key.to_string(), value);
                }
                WatchEvent::Removed { key, .. } => drop(shown.remove(&*key)),
                WatchEvent::SnapshotBegin => shown.clear(),
                WatchEvent::SnapshotEnd | WatchEvent::Resync(_) => {}
            }
        }
    });
    for round in 1..=DISCONNECTIONS {
        // Cut while its session is taken up, it would be no connection that was lost.
        eventually("a connection", async || Ok(config.get("000").await.is_ok())).await?;
        let cut = async { anyhow::Ok(proxy.cut_all(Cut::Reset).await?) };
        let write = async {
            for step in 0..10 {
                let node = (usize::try_from(round)? * 37 + step * 11) % NODES;
                let (name, path) = (format!("{node:03}"), format!("/r3/{node:03}"));
                if expected.remove(&name).is_some() && step % 3 == 0 {
                    other.delete(&path, None).await?;
                    continue;
                }
                let value = format!("{round}.{step}");
                if other.check_stat(&path).await?.is_some() {
                    other.set_data(&path, value.as_bytes(), None).await?;
                } else {
                    create(&other, &path, value.as_bytes()).await?;
                }
                expected.insert(name, value);
            }
            anyhow::Ok(())
        };
        let (cut, written) = tokio::join!(cut, write);
        cut?;
        written?;
        if round % 10 == 0 {
            eventually("the mirror to show the final states", async || {
                Ok(*shown.lock().unwrap() == expected)
            })
            .await?;
        }
    }
    following.abort();
    eventually("all to be counted", async || {
        Ok(host.counter("reconnects").await? >= u64::from(DISCONNECTIONS))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_server() -> Result<()> {
    use pintle_test_services::{ZooKeeper, ZooKeeperOptions};
    let mut server = ZooKeeper::start(ZooKeeperOptions::default()).await?;
    let host = Host::start(&[server.endpoint()], "").await?;
    let config = host.config()?;
    config.put(Put::new("a", "1")).await?;
    let mut watch = config.watch(below("")).await?;
    assert_eq!(take(&mut watch, 3).await?, ["begin", "a=1", "end"]);
    server.restart().await?;
    let other = crate::support::other_client_of(&server.endpoint()).await?;
    other.set_data("/a", b"2", None).await?;
    let told = within("the change", async {
        loop {
            let event = next(&mut watch).await?;
            if event != "resync" {
                return anyhow::Ok(event);
            }
        }
    });
    assert_eq!(told.await??, "a=2");
    Ok(())
}
