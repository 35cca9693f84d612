//! The native clients, behind one face.

use std::{future::Future, time::Duration};

use anyhow::{Context, Result, anyhow};
use pintle_test_suites::measured::EVENT_LIMIT;
use tokio::sync::oneshot;
use zookeeper_async::{Acl, WatchedEvent, ZkError, ZooKeeper};
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, PersistentWatcher};

/// A client of others, with one session.
pub(crate) trait Peer: Sized {
    /// What its rows are called behind their number.
    const ID: &'static str;
    /// The crate.
    const NAME: &'static str;

    /// What watches a node.
    type Watch;

    fn connect(endpoint: &str) -> impl Future<Output = Result<Self>>;

    fn get(&self, path: &str) -> impl Future<Output = Result<()>>;

    fn set(&self, path: &str, value: &str) -> impl Future<Output = Result<()>>;

    fn create(&self, path: &str, value: &str) -> impl Future<Output = Result<()>>;

    fn watch(&self, path: &str) -> impl Future<Output = Result<Self::Watch>>;

    /// Waits until the node has changed to this value. Watches only notify: their reader asks for it.
    fn sees(
        &self,
        watch: &mut Self::Watch,
        path: &str,
        value: &str,
    ) -> impl Future<Output = Result<()>>;
}

impl Peer for Client {
    const ID: &'static str = "zookeeper";
    const NAME: &'static str = "zookeeper-client";

    type Watch = PersistentWatcher;

    async fn connect(endpoint: &str) -> Result<Self> {
        Ok(Client::connect(endpoint).await?)
    }

    async fn get(&self, path: &str) -> Result<()> {
        Ok(self.get_data(path).await.map(drop)?)
    }

    async fn set(&self, path: &str, value: &str) -> Result<()> {
        Ok(self.set_data(path, value.as_bytes(), None).await.map(drop)?)
    }

    async fn create(&self, path: &str, value: &str) -> Result<()> {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        Ok(Client::create(self, path, value.as_bytes(), &options).await.map(drop)?)
    }

    async fn watch(&self, path: &str) -> Result<PersistentWatcher> {
        Ok(Client::watch(self, path, AddWatchMode::Persistent).await?)
    }

    async fn sees(&self, watch: &mut PersistentWatcher, path: &str, value: &str) -> Result<()> {
        loop {
            let changed = tokio::time::timeout(EVENT_LIMIT, watch.changed()).await;
            changed.context("no event came")?;
            let (data, _) = self.get_data(path).await?;
            if data == value.as_bytes() {
                return Ok(());
            }
        }
    }
}

/// What the session of the other client takes.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);

impl Peer for ZooKeeper {
    const ID: &'static str = "zookeeper-async";
    const NAME: &'static str = "zookeeper-async";

    /// Told of the next change; each read sets it anew.
    type Watch = oneshot::Receiver<()>;

    async fn connect(endpoint: &str) -> Result<Self> {
        let ignore = |_: WatchedEvent| {};
        ZooKeeper::connect(endpoint, SESSION_TIMEOUT, ignore).await.map_err(told)
    }

    async fn get(&self, path: &str) -> Result<()> {
        self.get_data(path, false).await.map(drop).map_err(told)
    }

    async fn set(&self, path: &str, value: &str) -> Result<()> {
        self.set_data(path, value.as_bytes().to_vec(), None).await.map(drop).map_err(told)
    }

    async fn create(&self, path: &str, value: &str) -> Result<()> {
        let mode = zookeeper_async::CreateMode::Persistent;
        let (data, acl) = (value.as_bytes().to_vec(), Acl::open_unsafe().clone());
        ZooKeeper::create(self, path, data, acl, mode).await.map(drop).map_err(told)
    }

    async fn watch(&self, path: &str) -> Result<oneshot::Receiver<()>> {
        Ok(read_and_watch(self, path).await?.1)
    }

    async fn sees(&self, watch: &mut oneshot::Receiver<()>, path: &str, value: &str) -> Result<()> {
        loop {
            let changed = tokio::time::timeout(EVENT_LIMIT, &mut *watch).await;
            changed.context("no event came")?.context("the watch was dropped")?;
            let (data, next) = read_and_watch(self, path).await?;
            *watch = next;
            if data == value.as_bytes() {
                return Ok(());
            }
        }
    }
}

async fn read_and_watch(
    client: &ZooKeeper,
    path: &str,
) -> Result<(Vec<u8>, oneshot::Receiver<()>)> {
    let (tell, told_of) = oneshot::channel();
    let tell = move |_: WatchedEvent| {
        // Nobody listens any more when the measurement is over.
        let _ = tell.send(());
    };
    let (data, _) = client.get_data_w(path, tell).await.map_err(told)?;
    Ok((data, told_of))
}

fn told(error: ZkError) -> anyhow::Error {
    anyhow!("zookeeper-async: {error}")
}
