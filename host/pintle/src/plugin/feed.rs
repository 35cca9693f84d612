//! One upstream watch per target, shared by everybody who wants it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{backend::Backend, made::Made};
use crate::{
    config::{Entry, EventId, Target},
    error::Error,
    mirror::{Mirror, Subscription, Upstream, Weight},
    registry::InstanceState,
};

/// How long a watch stays open after its last user: clients that reconnect resume over its ring.
const LINGER: Duration = Duration::from_secs(30);

/// A capability that can be watched.
pub(crate) trait Watched: Default + Send + Sync + 'static {
    type Value: PartialEq + Weight + Send + Sync + 'static;
    type Target: Clone + Eq + Hash + Send + Sync;

    /// Opens watch `id` on the incarnation that serves, unless it is open there.
    fn open<'a>(
        backend: &'a Backend,
        made: &'a Made,
        id: u64,
        target: Self::Target,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// Ends watch `id` on the plugin.
    fn close(backend: &Backend, id: u64);
    /// The feeds of this kind.
    fn feeds(backend: &Backend) -> &Feeds<Self>;
}

/// Watches on configuration.
#[derive(Default)]
pub(crate) struct ConfigWatched;
/// Watches on instances; without a service: on all.
#[derive(Default)]
pub(crate) struct InstanceWatched;

pub(crate) type ConfigFeeds = Feeds<ConfigWatched>;
pub(crate) type InstanceFeeds = Feeds<InstanceWatched>;

impl Watched for ConfigWatched {
    type Value = Entry;
    type Target = Target;

    fn open<'a>(
        backend: &'a Backend,
        made: &'a Made,
        id: u64,
        target: Target,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(backend.config_watch(made, id, target))
    }

    fn close(backend: &Backend, id: u64) {
        backend.config_close(id);
    }

    fn feeds(backend: &Backend) -> &Feeds<Self> {
        &backend.routes.config
    }
}

impl Watched for InstanceWatched {
    type Value = InstanceState;
    type Target = Option<String>;

    fn open<'a>(
        backend: &'a Backend,
        made: &'a Made,
        id: u64,
        service: Option<String>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(backend.registry_watch(made, id, service))
    }

    fn close(backend: &Backend, id: u64) {
        backend.registry_close(id);
    }

    fn feeds(backend: &Backend) -> &Feeds<Self> {
        &backend.routes.instances
    }
}

/// One upstream watch with its mirror.
pub(crate) struct Feed<K: Watched> {
    id: u64,
    target: K::Target,
    made: Made,
    pub(crate) mirror: Arc<Mirror<K::Value>>,
}

/// The feeds of one kind of one backend.
#[derive(Default)]
pub(crate) struct Feeds<K: Watched>(Mutex<Slots<K>>);

/// Found in the same time however many there are.
struct Slots<K: Watched> {
    by_id: HashMap<u64, Slot<K>>,
    /// Which feed a target has. One that has ended may still have users, and another follows it.
    by_target: HashMap<K::Target, u64>,
}

struct Slot<K: Watched> {
    feed: Arc<Feed<K>>,
    users: usize,
}

/// Somebody who uses a feed. The feed is closed some time after the last one is gone.
pub(crate) struct FeedUser<K: Watched> {
    backend: Arc<Backend>,
    pub(crate) feed: Arc<Feed<K>>,
}

/// Joins the feed of `target`, opening it if nobody has.
pub(crate) fn join<K: Watched>(backend: &Arc<Backend>, target: K::Target) -> FeedUser<K> {
    let mut slots = K::feeds(backend).lock();
    let known = slots.by_target.get(&target).copied();
    let slot = known.and_then(|id| slots.by_id.get_mut(&id));
    if let Some(slot) = slot.filter(|slot| slot.feed.mirror.end().is_none()) {
        slot.users += 1;
        return FeedUser { backend: Arc::clone(backend), feed: Arc::clone(&slot.feed) };
    }
    let feed: Arc<Feed<K>> = Arc::new(Feed {
        id: backend.next_id(),
        target,
        made: Made::default(),
        mirror: Arc::new(Mirror::bounded(backend.limits.watch_bytes)),
    });
    slots.by_target.insert(feed.target.clone(), feed.id);
    slots.by_id.insert(feed.id, Slot { feed: Arc::clone(&feed), users: 1 });
    drop(slots);
    let opening = (Arc::clone(backend), Arc::clone(&feed));
    backend.shared.engine.host_runtime().spawn(async move {
        let (backend, feed) = opening;
        feed.open(&backend).await;
    });
    FeedUser { backend: Arc::clone(backend), feed }
}

