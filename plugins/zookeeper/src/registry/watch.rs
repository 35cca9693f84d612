//! Watches of the registry: instances, and what operators say of them.

use super::read::TOGETHER;
use crate::limits::Share;
use crate::path::to_name;
use crate::session::{Client, Failure, Listener, Notice};
use crate::watching::if_readable;
use crate::wire::{Children, ErrorCode, EventKind, Exists, GetData, WatchMode};
use crate::zookeeper::{ZooKeeper, count};
use futures::future::{Either, join_all, select};
use pintle_plugin_sdk::Error;
use pintle_plugin_sdk::follow::{RegistryFollower, Weighed};
use pintle_plugin_sdk::registry::{InstanceState, WatchSink};
use pintle_plugin_sdk::time::{Instant, sleep_until};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

/// Ids that have changed, by service.
type Changed = BTreeMap<String, BTreeSet<String>>;

/// What is watched: two trees.
struct Watched {
    service: Option<String>,
    instances: String,
    overrides: String,
    /// What it keeps of what all watches may.
    share: Share,
}

impl Watched {
    fn tops(&self) -> [&str; 2] {
        [&self.instances, &self.overrides]
    }
}

impl ZooKeeper {
    pub(super) async fn feed_registry_watch(
        &self,
        service: Option<String>,
        sink: WatchSink,
    ) -> Result<(), Error> {
        let top = |directory: String| match &service {
            Some(service) => self.paths.service(&directory, service),
            None => directory,
        };
        let (instances, overrides) = (top(self.paths.instances()), top(self.paths.overrides()));
        let share = self.common.watched.share();
        let watched = Watched { service, instances, overrides, share };
        let listeners =
            watched.tops().map(|path| self.main.watches().listen(path, WatchMode::Tree, true));
        let mut follower = RegistryFollower::new(sink);
        let mut gap = None;
        while !follower.sink().is_closed() {
            let client = Box::pin(self.watching_client()).await?;
            let followed = self
                .follow_registry(&client, &watched, &listeners, &mut follower, gap.take())
                .await;
            match followed {
                Ok(reason) => gap = Some(reason),
                Err(failure) if failure.is_passing() => {
                    gap = Some("the connection to ZooKeeper was lost".to_owned());
                    self.main.settle(&client);
                }
                Err(failure) if failure.is(ErrorCode::THROTTLED) => {
                    gap = Some(Box::pin(self.pause_throttled()).await);
                }
                Err(failure) => return Err(failure.explain_read("watching the registry")),
            }
        }
        Ok(())
    }

    /// Shows all there is, and then each change, until there is a gap; answers why. In boxes as for
    /// configuration.
    async fn follow_registry(
        &self,
        client: &Client,
        watched: &Watched,
        listeners: &[Listener; 2],
        follower: &mut RegistryFollower,
        gap: Option<String>,
    ) -> Result<String, Failure> {
        for path in watched.tops() {
            Box::pin(self.arm(client, path)).await?;
        }
        listeners.iter().for_each(Listener::clear);
        let once = !self.main.has_lasting_watches();
        let states = Box::pin(self.watched_states(client, watched, once)).await?;
        if let Some(reason) = gap {
            count(&self.counters.resyncs);
            follower.sink().resync(&reason);
        }
        Box::pin(follower.show(states)).await;
        watched.share.set(follower.bytes())?;
        let mut proof_due = self.next_proof();
        loop {
            if Instant::now() >= proof_due {
                // The answer comes behind all events before it.
                client.barrier().await?;
                follower.sink().progress();
                proof_due = self.next_proof();
            }
            let sink = follower.sink().clone();
            let [instances, overrides] = listeners;
            let (instances, overrides) = (pin!(instances.next()), pin!(overrides.next()));
            let heard = select(instances, overrides);
            let wanted = pin!(sink.snapshot_wanted());
            match select(heard, select(wanted, sleep_until(proof_due))).await {
                Either::Left((heard, _)) => match heard.factor_first().0 {
                    Notice::Gap(reason) => return Ok(reason),
                    Notice::Changed(_) if once => {
                        // The watches of these nodes are used up: all are set by reading all.
                        listeners.iter().for_each(Listener::clear);
                        let states = Box::pin(self.watched_states(client, watched, once)).await?;
                        Box::pin(follower.show(states)).await;
                        watched.share.set(follower.bytes())?;
                    }
                    Notice::Changed(changes) => {
                        let changed = self.names_of(&changes);
                        Box::pin(self.pass_on(client, changed, follower)).await?;
                        watched.share.set(follower.bytes())?;
                        Box::pin(follower.refresh()).await;
                    }
                },
                Either::Right((Either::Left(_), _)) => Box::pin(follower.refresh()).await,
                Either::Right((Either::Right(_), _)) => {}
            }
        }
    }

