//! Watches of configuration: the server tells that a node has changed, and it is read again.

use super::entry;
use super::tree::{Denied, Node, PIPELINE, Room, read_nodes};
use crate::limits::Share;
use crate::session::{Client, Failure, Listener, Notice};
use crate::watching::if_readable;
use crate::wire::{ErrorCode, EventKind, WatchMode};
use crate::zookeeper::{ZooKeeper, count};
use futures::future::{Either, select};
use pintle_plugin_sdk::Error;
use pintle_plugin_sdk::config::{Entry, Target, WatchRequest, WatchSink};
use pintle_plugin_sdk::follow::ConfigFollower;
use pintle_plugin_sdk::time::{Instant, sleep_until};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

/// What is watched.
struct Watched {
    target: Target,
    path: String,
    mode: WatchMode,
    /// What it keeps of what all watches may.
    share: Share,
}

impl Watched {
    /// The key of a node, if it is watched.
    fn key(&self, plugin: &ZooKeeper, path: &str) -> Option<String> {
        match &self.target {
            Target::Key(key) => (path == self.path).then(|| key.clone()),
            Target::Prefix(_) if path == self.path => None,
            Target::Prefix(_) => plugin.paths.key(path),
        }
    }
}

impl ZooKeeper {
    pub(super) async fn feed_watch(
        &self,
        request: WatchRequest,
        sink: WatchSink,
    ) -> Result<(), Error> {
        let (path, mode) = match &request.target {
            Target::Key(key) => (self.paths.node(key)?, WatchMode::Node),
            Target::Prefix(prefix) => (self.paths.directory(prefix)?, WatchMode::Tree),
        };
        let share = self.common.watched.share();
        let watched = Watched { target: request.target, path, mode, share };
        let listener = self.main.watches().listen(&watched.path, mode, true);
        let mut follower = ConfigFollower::new(sink, request.previous);
        let mut gap = None;
        while !follower.sink().is_closed() {
            let client = Box::pin(self.watching_client()).await?;
            match self.follow(&client, &watched, &listener, &mut follower, gap.take()).await {
                Ok(reason) => gap = Some(reason),
                Err(failure) if failure.is_passing() => {
                    gap = Some("the connection to ZooKeeper was lost".to_owned());
                    self.main.settle(&client);
                }
                Err(failure) if failure.is(ErrorCode::THROTTLED) => {
                    gap = Some(Box::pin(self.pause_throttled()).await);
                }
                Err(failure) => {
                    return Err(failure.explain_read(&format!("watching `{}`", watched.path)));
                }
            }
        }
        Ok(())
    }

    /// Shows all there is, and then each change, until there is a gap; answers why. What it does but
    /// now and then is in boxes, of which thousands of watches that wait have none.
    async fn follow(
        &self,
        client: &Client,
        watched: &Watched,
        listener: &Listener,
        follower: &mut ConfigFollower,
        gap: Option<String>,
    ) -> Result<String, Failure> {
        Box::pin(self.arm(client, &watched.path)).await?;
        listener.clear();
        let once = !self.main.has_lasting_watches();
        let entries = Box::pin(self.watched_entries(client, watched, once)).await?;
        if let Some(reason) = gap {
            count(&self.counters.resyncs);
            follower.sink().resync(&reason);
        }
        Box::pin(follower.show(entries, None)).await;
        watched.share.set(follower.bytes())?;
        let mut proof_due = self.next_proof();
        loop {
            // Not only when it is quiet: most that is heard of a whole tree may be none of its keys.
            if Instant::now() >= proof_due {
                // The answer comes behind all events before it.
                client.barrier().await?;
                follower.sink().progress(None);
                proof_due = self.next_proof();
            }
            let sink = follower.sink().clone();
            let wanted = pin!(sink.snapshot_wanted());
            let heard = pin!(listener.next());
            match select(heard, select(wanted, sleep_until(proof_due))).await {
                Either::Left((Notice::Gap(reason), _)) => return Ok(reason),
                Either::Left((Notice::Changed(_), _)) if once => {
                    // The watches of this node are used up: all are set again by reading all.
                    listener.clear();
                    let entries = Box::pin(self.watched_entries(client, watched, once)).await?;
                    Box::pin(follower.show(entries, None)).await;
                    watched.share.set(follower.bytes())?;
                }
                Either::Left((Notice::Changed(changes), _)) => {
                    for (key, entry) in
                        Box::pin(self.changed_entries(client, watched, changes)).await?
                    {
                        follower.change(key, entry);
                    }
                    watched.share.set(follower.bytes())?;
                    Box::pin(follower.refresh(None)).await;
                }
                Either::Right((Either::Left(_), _)) => Box::pin(follower.refresh(None)).await,
                Either::Right((Either::Right(_), _)) => {}
            }
        }
    }

    fn left_out(&self) -> Denied<'_> {
        Denied::LeftOut(&self.counters.unreadable)
    }

    async fn watched_entries(
        &self,
        client: &Client,
        watched: &Watched,
        once: bool,
    ) -> Result<Vec<Entry>, Failure> {
        client.barrier().await?;
        let mut room = Room::of(&watched.share);
        let nodes = match watched.mode {
            WatchMode::Tree => {
                let left_out = self.left_out();
                self.read_tree(client, &watched.path, once, left_out, &mut room).await?
            }
            WatchMode::Node => {
                let node = std::slice::from_ref(&watched.path);
                read_nodes(client, node, once, Denied::Fails, &mut room).await?
            }
        };
        if once && nodes.is_empty() {
            // A node that does not exist is watched by looking whether it does.
            let exists = crate::wire::Exists { path: &watched.path, watch: true };
            if if_readable(client.call(&exists).await)?.is_some() {
                return Box::pin(self.watched_entries(client, watched, once)).await;
            }
        }
        let entry_of = |node: Node| {
            let key = watched.key(self, &node.path)?;
            entry(key, node.data, &node.stat)
        };
        Ok(nodes.into_iter().filter_map(entry_of).collect())
    }

    /// How the keys that have changed are now, in the order of their newest changes.
    async fn changed_entries(
        &self,
        client: &Client,
        watched: &Watched,
        changes: Vec<(String, EventKind)>,
    ) -> Result<Vec<(String, Option<Entry>)>, Failure> {
        let denied = match watched.mode {
            WatchMode::Node => Denied::Fails,
            WatchMode::Tree => self.left_out(),
        };
        let mut seen = BTreeSet::new();
        let mut latest = Vec::new();
        for (path, kind) in changes.into_iter().rev() {
            if kind != EventKind::ChildrenChanged && seen.insert(path.clone()) {
                latest.push((path, kind));
            }
        }
        let (mut changed, mut to_read) = (Vec::new(), Vec::new());
        for (path, kind) in latest.into_iter().rev() {
            let Some(key) = watched.key(self, &path) else { continue };
            changed.push(key);
            // One that is created again after its deletion is told again.
            if kind != EventKind::Deleted {
                to_read.push(path);
            }
        }
        let mut now = BTreeMap::new();
        let mut room = Room::of(&watched.share);
        for paths in to_read.chunks(PIPELINE) {
            for node in read_nodes(client, paths, false, denied, &mut room).await? {
                if let Some(key) = watched.key(self, &node.path) {
                    now.insert(key.clone(), entry(key, node.data, &node.stat));
                }
            }
        }
        let with_entry = |key: String| {
            let entry = now.remove(&key).flatten();
            (key, entry)
        };
        Ok(changed.into_iter().map(with_entry).collect())
    }
}
