//! etcd's servers, and its native client.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use etcd_client::{Client, GetOptions};
use pintle_test_history::Entry;
use pintle_test_proxy::{Framing, Rule};
use pintle_test_services::{Etcd, EtcdCluster, EtcdOptions};
use pintle_test_suites::{
    chaos::backend::{Backend, Control, Kind},
    peers::EtcdPeers,
    within,
};

const ROOT: &str = "/chaos/";

/// The backend.
pub(crate) struct OnEtcd;

impl Backend for OnEtcd {
    const NAME: &'static str = "etcd";
    const SETTINGS: &'static str =
        "root = \"/chaos/\", ping_after_ms = 1000, ping_timeout_ms = 500";
    const EVERY_CHANGE: bool = true;
    const PACE: usize = 200;

    type Server = Etcd;
    type Cluster = (EtcdCluster, EtcdPeers);
    type Control = Native;

    fn framing() -> Framing {
        Framing::Http2
    }

    fn reply_of(_: Kind, name: &str) -> Rule {
        let needle = name.as_bytes().to_owned();
        Rule::reply_to(move |message| message.contains(&needle))
    }

    async fn start() -> Result<Etcd> {
        let arguments = vec!["--grpc-keepalive-min-time".to_owned(), "500ms".to_owned()];
        Ok(Etcd::start(EtcdOptions { arguments, ..EtcdOptions::default() }).await?)
    }

    fn address(server: &Etcd) -> SocketAddr {
        server.address()
    }

    fn kill(server: &mut Etcd) -> Result<()> {
        Ok(server.kill()?)
    }

    async fn restart(server: &mut Etcd) -> Result<()> {
        Ok(server.restart().await?)
    }

    fn pause(server: &mut Etcd) -> Result<()> {
        Ok(server.pause()?)
    }

    fn resume(server: &mut Etcd) -> Result<()> {
        Ok(server.resume()?)
    }

    async fn start_cluster() -> Result<Self::Cluster> {
        EtcdPeers::start(EtcdOptions::default()).await
    }

    fn members((cluster, _): &mut Self::Cluster) -> &mut [Etcd] {
        cluster.members()
    }

    async fn leader((cluster, _): &mut Self::Cluster) -> Result<SocketAddr> {
        Ok(cluster.leader().await?.address())
    }

    async fn cut_off((cluster, peers): &mut Self::Cluster) -> Result<()> {
        let leader = cluster.leader().await?.address();
        let follower = cluster.members().iter().position(|member| member.address() != leader);
        peers.cut_off(cluster, follower.context("there is no follower")?).await
    }

    async fn heal((_, peers): &mut Self::Cluster) -> Result<()> {
        peers.heal().await
    }
}

/// A client that is not ours.
#[derive(Clone)]
pub(crate) struct Native(Client);

impl Control for Native {
    async fn connect(endpoints: &[String]) -> Result<Self> {
        Ok(Self(within("a native client", Client::connect(endpoints, None)).await??))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let answer = self.0.kv_client().get(path(key), None).await?;
        Ok(answer.kvs().first().map(|pair| Entry {
            value: String::from_utf8_lossy(pair.value()).into_owned(),
            version: Some(pair.mod_revision().to_string()),
        }))
    }

    async fn put(&self, key: &str, value: &str) -> Result<Option<String>> {
        let answer = self.0.kv_client().put(path(key), value, None).await?;
        Ok(answer.header().map(|header| header.revision().to_string()))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.kv_client().delete(path(key), None).await?;
        Ok(())
    }

    async fn writes(&self, key: &str) -> Result<u64> {
        let stored = self.0.kv_client().get(path(key), None).await?;
        let version = stored.kvs().first().context("what was put")?.version();
        Ok(version.try_into()?)
    }

    async fn leased(&self) -> Result<Vec<String>> {
        let options = GetOptions::new().with_prefix();
        let found = self.0.kv_client().get(ROOT, Some(options)).await?.take_kvs();
        let leased = found.into_iter().filter(|pair| pair.lease() != 0);
        leased.map(|pair| Ok(pair.key_str()?.to_owned())).collect()
    }

    async fn is_there(&self, name: &str) -> Result<bool> {
        Ok(self.0.kv_client().get(name, None).await?.count() == 1)
    }

    async fn compact(&self) -> Result<bool> {
        let mut client = self.0.kv_client();
        let now = client.get(ROOT, None).await?.header().context("a header")?.revision();
        match client.compact(now, None).await {
            Ok(_) => Ok(true),
            Err(error) if error.to_string().contains("has been compacted") => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn path(key: &str) -> String {
    format!("{ROOT}{key}")
}