    /// Reads the instances that have changed, and tells how they are now.
    async fn pass_on(
        &self,
        client: &Client,
        changed: Changed,
        follower: &mut RegistryFollower,
    ) -> Result<(), Failure> {
        for (service, ids) in changed {
            let ids: Vec<_> = ids.into_iter().collect();
            let mut now: BTreeMap<String, InstanceState> = BTreeMap::new();
            for state in self.states(client, &service, &ids).await? {
                now.insert(state.instance.id.clone(), state);
            }
            for id in ids {
                let state = now.remove(&id);
                follower.change((service.clone(), id), state);
            }
        }
        Ok(())
    }

    /// The instances that events are about, of both trees.
    fn names_of(&self, changes: &[(String, EventKind)]) -> Changed {
        let tops = [self.paths.instances(), self.paths.overrides()];
        let mut changed = Changed::new();
        for (path, _) in changes {
            let below = tops.iter().find_map(|top| path.strip_prefix(top)?.strip_prefix('/'));
            let names = below.and_then(|below| below.split_once('/'));
            let names = names.and_then(|(service, id)| Some((to_name(service)?, to_name(id)?)));
            if let Some((service, id)) = names {
                changed.entry(service).or_default().insert(id);
            }
        }
        changed
    }

    /// All instances that are watched. With `once`, the next change to any of it is told, once.
    async fn watched_states(
        &self,
        client: &Client,
        watched: &Watched,
        once: bool,
    ) -> Result<Vec<InstanceState>, Failure> {
        client.barrier().await?;
        if once {
            // First: a service that comes after its siblings were listed has to be told.
            self.watch_once(client, watched.tops().map(str::to_owned)).await?;
        }
        let services = match &watched.service {
            Some(service) => vec![service.clone()],
            None => {
                let names = self.names(client, &watched.instances).await?;
                names.into_iter().map(|(name, _)| name).collect()
            }
        };
        if once && watched.service.is_none() {
            let tops = watched.tops();
            let below = |top| services.iter().map(move |service| self.paths.service(top, service));
            self.watch_once(client, tops.into_iter().flat_map(below)).await?;
        }
        let mut states = Vec::new();
        let mut left = watched.share.bytes_max();
        for service in services {
            let directory = self.paths.service(&self.paths.instances(), &service);
            let ids = match self.names(client, &directory).await {
                // Not ours to read, which is no reason to show none of the others.
                Err(failure) if failure.is(ErrorCode::NO_AUTH) && watched.service.is_none() => {
                    count(&self.counters.unreadable);
                    continue;
                }
                names => names?,
            };
            let ids: Vec<_> = ids.into_iter().map(|(id, _)| id).collect();
            for ids in ids.chunks(TOGETHER) {
                let fresh = self.states(client, &service, ids).await?;
                let bytes = fresh.iter().map(Weighed::bytes).sum();
                left = left.checked_sub(bytes).ok_or_else(|| watched.share.exceeded())?;
                states.extend(fresh);
            }
        }
        Ok(states)
    }

    /// Watches for servers that keep none: each directory and what is in it for its next change.
    async fn watch_once(
        &self,
        client: &Client,
        directories: impl IntoIterator<Item = String>,
    ) -> Result<(), Failure> {
        for directory in directories {
            let exists = client.call(&Exists { path: &directory, watch: true });
            let children = client.call(&Children { path: &directory, watch: true });
            let (exists, children) = futures::future::join(exists, children).await;
            if_readable(exists)?;
            let Some((names, _)) = if_readable(children)? else { continue };
            let paths: Vec<_> =
                names.iter().map(|name| crate::path::child(&directory, name)).collect();
            let reads = paths.iter().map(|path| client.call(&GetData { path, watch: true }));
            for read in join_all(reads).await {
                if_readable(read)?;
            }
        }
        Ok(())
    }
}
