//! Following configuration, and reading it from memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;

use super::types::{Entry, EventId, WatchEvent};
use crate::{
    clock::BootTime,
    error::Error,
    mirror::{Change, Following, Item, OVERHEAD_BYTES, Subscription, Weight},
    plugin::{ConfigWatched, FeedUser},
};

/// A watch on configuration: a stream of [`WatchEvent`]s that ends after an error.
///
/// A slow reader holds back nobody: when it falls behind it gets a resync and a new snapshot.
pub struct Watch(Following<WatchEvent>);

impl Watch {
    pub(super) fn new(subscription: Subscription<Entry>, user: FeedUser<ConfigWatched>) -> Self {
        Self(Following::new(subscription, user, event))
    }

    /// Place of the last event that was delivered and from which a watch can resume.
    #[must_use]
    pub fn last_event_id(&self) -> Option<EventId> {
        self.0.last_event_id()
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

impl Weight for Entry {
    fn bytes(&self) -> usize {
        let content_type = self.content_type.as_ref().map_or(0, String::len);
        let texts = self.key.len() + self.version.as_str().len() + content_type;
        size_of::<Self>() + OVERHEAD_BYTES + texts + self.value.len()
    }
}

/// A copy of a key or prefix in memory, kept up to date by a watch.
pub struct Mirror {
    user: FeedUser<ConfigWatched>,
}

/// What a mirror knows of a key.
#[derive(Debug, Clone)]
pub struct CachedEntry {
    /// The entry, or that there is none.
    pub entry: Option<Arc<Entry>>,
    /// Whether the watch works at the moment.
    pub live: bool,
    proven_at: BootTime,
}

impl CachedEntry {
    /// How long ago the backend last proved that this is current, as of this call.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.proven_at.until(BootTime::now())
    }
}

impl Mirror {
    pub(super) fn new(user: FeedUser<ConfigWatched>) -> Self {
        Self { user }
    }

    /// What is known of `key`, without waiting; nothing if the last proof is older than
    /// `max_staleness`. While the watch works a proof comes with each event, at least every 30 s.
    ///
    /// With [`Duration::MAX`] any proof will do, and no clock is read, which costs as much as the look-up.
    #[must_use]
    pub fn cached(&self, key: &str, max_staleness: Duration) -> Option<CachedEntry> {
        let cached = self.user.feed.mirror.cached(key)?;
        let found =
            CachedEntry { entry: cached.value, live: cached.live, proven_at: cached.proven_at };
        (max_staleness == Duration::MAX || found.age() <= max_staleness).then_some(found)
    }

    /// Follows the mirror from a snapshot on.
    #[must_use]
    pub fn subscribe(&self) -> Watch {
        Watch::new(self.user.subscribe(), self.user.clone())
    }
}

fn event(item: Item<'_, Entry>) -> WatchEvent {
    match item {
        Item::SnapshotBegin => WatchEvent::SnapshotBegin,
        Item::Snapshot(value) => WatchEvent::Put { entry: Arc::clone(value), previous: None },
        Item::SnapshotEnd => WatchEvent::SnapshotEnd,
        Item::Change(Change::Put { value, previous, .. }) => {
            WatchEvent::Put { entry: Arc::clone(value), previous: previous.clone() }
        }
        Item::Change(Change::Removed { key, version, previous }) => {
            let version = version.as_deref().map(Into::into);
            WatchEvent::Removed { key: Arc::clone(key), version, previous: previous.clone() }
        }
        Item::Change(Change::Resync(reason)) => WatchEvent::Resync(Arc::clone(reason)),
    }
}
