//! Where a test plays: a server, a root of its own on it, and hosts with the plugin.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use etcd_client::{Client, DeleteOptions, GetOptions, KeyValue};
use pintle::{
    Config, Lock, Pintle, Registry,
    lock::{AcquireOutcome, Lease, LockRequest},
    registry::{Instance, RegisterOutcome, Registration},
};
use pintle_test_proxy::{Framing, Proxy};
use pintle_test_services::{Etcd, EtcdOptions};
use pintle_test_suites::{Sandbox, within};
use tokio::sync::Mutex;

/// A root on a server, and a folder for the hosts that use it.
pub(crate) struct Stage {
    pub(crate) etcd: Arc<Etcd>,
    /// The bytes before every key of this stage.
    pub(crate) root: String,
    sandbox: Sandbox,
}

/// A host with its backend `main`.
pub(crate) struct Node {
    pub(crate) pintle: Pintle,
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) lock: Lock,
}

/// What a host is told.
#[derive(Debug, Clone)]
pub(crate) struct NodeSettings {
    name: String,
    endpoints: Vec<String>,
    /// Lines of `[backends.main]`.
    backend: Vec<String>,
    /// Lines of `[backends.main.settings]`.
    plugin: Vec<String>,
}

impl Stage {
    /// A root of its own on the server that the tests share.
    pub(crate) async fn new() -> Result<Self> {
        Self::on(shared_server().await?)
    }

    /// A root of its own on a server of its own, which it may harm.
    pub(crate) async fn alone(options: EtcdOptions) -> Result<Self> {
        Self::on(Arc::new(Etcd::start(options).await?))
    }

    pub(crate) fn on(etcd: Arc<Etcd>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let root = format!("/t{}/", NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { etcd, root, sandbox: Sandbox::new(&["plugins/etcd"])? })
    }

    /// The server, where the stage is the only one that has it.
    pub(crate) fn server(&mut self) -> Result<&mut Etcd> {
        Arc::get_mut(&mut self.etcd).context("the server is shared")
    }

    /// A host that reaches the server directly.
    pub(crate) async fn node(&self, name: &str) -> Result<Node> {
        self.start(self.settings(name)).await
    }

    /// A host that reaches the server through a proxy.
    pub(crate) async fn node_through(&self, name: &str, proxy: &Proxy) -> Result<Node> {
        self.start(self.settings(name).endpoints([proxy.addr().to_string()])).await
    }

    /// The same, and it notices a silent connection within two seconds.
    pub(crate) async fn brisk_node_through(&self, name: &str, proxy: &Proxy) -> Result<Node> {
        let settings = self.settings(name).endpoints([proxy.addr().to_string()]);
        let brisk = settings.plugin("ping_after_ms = 1000").plugin("ping_timeout_ms = 500");
        self.start(brisk).await
    }

    pub(crate) async fn start(&self, settings: NodeSettings) -> Result<Node> {
        let pintle = within("the start of a host", self.sandbox.start(&settings.text())).await??;
        Ok(Node {
            config: pintle.config("main")?,
            registry: pintle.registry("main")?,
            lock: pintle.lock("main")?,
            pintle,
        })
    }

    /// Settings of a host with the server as its only endpoint.
    pub(crate) fn settings(&self, name: &str) -> NodeSettings {
        NodeSettings {
            name: name.into(),
            endpoints: vec![self.etcd.endpoint()],
            backend: Vec::new(),
            plugin: vec![format!("root = {:?}", self.root)],
        }
    }

    /// A proxy in front of the server that understands HTTP/2.
    pub(crate) async fn proxy(&self) -> Result<Proxy> {
        proxy_to(self.etcd.address()).await
    }

