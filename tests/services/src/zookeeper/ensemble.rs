//! An ensemble of three.

use std::net::SocketAddr;
use std::time::Duration;

use super::{ZooKeeper, ZooKeeperOptions, fetch};
use crate::{Error, Result, until};

const LEADER_LIMIT: Duration = Duration::from_secs(60);
const MEMBERS: usize = 3;

/// Three ZooKeeper processes that form an ensemble; stopped when dropped.
#[derive(Debug)]
pub struct ZooKeeperEnsemble {
    members: Vec<ZooKeeper>,
}

impl ZooKeeperEnsemble {
    /// Starts three members and waits until all serve.
    ///
    /// # Errors
    /// As [`ZooKeeper::start`].
    ///
    /// # Cancellation
    /// Dropping the future kills the processes.
    pub async fn start(options: ZooKeeperOptions) -> Result<Self> {
        Self::start_behind(options, async |address| Ok::<_, Error>(address)).await
    }

    /// The same with something between the last member and the others: `front` is given each address
    /// on which another listens for it, and gives the one that it uses instead, such as a proxy's. It
    /// joins as a follower.
    ///
    /// # Errors
    /// Those of `front`, and as [`ZooKeeper::start`].
    ///
    /// # Cancellation
    /// Dropping the future kills the processes.
    pub async fn start_behind<E: From<Error>>(
        options: ZooKeeperOptions,
        mut front: impl AsyncFnMut(SocketAddr) -> Result<SocketAddr, E>,
    ) -> Result<Self, E> {
        let jars = fetch(options.version).await?;
        let mut members = Vec::new();
        for number in 1..=MEMBERS {
            let name = format!("zookeeper-{number}");
            members.push(ZooKeeper::prepare(&name, options.clone(), &jars)?);
        }
        let mut lines = String::new();
        let mut fronted = String::new();
        for (number, member) in (1..).zip(&members) {
            let own = [member.ports.quorum.address(), member.ports.election.address()];
            lines.push_str(&member_line(number, own));
            let used = match number == MEMBERS {
                true => own,
                false => [front(own[0]).await?, front(own[1]).await?],
            };
            fronted.push_str(&member_line(number, used));
        }
        // The others have chosen a leader before the last one comes, which would be chosen otherwise.
        let (last, others) = members
            .split_last_mut()
            .map_or((None, &mut [][..]), |(last, others)| (Some(last), others));
        for (number, member) in (1..).zip(&mut *others) {
            member.configure(Some((&lines, number)))?;
            member.run()?;
        }
        for member in others {
            member.ready().await?;
        }
        if let Some(last) = last {
            last.configure(Some((&fronted, MEMBERS)))?;
            last.run()?;
            last.ready().await?;
        }
        Ok(Self { members })
    }

    /// All members.
    pub fn members(&mut self) -> &mut [ZooKeeper] {
        &mut self.members
    }

    /// Where plain clients connect, one per member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(ZooKeeper::endpoint).collect()
    }

    /// The leader, as soon as a running member says that it is.
    ///
    /// # Errors
    /// [`Error::State`] when there is none within a minute.
    pub async fn leader(&mut self) -> Result<&mut ZooKeeper> {
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
            name: "ZooKeeper ensemble".into(),
            problem: format!("no leader within {} s", LEADER_LIMIT.as_secs()),
        })
    }
}

/// A member's line of an ensemble's settings: where it listens for followers, and for elections.
fn member_line(number: usize, [quorum, election]: [SocketAddr; 2]) -> String {
    let (host, quorum, election) = (quorum.ip(), quorum.port(), election.port());
    format!("server.{number}={host}:{quorum}:{election}\n")
}
