//! ZooKeeper's servers, and a client of others.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::future::{join_all, try_join_all};
use pintle_test_history::Entry;
use pintle_test_proxy::{Framing, Message, Rule};
use pintle_test_services::{ZooKeeper, ZooKeeperEnsemble, ZooKeeperOptions};
use pintle_test_suites::{
    chaos::backend::{Backend, Control, Kind},
    peers::ZooKeeperPeers,
    within,
};
use tokio::sync::Mutex;
use zookeeper_client::{Acls, Client, CreateMode, Error, Stat};

const ROOT: &str = "/chaos/";
/// What the other client's own session takes.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Nodes that are looked at together.
const TOGETHER: usize = 500;

/// The backend.
pub(crate) struct OnZooKeeper;

impl Backend for OnZooKeeper {
    const NAME: &'static str = "zookeeper";
    const SETTINGS: &'static str = "root = \"/chaos\", session_timeout_ms = 4000";
    const EVERY_CHANGE: bool = false;
    // Servers that stop are missed for seconds each time.
    const PACE: usize = 500;

    type Server = ZooKeeper;
    type Cluster = (ZooKeeperEnsemble, ZooKeeperPeers);
    type Control = Native;

    fn framing() -> Framing {
        Framing::LengthPrefixed
    }

    /// What fails on the way, because a directory is missing, changes nothing: it is not that.
    fn reply_of(kind: Kind, name: &str) -> Rule {
        let needle = match kind {
            Kind::Register => format!("/registry/instances/lost/{name}"),
            Kind::Acquire => format!("/locks/{name}/_c_"),
            Kind::Put => format!("{ROOT}lost/{name}"),
        };
        let needle = needle.into_bytes();
        Rule::reply_to(move |message| message.contains(&needle)).and(is_done)
    }

    async fn start() -> Result<ZooKeeper> {
        // All come from one address, and leases last as long as the load says.
        let settings = ["maxClientCnxns=0", "maxSessionTimeout=3600000"].map(str::to_owned).into();
        Ok(ZooKeeper::start(ZooKeeperOptions { settings, ..ZooKeeperOptions::default() }).await?)
    }

    fn address(server: &ZooKeeper) -> SocketAddr {
        server.address()
    }

    fn kill(server: &mut ZooKeeper) -> Result<()> {
        Ok(server.kill()?)
    }

    async fn restart(server: &mut ZooKeeper) -> Result<()> {
        Ok(server.restart().await?)
    }

    fn pause(server: &mut ZooKeeper) -> Result<()> {
        Ok(server.pause()?)
    }

    fn resume(server: &mut ZooKeeper) -> Result<()> {
        Ok(server.resume()?)
    }

    async fn start_cluster() -> Result<Self::Cluster> {
        ZooKeeperPeers::start(ZooKeeperOptions::default()).await
    }

    fn members((ensemble, _): &mut Self::Cluster) -> &mut [ZooKeeper] {
        ensemble.members()
    }

    async fn leader((ensemble, _): &mut Self::Cluster) -> Result<SocketAddr> {
        Ok(ensemble.leader().await?.address())
    }

    /// The last member, which follows once another was chosen in its absence.
    async fn cut_off((ensemble, peers): &mut Self::Cluster) -> Result<()> {
        let leader = ensemble.leader().await?.address();
        let is_leader = |last: &&mut ZooKeeper| last.address() == leader;
        if let Some(last) = ensemble.members().last_mut().filter(is_leader) {
            last.kill()?;
            ensemble.leader().await?;
            ensemble.members().last_mut().context("the last member")?.restart().await?;
        }
        peers.cut_off_last();
        Ok(())
    }

    async fn heal((_, peers): &mut Self::Cluster) -> Result<()> {
        peers.heal().await
    }
}

/// Whether a reply says that its request was done: behind the number of the request and that of the
/// transaction stands the error, which is none.
fn is_done(reply: &Message<'_>) -> bool {
    reply.payload().get(12..16) == Some(&[0; 4])
}

