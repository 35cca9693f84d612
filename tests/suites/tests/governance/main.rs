//! Governing a cluster, in one scenario that runs unchanged on every backend: nodes register, one
//! dies, one is taken out by an operator, an event reaches all, and an operation that must be
//! exclusive runs once.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not there fails the test, and says where"
)]

mod nodes;
mod scenario;

use anyhow::Result;
use pintle_test_services::{Etcd, EtcdOptions, ZooKeeper, ZooKeeperOptions};
use pintle_test_suites::Sandbox;

use nodes::Nodes;

/// Three nodes that share one host: the embedded backend cannot be shared by several.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_governed_on_local() -> Result<()> {
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data = sandbox.path().join("backend");
    let settings = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {data:?}\n");
    let host = sandbox.start(&settings).await?;
    let nodes = Nodes::start(&[host.clone(), host.clone(), host]).await?;
    scenario::run(nodes).await
}

/// Three nodes, each with a host of its own, that meet on a server.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_governed_on_etcd() -> Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    on_server("etcd", &etcd.endpoint()).await
}

/// The same on another server.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_governed_on_zookeeper() -> Result<()> {
    let zookeeper = ZooKeeper::start(ZooKeeperOptions::default()).await?;
    on_server("zookeeper", &zookeeper.endpoint()).await
}

async fn on_server(plugin: &str, endpoint: &str) -> Result<()> {
    let sandbox = Sandbox::new(&[&format!("plugins/{plugin}")])?;
    let mut hosts = Vec::new();
    for name in ["one", "two", "three"] {
        let settings = format!(
            "node = \"{name}\"\n[backends.main]\nplugin = \"{plugin}\"\n\
             endpoints = [\"{endpoint}\"]\nsettings = {{ root = \"/governed/\" }}\n"
        );
        hosts.push(sandbox.start(&settings).await?);
    }
    scenario::run(Nodes::start(&hosts).await?).await
}
