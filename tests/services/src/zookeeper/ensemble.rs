//! An ensemble of three.

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
        let jars = fetch(options.version).await?;
        let mut members = Vec::new();
        for number in 1..=MEMBERS {
            let name = format!("zookeeper-{number}");
            members.push(ZooKeeper::prepare(&name, options.clone(), &jars)?);
        }
        let lines: String =
            (1..).zip(&members).map(|(number, member)| member.member_line(number)).collect();
        for (number, member) in (1..).zip(&mut members) {
            member.configure(Some((&lines, number)))?;
            member.run()?;
        }
        for member in &mut members {
            member.ready().await?;
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
