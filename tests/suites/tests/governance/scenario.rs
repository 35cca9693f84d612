//! The scenario. It knows no backend.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, future::try_join_all};
use pintle_client::{
    Client,
    api::{
        config::{Expect, WriteQuery},
        event::{ConfigEvent, InstanceEvent},
        lock::Acquire,
        registry::{InstanceSpec, InstanceState, Override},
    },
    config::{Put, WriteOutcome},
    lock::AcquireOutcome,
    registration::Registered,
    registry::{InstanceName, RegisterOutcome},
    watch::Delivery,
};
use pintle_test_suites::within;
use tokio::{sync::watch, task::JoinHandle};

use crate::nodes::Nodes;

const SERVICE: &str = "proxy";
const TTL_MS: u64 = 2_000;
const BACKEND: &str = "main";

/// Everything that has to do with governing three nodes, in its order.
pub(crate) async fn run(nodes: Nodes) -> Result<()> {
    let clients = [nodes.client(0), nodes.client(1), nodes.client(2)];
    let mut registered = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        registered.push(register(client, number).await?);
    }
    // Each node sees the whole topology.
    let topologies = try_join_all(clients.iter().map(Topology::follow)).await?;
    for topology in &topologies {
        topology
            .until("all three", |all| all.len() == 3 && all.values().all(|one| one.enabled))
            .await?;
    }
    let events = try_join_all(clients.iter().map(Events::follow)).await?;

    // One dies, and is gone from the topology of the others within its TTL, give or take what a
    // backend needs to notice.
    nodes.kill(2).await?;
    for topology in &topologies[..2] {
        topology.until("two left", |all| all.len() == 2 && !all.contains_key("node-2")).await?;
    }

    // One is taken out by an operator: it stays in the topology, without load.
    let name = InstanceName { service: SERVICE.into(), id: "node-1".into() };
    let note = "disk to be replaced".to_owned();
    let out = Override { enabled: Some(false), weight: None, note: note.clone() };
    clients[0].registry(BACKEND).set_override(&name, &out).await?;
    for topology in &topologies[..2] {
        topology
            .until("one disabled", |all| {
                let operator = all.get("node-1").and_then(|one| one.operator.as_ref());
                operator.is_some_and(|operator| operator.note == note)
                    && !all["node-1"].enabled
                    && all["node-0"].enabled
            })
            .await?;
    }

    // An event reaches all who live.
    let announced = Put::new("events/rules-changed", "revision 7");
    clients[0].config(BACKEND).put(announced).await?;
    for events in &events[..2] {
        events.until("the event", |all| all.contains(&"revision 7".to_owned())).await?;
    }

    // Both who live start the same operation; it runs once.
    let runs = clients[..2].iter().map(|client| exclusively_once(client, "rebalance"));
    let ran = within("the operation", try_join_all(runs)).await??;
    assert_eq!(ran.iter().filter(|ran| **ran).count(), 1, "{ran:?}");
    assert!(!exclusively_once(&clients[1], "rebalance").await?, "it ran again");

    // The one that was out comes back, and leaves in an orderly way.
    clients[1].registry(BACKEND).clear_override(&name).await?;
    topologies[0].until("all enabled", |all| all.values().all(|one| one.enabled)).await?;
    registered.remove(1).deregister().await?;
    topologies[0].until("one left", |all| all.len() == 1 && all.contains_key("node-0")).await
}

async fn register(client: &Client, number: usize) -> Result<Registered> {
    let name = InstanceName { service: SERVICE.into(), id: format!("node-{number}") };
    let spec = InstanceSpec::new("127.0.0.1", 3307 + u16::try_from(number)?);
    match client.registry(BACKEND).register(name, spec, TTL_MS).await? {
        RegisterOutcome::Registered(registered) => Ok(registered),
        RegisterOutcome::Taken(owner) => bail!("taken by {owner:?}"),
    }
}

/// Runs the operation unless it has run: who holds the lock looks for its mark, and the mark is
/// written under the lock. Answers whether it ran here.
async fn exclusively_once(client: &Client, operation: &str) -> Result<bool> {
    let config = client.config(BACKEND);
    let mark = format!("operations/{operation}/done");
    let acquire = Acquire { wait_ms: 15_000, ..Acquire::default() };
    let lock = client.lock(BACKEND).acquire(&format!("operations/{operation}"), acquire).await?;
    let AcquireOutcome::Held(lease) = lock else { bail!("it waited in vain") };
    let runs = config.get(&mark).await?.is_none();
    if runs {
        let query = WriteQuery { held: Some(lease.name().id.clone()), previous: false };
        let done = Put { expect: Expect::Absent, query, ..Put::new(mark, "done") };
        let stored = config.put(done).await?;
        assert!(matches!(stored, WriteOutcome::Done(_)), "another ran meanwhile: {stored:?}");
    }
    lease.release().await?;
    Ok(runs)
}

/// What one node knows, kept up to date in the background.
struct Followed<T> {
    known: watch::Receiver<T>,
    following: JoinHandle<()>,
}

type Topology = Followed<BTreeMap<String, Arc<InstanceState>>>;
type Events = Followed<Vec<String>>;

impl Topology {
    async fn follow(client: &Client) -> Result<Self> {
        let mut events = client.registry(BACKEND).watch(Some(SERVICE.into())).await?;
        let (sender, known) = watch::channel(BTreeMap::new());
        let following = tokio::spawn(async move {
            while let Some(Ok(delivery)) = events.next().await {
                let Delivery::Event(event) = delivery else { continue };
                sender.send_modify(|all| match event {
                    InstanceEvent::SnapshotBegin => all.clear(),
                    InstanceEvent::Put(put) => {
                        all.insert(put.instance.id.clone(), Arc::new(put.instance));
                    }
                    InstanceEvent::Removed(removed) => {
                        all.remove(&removed.id);
                    }
                    InstanceEvent::SnapshotEnd | InstanceEvent::Resync(_) => {}
                });
            }
        });
        Ok(Self { known, following })
    }
}

impl Events {
    async fn follow(client: &Client) -> Result<Self> {
        let mut events = client.config(BACKEND).watch_prefix("events").await?;
        let (sender, known) = watch::channel(Vec::new());
        let following = tokio::spawn(async move {
            while let Some(Ok(delivery)) = events.next().await {
                let Delivery::Event(ConfigEvent::Put(put)) = delivery else { continue };
                sender.send_modify(|all| all.extend(put.entry.value.value));
            }
        });
        Ok(Self { known, following })
    }
}

impl<T: std::fmt::Debug> Followed<T> {
    async fn until(&self, what: &str, holds: impl Fn(&T) -> bool) -> Result<()> {
        let mut known = self.known.clone();
        let reached = within(what, known.wait_for(|known| holds(known))).await;
        let last = || format!("{:?}", *self.known.borrow());
        reached.with_context(last)?.with_context(last)?;
        Ok(())
    }
}

impl<T> Drop for Followed<T> {
    fn drop(&mut self) {
        self.following.abort();
    }
}