    /// A native client that reaches the server directly.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(within("a native client", Client::connect([self.etcd.endpoint()], None)).await??)
    }

    /// A folder that lives as long as the stage.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.sandbox.path()
    }

    /// The key on the server.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    /// All keys below `prefix` as the server has them.
    pub(crate) async fn keys_below(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        let options = GetOptions::new().with_prefix();
        Ok(self.client().await?.get(self.key(prefix), Some(options)).await?.take_kvs())
    }

    /// Keys that hang on a lease: registrations and claims on locks.
    pub(crate) async fn leased_keys(&self) -> Result<Vec<KeyValue>> {
        Ok(self.keys_below("").await?.into_iter().filter(|pair| pair.lease() != 0).collect())
    }

    /// The one key that hangs on a lease.
    pub(crate) async fn leased_key(&self) -> Result<KeyValue> {
        let mut keys = self.leased_keys().await?;
        match (keys.pop(), keys.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => bail!("not one leased key: {:?}", keys.iter().chain(&last)),
        }
    }

    /// Deletes everything below the root.
    pub(crate) async fn wipe(&self) -> Result<()> {
        let options = DeleteOptions::new().with_prefix();
        self.client().await?.delete(self.root.as_str(), Some(options)).await?;
        Ok(())
    }
}

impl Node {
    /// Takes a lock that is free.
    pub(crate) async fn hold(&self, request: LockRequest) -> Result<Lease> {
        let name = request.name.clone();
        match within("the lock", self.lock.acquire(request)).await?? {
            AcquireOutcome::Held(lease) => Ok(lease),
            AcquireOutcome::Busy(holders) => bail!("{name} is held by {holders:?}"),
        }
    }

    /// Registers an instance whose name is free.
    pub(crate) async fn register(
        &self,
        instance: Instance,
        ttl: std::time::Duration,
    ) -> Result<Registration> {
        match within("the registration", self.registry.register(instance, ttl)).await?? {
            RegisterOutcome::Registered(registration) => Ok(registration),
            RegisterOutcome::Taken(owner) => bail!("taken by {owner:?}"),
        }
    }

    /// Instances of a service, as the server has them now.
    pub(crate) async fn instances(
        &self,
        service: &str,
    ) -> Result<Vec<pintle::registry::InstanceState>> {
        let fresh = Some(pintle::config::Consistency::Linearizable);
        Ok(self.registry.instances(service, None, 0, fresh).await?.instances)
    }
}

impl NodeSettings {
    pub(crate) fn endpoints(mut self, endpoints: impl IntoIterator<Item = String>) -> Self {
        self.endpoints = endpoints.into_iter().collect();
        self
    }

    /// Takes the root out of what the plugin is told.
    pub(crate) fn without_root(mut self) -> Self {
        self.plugin.retain(|line| !line.starts_with("root"));
        self
    }

    /// Adds a line to `[backends.main]`.
    pub(crate) fn backend(mut self, line: impl Into<String>) -> Self {
        self.backend.push(line.into());
        self
    }

    /// Adds a line to `[backends.main.settings]`.
    pub(crate) fn plugin(mut self, line: impl Into<String>) -> Self {
        self.plugin.push(line.into());
        self
    }

    /// The host's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What a file of settings holds.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("node = {:?}\n[backends.main]\nplugin = \"etcd\"\n", self.name);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "endpoints = {:?}", self.endpoints);
        for line in &self.backend {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("[backends.main.settings]\n");
        for line in &self.plugin {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// A proxy in front of a server that understands HTTP/2.
pub(crate) async fn proxy_to(server: SocketAddr) -> Result<Proxy> {
    Ok(Proxy::builder(server).framing(Framing::Http2).start().await?)
}

/// The server that tests share which do not harm it. It ends with the last test that uses it.
pub(crate) async fn shared_server() -> Result<Arc<Etcd>> {
    static SHARED: Mutex<Weak<Etcd>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(etcd) = shared.upgrade() {
        return Ok(etcd);
    }
    // Some hosts look after a silent connection more often than a server usually bears.
    let arguments = vec!["--grpc-keepalive-min-time".to_owned(), "500ms".to_owned()];
    let options = EtcdOptions { arguments, ..EtcdOptions::default() };
    let etcd = Arc::new(Etcd::start(options).await?);
    *shared = Arc::downgrade(&etcd);
    Ok(etcd)
}