impl<K: Watched> Feed<K> {
    /// Opens the watch on the incarnation that serves. An error ends it for all its users.
    async fn open(&self, backend: &Backend) {
        // It may take as long as the backend takes to come up: reopening does the same.
        let attempt = move || async move {
            let opened = K::open(backend, &self.made, self.id, self.target.clone()).await;
            if let Err(error) = &opened {
                self.mirror.interrupt(error.to_string().into());
            }
            opened
        };
        let is_over = || self.mirror.end().is_some();
        if let Err(error) = backend.open_patiently(attempt, is_over).await {
            self.mirror.apply(Upstream::Ended(error));
        }
    }
}

impl<K: Watched> Feeds<K> {
    pub(crate) fn find(&self, id: u64) -> Option<Arc<Mirror<K::Value>>> {
        self.lock().by_id.get(&id).map(|slot| Arc::clone(&slot.feed.mirror))
    }

    /// Tells every mirror that its upstream is gone.
    pub(crate) fn interrupt(&self, reason: &Arc<str>) {
        for slot in self.lock().by_id.values() {
            slot.feed.mirror.interrupt(Arc::clone(reason));
        }
    }

    /// Ends every watch for good.
    pub(crate) fn end(&self, error: &Error) {
        for slot in self.lock().by_id.values() {
            slot.feed.mirror.apply(Upstream::Ended(error.clone()));
        }
    }

    /// Opens every watch again on a new incarnation, each on its own.
    pub(crate) async fn reopen(&self, backend: &Backend) {
        let feeds: Vec<_> = self.lock().by_id.values().map(|slot| Arc::clone(&slot.feed)).collect();
        let open = feeds.iter().map(|feed| feed.open(backend));
        open.collect::<FuturesUnordered<_>>().collect::<()>().await;
    }

    fn lock(&self) -> MutexGuard<'_, Slots<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Watched> Default for Slots<K> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), by_target: HashMap::new() }
    }
}

impl<K: Watched> Slots<K> {
    /// Takes a feed out that nobody uses; answers whether it was there.
    fn remove_unused(&mut self, id: u64) -> bool {
        let Some(slot) = self.by_id.remove(&id) else { return false };
        if slot.users > 0 {
            self.by_id.insert(id, slot);
            return false;
        }
        if self.by_target.get(&slot.feed.target) == Some(&id) {
            self.by_target.remove(&slot.feed.target);
        }
        true
    }
}

impl<K: Watched> FeedUser<K> {
    /// Follows the feed from a snapshot on.
    pub(crate) fn subscribe(&self) -> Subscription<K::Value> {
        Subscription::new(Arc::clone(&self.feed.mirror))
    }

    /// Follows the feed from after `last`.
    pub(crate) fn resume(&self, last: EventId) -> Subscription<K::Value> {
        Subscription::resuming(Arc::clone(&self.feed.mirror), last)
    }
}

impl<K: Watched> Clone for FeedUser<K> {
    fn clone(&self) -> Self {
        join(&self.backend, self.feed.target.clone())
    }
}

impl<K: Watched> Drop for FeedUser<K> {
    fn drop(&mut self) {
        let mut slots = K::feeds(&self.backend).lock();
        let Some(slot) = slots.by_id.get_mut(&self.feed.id) else { return };
        slot.users -= 1;
        if slot.users > 0 {
            return;
        }
        drop(slots);
        let (backend, id) = (Arc::downgrade(&self.backend), self.feed.id);
        self.backend.shared.engine.host_runtime().spawn(async move {
            tokio::time::sleep(LINGER).await;
            let Some(backend) = backend.upgrade() else { return };
            let removed = K::feeds(&backend).lock().remove_unused(id);
            if removed {
                K::close(&backend, id);
            }
        });
    }
}
