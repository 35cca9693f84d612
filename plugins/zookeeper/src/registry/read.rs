//! Services and instances, as readers see them.

use super::node;
use crate::path::{child, of_name, to_name};
use crate::session::{Client, Failure};
use crate::wire::{Children, ErrorCode, Exists, GetData, Stat};
use crate::zookeeper::{ZooKeeper, count};
use futures::future::join_all;
use pintle_plugin_sdk::follow::Weighed;
use pintle_plugin_sdk::record::{InstanceRecord, decode_override};
use pintle_plugin_sdk::registry::{
    Consistency, InstanceHealth, InstanceState, InstancesPage, OperatorOverride, ServiceSummary,
    ServicesPage,
};
use pintle_plugin_sdk::{Context, Error};

/// Most bytes of instances in one page.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Nodes that are looked at together.
pub(super) const TOGETHER: usize = 128;

impl ZooKeeper {
    pub(super) async fn services_page(
        &self,
        cx: &Context,
        after: &str,
        limit: u32,
    ) -> Result<ServicesPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let directory = self.paths.instances();
        self.read(cx, "listing services", async |client| {
            self.catch_up(&client).await?;
            let mut named = self.names(&client, &directory).await?;
            named.retain(|(name, _)| name.as_str() > after);
            let mut page = ServicesPage { services: Vec::new(), next: None };
            for part in named.chunks(TOGETHER) {
                let looks = part.iter().map(|(_, node)| {
                    client.call(&Exists { path: &child(&directory, node), watch: false })
                });
                for ((name, _), look) in part.iter().zip(join_all(looks).await) {
                    // The server removes empty ones some time later.
                    let instances = children_of(look)?;
                    let Some(instances) = u32::try_from(instances).ok().filter(|n| *n > 0) else {
                        continue;
                    };
                    if page.services.len() >= limit {
                        page.next = page.services.last().map(|service| service.name.clone());
                        return Ok(page);
                    }
                    page.services.push(ServiceSummary { name: name.clone(), instances });
                }
            }
            Ok(page)
        })
        .await
    }

    pub(super) async fn instances_page(
        &self,
        cx: &Context,
        service: &str,
        after: &str,
        limit: u32,
        consistency: Consistency,
    ) -> Result<InstancesPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let doing = format!("listing instances of `{service}`");
        self.read(cx, &doing, async |client| {
            match consistency {
                Consistency::Linearizable => client.barrier().await?,
                Consistency::Sequential | Consistency::Any => self.catch_up(&client).await?,
            }
            let directory = self.paths.service(&self.paths.instances(), service);
            let mut named = self.names(&client, &directory).await?;
            named.retain(|(id, _)| id.as_str() > after);
            let last = named.last().map(|(id, _)| id.clone());
            named.truncate(limit);
            let ids: Vec<_> = named.into_iter().map(|(id, _)| id).collect();
            let mut page = InstancesPage { instances: Vec::new(), next: None };
            let (mut bytes, mut looked_at) = (0, None);
            for ids in ids.chunks(TOGETHER) {
                if bytes >= PAGE_BYTES_MAX {
                    break;
                }
                let instances = self.states(&client, service, ids).await?;
                bytes += instances.iter().map(Weighed::bytes).sum::<usize>();
                page.instances.extend(instances);
                looked_at = ids.last().cloned();
            }
            page.next = looked_at.filter(|looked_at| Some(looked_at) != last.as_ref());
            Ok(page)
        })
        .await
    }

    /// Names of the children of a node, in order, with what the nodes are called.
    pub(super) async fn names(
        &self,
        client: &Client,
        directory: &str,
    ) -> Result<Vec<(String, String)>, Failure> {
        let nodes = match client.call(&Children { path: directory, watch: false }).await {
            Ok((nodes, _)) => nodes,
            Err(failure) if failure.is(ErrorCode::NO_NODE) => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        };
        let mut named = Vec::with_capacity(nodes.len());
        for node in nodes {
            match to_name(&node) {
                Some(name) => named.push((name, node)),
                None => count(&self.counters.unreadable),
            }
        }
        named.sort_unstable();
        Ok(named)
    }

    /// The states of these instances; those that are gone are left out.
    pub(super) async fn states(
        &self,
        client: &Client,
        service: &str,
        ids: &[String],
    ) -> Result<Vec<InstanceState>, Failure> {
        let (instances, overrides) = (self.paths.instances(), self.paths.overrides());
        let mut states = Vec::with_capacity(ids.len());
        for ids in ids.chunks(TOGETHER) {
            let read = |directory: &str| {
                let directory = self.paths.service(directory, service);
                let reads = ids.iter().map(|id| {
                    let path = child(&directory, &of_name(id));
                    client.call(&GetData { path: &path, watch: false })
                });
                reads.collect::<Vec<_>>()
            };
            let (records, operators) = (read(&instances), read(&overrides));
            let records = join_all(records).await;
            let operators = join_all(operators).await;
            for ((id, record), operator) in ids.iter().zip(records).zip(operators) {
                let Some((data, stat)) = self.readable(record)? else { continue };
                let operator = self.readable(operator)?;
                states.extend(self.decoded(service, id, &data, &stat, operator.as_ref()));
            }
        }
        Ok(states)
    }

    /// A node that was read: nothing where there is none, or where it may not be read.
    fn readable(
        &self,
        read: Result<(Option<Vec<u8>>, Stat), Failure>,
    ) -> Result<Option<(Vec<u8>, Stat)>, Failure> {
        match read {
            Ok((data, stat)) => Ok(Some((data.unwrap_or_default(), stat))),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(None),
            Err(failure) if failure.is(ErrorCode::NO_AUTH) => {
                count(&self.counters.unreadable);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The state of an instance whose node was read.
    pub(super) async fn state_of(
        &self,
        client: &Client,
        service: &str,
        id: &str,
        data: &[u8],
        stat: &Stat,
    ) -> Result<InstanceState, Failure> {
        let path = self.paths.instance(&self.paths.overrides(), service, id);
        let operator = node(client, &path).await?;
        let decoded = self.decoded(service, id, data, stat, operator.as_ref());
        Ok(decoded.unwrap_or_else(|| unreadable(service, id, stat)))
    }

    /// What a record says; none where it is not Pintle's.
    fn decoded(
        &self,
        service: &str,
        id: &str,
        data: &[u8],
        stat: &Stat,
        operator: Option<&(Vec<u8>, Stat)>,
    ) -> Option<InstanceState> {
        let record = match InstanceRecord::decode(data) {
            Ok(record) => record,
            Err(error) => {
                count(&self.counters.unreadable);
                tracing::warn!(service, id, %error, "an instance cannot be read");
                return None;
            }
        };
        if (record.instance.service.as_str(), record.instance.id.as_str()) != (service, id) {
            count(&self.counters.unreadable);
            tracing::warn!(service, id, "an instance's record is that of another name");
            return None;
        }
        let changed = operator.map_or(stat.mzxid, |(_, operator)| stat.mzxid.max(operator.mzxid));
        let operator = operator.and_then(|(data, _)| self.decoded_override(service, id, data));
        Some(InstanceState {
            instance: record.instance,
            operator,
            ephemeral: stat.ephemeral_owner != 0,
            owner: record.owner,
            health: InstanceHealth::Unknown,
            version: format!("{:x}-{changed:x}", stat.czxid),
            registered_ms: record.registered_ms,
        })
    }

    fn decoded_override(&self, service: &str, id: &str, data: &[u8]) -> Option<OperatorOverride> {
        decode_override(data)
            .inspect_err(|error| {
                count(&self.counters.unreadable);
                tracing::warn!(service, id, %error, "what an operator says cannot be read");
            })
            .ok()
    }
}

/// How many children a node has that was looked at: none where it is gone.
pub(crate) fn children_of(look: Result<Stat, Failure>) -> Result<i32, Failure> {
    match look {
        Ok(stat) => Ok(stat.num_children),
        Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// Somebody has the name whose record is not Pintle's.
fn unreadable(service: &str, id: &str, stat: &Stat) -> InstanceState {
    use pintle_plugin_sdk::registry::Instance;
    InstanceState {
        instance: Instance {
            service: service.to_owned(),
            id: id.to_owned(),
            host: String::new(),
            port: 0,
            version: String::new(),
            zone: None,
            weight: 0,
            enabled: false,
            labels: Vec::new(),
        },
        operator: None,
        ephemeral: stat.ephemeral_owner != 0,
        owner: format!("session {:#x}, not Pintle's", stat.ephemeral_owner),
        health: InstanceHealth::Unknown,
        version: format!("{:x}-{:x}", stat.czxid, stat.mzxid),
        registered_ms: u64::try_from(stat.ctime_ms).ok(),
    }
}
