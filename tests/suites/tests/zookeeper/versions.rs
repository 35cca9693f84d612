//! Older servers, in a smaller set: what of the protocol has changed since.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use pintle::config::{Delete, Put, Target, Txn, TxnOp, TxnOutcome, TxnResult};
use pintle::lock::LockRequest;
use pintle::registry::{Instance, RegisterOutcome};
use pintle_test_services::{ZooKeeper, ZooKeeperOptions, ZooKeeperVersion};

use crate::support::{Host, next, take, version};

async fn serves(line: ZooKeeperVersion) -> Result<()> {
    let options = ZooKeeperOptions { version: line, ..ZooKeeperOptions::default() };
    let mut server = ZooKeeper::start(options).await?;
    let host = Host::start(&[server.endpoint()], "root = \"/old\"").await?;
    let config = host.config()?;
    let created = version(config.put(Put::new("a/b", "1")).await?)?;
    assert_eq!(config.get("a/b").await?.context("nothing there")?.version, created);
    let put = TxnOp::Put { key: "c/d".into(), value: "2".into(), content_type: None };
    let txn = Txn { ops: vec![put, TxnOp::Get("a/b".into())], ..Txn::default() };
    let TxnOutcome::Committed(results) = config.txn(txn).await? else { bail!("not committed") };
    let stored = config.get("c/d").await?.context("nothing there")?.version;
    assert_eq!(results[0], TxnResult::Stored(stored));

    // One that cannot read several at once hangs up, and is asked for one at a time.
    for _ in 0..2 {
        let reads = (0..64).map(|_| config.get("a/b"));
        for read in try_join_all(reads).await? {
            assert_eq!(read.context("nothing there")?.version, created);
        }
    }

    let mut tree = config.watch(Target::Prefix(String::new())).await?;
    let mut key = config.watch(Target::Key("new".into())).await?;
    assert_eq!(take(&mut tree, 4).await?, ["begin", "a/b=1", "c/d=2", "end"]);
    assert_eq!(take(&mut key, 2).await?, ["begin", "end"]);
    config.put(Put::new("a/b", "3")).await?;
    assert_eq!(next(&mut tree).await?, "a/b=3");
    config.put(Put::new("new", "1")).await?;
    assert_eq!((next(&mut tree).await?, next(&mut key).await?), ("new=1".into(), "new=1".into()));
    config.delete(Delete::new("c/d")).await?;
    assert_eq!(next(&mut tree).await?, "-c/d");
    server.restart().await?;
    assert_eq!(next(&mut tree).await?, "resync");

    let ttl = Duration::from_secs(8);
    let lease = host.acquire(LockRequest::new("job").ttl(ttl)).await?;
    version(config.put(Put::new("guarded", "1").held(lease.reference())).await?)?;
    assert!(lease.release().await?);
    let registry = host.pintle.registry("main")?;
    let outcome = registry.register(Instance::new("web", "1", "127.0.0.1", 80), ttl).await?;
    let RegisterOutcome::Registered(registration) = outcome else { bail!("taken") };
    assert_eq!(registry.instances("web", None, 0, None).await?.instances.len(), 1);
    registration.deregister().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_lasting_watches_is_served_too() -> Result<()> {
    serves(ZooKeeperVersion::V3_5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_debian_is_served() -> Result<()> {
    serves(ZooKeeperVersion::V3_8).await
}