/// A client that is not ours, with another session once its own has ended.
#[derive(Clone)]
pub(crate) struct Native {
    cluster: Arc<str>,
    current: Arc<Mutex<Client>>,
}

impl Native {
    async fn client(&self) -> Result<Client> {
        let mut current = self.current.lock().await;
        if current.state().is_terminated() {
            *current = connect(&self.cluster).await?;
        }
        Ok(current.clone())
    }
}

async fn connect(cluster: &str) -> Result<Client> {
    let connector = Client::connector().with_session_timeout(SESSION_TIMEOUT);
    Ok(within("a native client", connector.connect(cluster)).await??)
}

impl Control for Native {
    async fn connect(endpoints: &[String]) -> Result<Self> {
        let cluster = endpoints.join(",");
        let client = connect(&cluster).await?;
        Ok(Self { cluster: cluster.into(), current: Arc::new(Mutex::new(client)) })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let (client, path) = (self.client().await?, path(key));
        client.sync(&path).await?;
        match client.get_data(&path).await {
            Ok((data, stat)) => Ok(Some(Entry {
                value: String::from_utf8_lossy(&data).into_owned(),
                version: Some(version_of(&stat)),
            })),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, key: &str, value: &str) -> Result<Option<String>> {
        let (client, path) = (self.client().await?, path(key));
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        loop {
            match client.set_data(&path, value.as_bytes(), None).await {
                Ok(stat) => return Ok(Some(version_of(&stat))),
                Err(Error::NoNode) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some((above, _)) = path.rsplit_once('/') {
                client.mkdir(above, &options).await?;
            }
            match client.create(&path, value.as_bytes(), &options).await {
                Ok((stat, _)) => return Ok(Some(version_of(&stat))),
                Err(Error::NodeExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        Ok(self.client().await?.delete(&path(key), None).await?)
    }

    async fn writes(&self, key: &str) -> Result<u64> {
        let stat = self.client().await?.check_stat(&path(key)).await?;
        Ok(u64::try_from(stat.context("what was put")?.version)? + 1)
    }

    /// Ephemeral nodes, wherever they are.
    async fn leased(&self) -> Result<Vec<String>> {
        let client = self.client().await?;
        let root = ROOT.trim_end_matches('/').to_owned();
        let (mut level, mut leased) = (vec![root], Vec::new());
        while !level.is_empty() {
            let mut next = Vec::new();
            for paths in level.chunks(TOGETHER) {
                let stats = try_join_all(paths.iter().map(|path| client.check_stat(path))).await?;
                let found = paths.iter().zip(stats);
                let found: Vec<_> = found.filter_map(|(path, stat)| Some((path, stat?))).collect();
                let ephemeral = |stat: &Stat| stat.ephemeral_owner != 0;
                let of_leases = found.iter().filter(|(_, stat)| ephemeral(stat));
                leased.extend(of_leases.map(|(path, _)| (*path).clone()));
                let parents: Vec<_> =
                    found.iter().filter(|(_, stat)| stat.num_children > 0).collect();
                let names = parents.iter().map(|(path, _)| client.list_children(path));
                for ((path, _), names) in parents.iter().zip(join_all(names).await) {
                    match names {
                        Ok(names) => {
                            next.extend(names.iter().map(|name| format!("{path}/{name}")));
                        }
                        Err(Error::NoNode) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            level = next;
        }
        Ok(leased)
    }

    async fn is_there(&self, name: &str) -> Result<bool> {
        Ok(self.client().await?.check_stat(name).await?.is_some())
    }

    /// There are no earlier versions.
    async fn compact(&self) -> Result<bool> {
        Ok(false)
    }
}

fn path(key: &str) -> String {
    format!("{ROOT}{key}")
}

fn version_of(stat: &Stat) -> String {
    format!("{:x}-{}", stat.czxid, stat.version)
}
