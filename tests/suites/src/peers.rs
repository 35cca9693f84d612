//! Clusters of three in which a member can be cut off from the others, and still be reached by clients.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use pintle_test_proxy::{Action, Armed, Cut, Fault, Proxy, Rule};
use pintle_test_services::{EtcdCluster, EtcdOptions, ZooKeeperEnsemble, ZooKeeperOptions};

/// Another proxy, which leads to this address, and where it listens.
async fn front(proxies: &mut Vec<Proxy>, address: SocketAddr) -> Result<SocketAddr> {
    let proxy = Proxy::start(address).await?;
    let front = proxy.addr();
    proxies.push(proxy);
    Ok(front)
}

/// What lies between the members of an etcd cluster.
pub struct EtcdPeers {
    /// In the order of the members: what leads to each of them.
    proxies: Vec<Proxy>,
    /// What keeps away who is cut off.
    rules: Vec<Armed>,
}

impl EtcdPeers {
    /// Starts a cluster.
    ///
    /// # Errors
    ///
    /// Fails when a member or a proxy does not start.
    pub async fn start(options: EtcdOptions) -> Result<(EtcdCluster, Self)> {
        let mut proxies = Vec::new();
        let started =
            EtcdCluster::start_behind(options, async |address| front(&mut proxies, address).await);
        let cluster = started.await?;
        Ok((cluster, Self { proxies, rules: Vec::new() }))
    }

    /// Cuts the member at this position off: nobody connects to it, and what comes from it is refused.
    ///
    /// # Errors
    ///
    /// Fails when there is no such member, or it does not answer.
    pub async fn cut_off(&mut self, cluster: &mut EtcdCluster, position: usize) -> Result<()> {
        let member = cluster.members().get(position).context("no such member")?;
        let mut client = etcd_client::Client::connect([member.endpoint()], None).await?;
        let id = client.status().await?.header().context("a header")?.member_id();
        let from = format!("X-Server-From: {id:x}").into_bytes();
        for (number, proxy) in self.proxies.iter().enumerate() {
            if number == position {
                proxy.refuse().await?;
            } else {
                let from = from.clone();
                let rule = Rule::request(move |message| message.contains(&from)).always();
                self.rules.push(proxy.arm(rule, Action::CutBefore(Cut::Reset)));
            }
        }
        for proxy in &self.proxies {
            proxy.cut_all(Cut::Reset).await?;
        }
        Ok(())
    }

    /// All reach all again.
    ///
    /// # Errors
    ///
    /// Fails when a proxy cannot listen again.
    pub async fn heal(&mut self) -> Result<()> {
        self.rules.drain(..).for_each(|rule| rule.disarm());
        for proxy in &self.proxies {
            proxy.heal().await?;
        }
        Ok(())
    }
}

/// What lies between the last member of a ZooKeeper ensemble and the others, whom it follows.
pub struct ZooKeeperPeers {
    proxies: Vec<Proxy>,
}

impl ZooKeeperPeers {
    /// Starts an ensemble.
    ///
    /// # Errors
    ///
    /// Fails when a member or a proxy does not start.
    pub async fn start(options: ZooKeeperOptions) -> Result<(ZooKeeperEnsemble, Self)> {
        let mut proxies = Vec::new();
        let started = ZooKeeperEnsemble::start_behind(options, async |address| {
            front(&mut proxies, address).await
        });
        let ensemble = started.await?;
        Ok((ensemble, Self { proxies }))
    }

    /// Cuts the last member off. While it leads it is not: the others reach it otherwise.
    pub fn cut_off_last(&self) {
        for proxy in &self.proxies {
            proxy.set(Fault::Blackhole);
        }
    }

    /// It reaches the others again.
    ///
    /// # Errors
    ///
    /// Fails when a proxy cannot listen again.
    pub async fn heal(&self) -> Result<()> {
        for proxy in &self.proxies {
            proxy.heal().await?;
        }
        Ok(())
    }
}
