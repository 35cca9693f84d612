//! A server, and one host with many backends on it, each through a proxy of its own.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Context, Result};
use etcd_client::{Client, GetOptions, KeyValue};
use pintle::Pintle;
use pintle_test_proxy::{Framing, Proxy};
use pintle_test_services::{Etcd, EtcdOptions};
use pintle_test_suites::{Sandbox, within};

/// Below which everything is stored.
pub(crate) const ROOT: &str = "/chaos/";

/// One server, and backends `b0`, `b1` … of one host.
pub(crate) struct Stage {
    pub(crate) etcd: Etcd,
    pub(crate) host: Host,
}

/// A host with a proxy for each of its backends.
pub(crate) struct Host {
    pub(crate) pintle: Pintle,
    pub(crate) proxies: Vec<Proxy>,
    _sandbox: Sandbox,
}

impl Stage {
    pub(crate) async fn start(backends: usize) -> Result<Self> {
        let arguments = vec!["--grpc-keepalive-min-time".to_owned(), "500ms".to_owned()];
        let etcd = Etcd::start(EtcdOptions { arguments, ..EtcdOptions::default() }).await?;
        let host = Host::start(etcd.address(), backends).await?;
        Ok(Self { etcd, host })
    }

    /// A native client that reaches the server directly.
    pub(crate) async fn client(&self) -> Result<Client> {
        connect(&[self.etcd.endpoint()]).await
    }
}

impl Host {
    /// Backends that reach the server at this address.
    pub(crate) async fn start(server: SocketAddr, backends: usize) -> Result<Self> {
        let mut proxies = Vec::new();
        for _ in 0..backends {
            proxies.push(proxy(server).await?);
        }
        let endpoints: Vec<Vec<String>> =
            proxies.iter().map(|proxy| vec![proxy.addr().to_string()]).collect();
        Self::with(proxies, &endpoints).await
    }

    /// Backends with these endpoints.
    pub(crate) async fn with(proxies: Vec<Proxy>, endpoints: &[Vec<String>]) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/etcd"])?;
        let mut text = "node = \"chaos\"\n".to_owned();
        for (number, endpoints) in endpoints.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "[backends.b{number}]\nplugin = \"etcd\"\nendpoints = {endpoints:?}\n\
                 settings = {{ root = \"{ROOT}\", ping_after_ms = 1000, ping_timeout_ms = 500 }}\n"
            );
        }
        let pintle = within("the start of the host", sandbox.start(&text)).await??;
        Ok(Self { pintle, proxies, _sandbox: sandbox })
    }

    pub(crate) fn proxy(&self, number: usize) -> Result<&Proxy> {
        self.proxies.get(number).with_context(|| format!("there is no proxy {number}"))
    }

    pub(crate) fn name(number: usize) -> String {
        format!("b{number}")
    }
}

/// A proxy that understands HTTP/2.
pub(crate) async fn proxy(server: SocketAddr) -> Result<Proxy> {
    Ok(Proxy::builder(server).framing(Framing::Http2).start().await?)
}

pub(crate) async fn connect(endpoints: &[String]) -> Result<Client> {
    Ok(within("a native client", Client::connect(endpoints, None)).await??)
}

/// Keys below the root that hang on a lease: registrations and claims.
pub(crate) async fn leased_keys(client: &mut Client) -> Result<Vec<KeyValue>> {
    let options = GetOptions::new().with_prefix();
    let found = client.get(ROOT, Some(options)).await?.take_kvs();
    Ok(found.into_iter().filter(|pair| pair.lease() != 0).collect())
}
