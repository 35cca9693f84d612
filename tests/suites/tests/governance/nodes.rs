//! Nodes of a user's system: each talks to a host over HTTP, through a proxy that can cut it off.

use anyhow::Result;
use pintle::Pintle;
use pintle_client::Client;
use pintle_server::Api;
use pintle_test_proxy::{Cut, Proxy};
use tokio::{net::TcpListener, task::JoinHandle};

/// Some nodes.
pub(crate) struct Nodes {
    nodes: Vec<Node>,
}

struct Node {
    client: Client,
    proxy: Proxy,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Nodes {
    /// One node for each of these hosts, which may be clones of one.
    pub(crate) async fn start(hosts: &[Pintle]) -> Result<Self> {
        let mut nodes = Vec::new();
        // Hosts that are the same one share what their API knows, too.
        let mut known: Vec<(usize, Api)> = Vec::new();
        for host in hosts {
            let identity = std::ptr::from_ref(host.settings()).addr();
            let found = known.iter().find(|(other, _)| *other == identity);
            let api = found.map_or_else(|| Api::new(host.clone()), |(_, api)| api.clone());
            known.push((identity, api.clone()));
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let proxy = Proxy::start(listener.local_addr()?).await?;
            let client = Client::http(&format!("http://{}", proxy.addr()))?;
            let serving =
                tokio::spawn(async move { api.serve(listener, std::future::pending()).await });
            nodes.push(Node { client, proxy, serving });
        }
        Ok(Self { nodes })
    }

    /// The client of a node.
    pub(crate) fn client(&self, node: usize) -> Client {
        self.nodes[node].client.clone()
    }

    /// The node dies: nothing that it sends arrives any more.
    pub(crate) async fn kill(&self, node: usize) -> Result<()> {
        let proxy = &self.nodes[node].proxy;
        proxy.refuse().await?;
        proxy.cut_all(Cut::Reset).await?;
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.serving.abort();
        }
    }
}
