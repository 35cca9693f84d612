//! One server for all tests that do not break it, a root for each, and the other client.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pintle::{
    BackendState, Pintle,
    config::{Config, PutOutcome, Version, Watch, WatchEvent},
    lock::{AcquireOutcome, Lease, LockRequest},
};
use pintle_test_proxy::{Framing, Proxy, Rule};
use pintle_test_services::{ZooKeeper, ZooKeeperOptions};
use pintle_test_suites::{DEADLINE, Sandbox, within};
use tokio::sync::OnceCell;
use zookeeper_client::{Acls, Client, CreateMode};

static SHARED: OnceCell<ZooKeeper> = OnceCell::const_new();

/// The server of tests that leave it as it is. It keeps sessions as long as tests ask, where a default
/// one would cut them to 20 of its ticks.
pub(crate) async fn shared() -> Result<&'static ZooKeeper> {
    let settings = vec!["maxSessionTimeout=60000".to_owned()];
    let options = ZooKeeperOptions { settings, ..ZooKeeperOptions::default() };
    SHARED.get_or_try_init(|| async { Ok(ZooKeeper::start(options).await?) }).await
}

/// A host with one ZooKeeper backend, `main`.
pub(crate) struct Host {
    pub(crate) pintle: Pintle,
    _sandbox: Sandbox,
}

impl Host {
    /// A host whose backend has these endpoints and lines of settings.
    pub(crate) async fn start(endpoints: &[String], settings: &str) -> Result<Self> {
        Self::with(&format!(
            "[backends.main]\nplugin = \"zookeeper\"\nendpoints = {endpoints:?}\n\
             [backends.main.settings]\n{settings}\n"
        ))
        .await
    }

    /// A host with settings of the test's own.
    pub(crate) async fn with(text: &str) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/zookeeper"])?;
        let pintle = sandbox.start(text).await?;
        Ok(Self { pintle, _sandbox: sandbox })
    }

    /// A host on the shared server below `root`.
    pub(crate) async fn at(root: &str) -> Result<Self> {
        Self::start(&[shared().await?.endpoint()], &format!("root = \"{root}\"")).await
    }

    /// The same through a proxy.
    pub(crate) async fn proxied(root: &str) -> Result<(Self, Proxy)> {
        let proxy = proxy(shared().await?).await?;
        let host = Self::start(&[proxy.addr().to_string()], &format!("root = \"{root}\"")).await?;
        Ok((host, proxy))
    }

    pub(crate) fn config(&self) -> Result<Config> {
        Ok(self.pintle.config("main")?)
    }

    /// Takes a lock that has to be free.
    pub(crate) async fn acquire(&self, request: LockRequest) -> Result<Lease> {
        match self.pintle.lock("main")?.acquire(request).await? {
            AcquireOutcome::Held(lease) => Ok(lease),
            AcquireOutcome::Busy(holders) => bail!("held by {holders:?}"),
        }
    }

    /// A counter of the plugin.
    pub(crate) async fn counter(&self, name: &str) -> Result<u64> {
        let check = self.pintle.check_backend("main").await?;
        let health = check.health.context("no health")?;
        let counter = health.counters.iter().find(|(counter, _)| counter == name);
        Ok(counter.with_context(|| format!("no counter {name}"))?.1)
    }

    /// Waits until the plugin serves after it was started again.
    pub(crate) async fn serving_again(&self, restarts: u64) -> Result<()> {
        eventually("the backend to serve again", async || {
            let status = self.pintle.backend("main")?;
            Ok(status.restarts >= restarts && status.state == BackendState::Serving)
        })
        .await
    }
}

/// A proxy in front of a server that knows ZooKeeper's frames.
pub(crate) async fn proxy(server: &ZooKeeper) -> Result<Proxy> {
    Ok(Proxy::builder(server.address()).framing(Framing::LengthPrefixed).start().await?)
}

/// The reply to a request with these bytes that was done. One that is refused on the way, because a
/// directory is missing, says so behind its number and that of the transaction.
pub(crate) fn reply_to_done(needle: &'static [u8]) -> Rule {
    Rule::reply_to(move |message| message.contains(needle))
        .and(|reply| reply.payload().get(12..16) == Some(&[0; 4]))
}

/// The client that is not ours, on the shared server.
pub(crate) async fn other_client() -> Result<Client> {
    other_client_of(&shared().await?.endpoint()).await
}

/// The client that is not ours.
pub(crate) async fn other_client_of(endpoint: &str) -> Result<Client> {
    within("the other client", Client::connect(endpoint)).await?.context("the other client")
}

/// Creates a node and what is missing above it, as others do: with empty data above.
pub(crate) async fn create(client: &Client, path: &str, data: &[u8]) -> Result<()> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
        match client.create(&path[..end], b"", &options).await {
            Ok(_) | Err(zookeeper_client::Error::NodeExists) => {}
            Err(error) => return Err(error).context(path[..end].to_owned()),
        }
    }
    client.create(path, data, &options).await.context(path.to_owned())?;
    Ok(())
}

/// Waits until `holds` answers true.
pub(crate) async fn eventually(
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let waited = async {
        while !holds().await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, waited).await.with_context(|| format!("waiting for {what}"))?
}

pub(crate) fn version(outcome: PutOutcome) -> Result<Version> {
    match outcome {
        PutOutcome::Stored { version, .. } => Ok(version),
        other => bail!("not stored: {other:?}"),
    }
}

/// The next event of a watch in short: `begin`, `a=1`, `-a`, `end`, `resync`.
pub(crate) async fn next(watch: &mut Watch) -> Result<String> {
    use futures::StreamExt as _;
    let event = within("an event", watch.next()).await?.context("the watch has ended")??;
    Ok(match event {
        WatchEvent::SnapshotBegin => "begin".to_owned(),
        WatchEvent::Put { entry, .. } => {
            format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
        }
        WatchEvent::Removed { key, .. } => format!("-{key}"),
        WatchEvent::SnapshotEnd => "end".to_owned(),
        WatchEvent::Resync(_) => "resync".to_owned(),
    })
}

/// The next so many events.
pub(crate) async fn take(watch: &mut Watch, count: usize) -> Result<Vec<String>> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(next(watch).await?);
    }
    Ok(events)
}
