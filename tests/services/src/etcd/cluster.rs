//! A cluster of three.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Etcd, EtcdOptions, fetch};
use crate::{Error, Result, until};

const LEADER_LIMIT: Duration = Duration::from_secs(30);
const MEMBERS: usize = 3;

/// Three etcd processes that form a cluster; stopped when dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Etcd>,
}

impl EtcdCluster {
    /// Starts three members and waits until all serve.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    ///
    /// # Cancellation
    /// Dropping the future kills the processes.
    pub async fn start(options: EtcdOptions) -> Result<Self> {
        Self::start_behind(options, async |address| Ok::<_, Error>(address)).await
    }

    /// The same with something between the members: `front` is given the address on which a member
    /// listens for the others, and gives the one that they use instead, such as a proxy's.
    ///
    /// # Errors
    /// Those of `front`, and as [`Etcd::start`].
    ///
    /// # Cancellation
    /// Dropping the future kills the processes.
    pub async fn start_behind<E: From<Error>>(
        options: EtcdOptions,
        mut front: impl AsyncFnMut(SocketAddr) -> Result<SocketAddr, E>,
    ) -> Result<Self, E> {
        let bin = fetch(options.version).await?;
        let mut members = Vec::new();
        for number in 1..=MEMBERS {
            let name = format!("etcd-{number}");
            let mut member = Etcd::prepare(&name, options.clone(), bin.clone())?;
            member.peer_advertised = front(member.ports.peer.address()).await?;
            members.push(member);
        }
        let cluster: Vec<String> = members.iter().map(Etcd::initial_cluster).collect();
        let cluster = cluster.join(",");
        for member in &mut members {
            member.spawn(&cluster)?;
        }
        for member in &mut members {
            member.ready().await?;
        }
        Ok(Self { members })
    }

    /// All members.
    pub fn members(&mut self) -> &mut [Etcd] {
        &mut self.members
    }

    /// Where clients connect, one per member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// The leader, as soon as a running member says that it is.
    ///
    /// # Errors
    /// [`Error::State`] when there is none within thirty seconds.
    pub async fn leader(&mut self) -> Result<&mut Etcd> {
        // A paused member does not answer, one that was killed cannot.
        let found = until(LEADER_LIMIT, || {
            let members = &self.members;
            async move {
                for (position, member) in members.iter().enumerate() {
                    if member.process.is_some() && member.is_leader().await {
                        return Some(position);
                    }
                }
                None
            }
        });
        let position = found.await;
        position.and_then(|position| self.members.get_mut(position)).ok_or_else(|| Error::State {
            name: "etcd cluster".into(),
            problem: format!("no leader within {} s", LEADER_LIMIT.as_secs()),
        })
    }
}
