//! One subscriber of a mirror.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::watch;

use super::{After, Change, Mirror, Published, State, Weight};
use crate::{config::EventId, error::Error};

/// What a subscriber sees next. Only looked at: the change is the same for all of them, and each takes of it
/// what it needs.
#[derive(Debug)]
pub(crate) enum Item<'a, V> {
    SnapshotBegin,
    Snapshot(&'a Arc<V>),
    SnapshotEnd,
    Change(&'a Change<V>),
}

/// The same, kept.
enum Queued<V> {
    SnapshotBegin,
    Snapshot(Arc<V>),
    SnapshotEnd,
    Resync(Change<V>),
}

impl<V> Queued<V> {
    fn resync(reason: impl Into<Arc<str>>) -> Self {
        Self::Resync(Change::Resync(reason.into()))
    }

    fn as_item(&self) -> Item<'_, V> {
        match self {
            Self::SnapshotBegin => Item::SnapshotBegin,
            Self::Snapshot(value) => Item::Snapshot(value),
            Self::SnapshotEnd => Item::SnapshotEnd,
            Self::Resync(change) => Item::Change(change),
        }
    }
}

/// A place in a mirror's sequence. Keeps the mirror alive.
pub(crate) struct Subscription<V> {
    mirror: Arc<Mirror<V>>,
    wakes: watch::Receiver<()>,
    /// What to deliver before looking at the ring.
    queued: VecDeque<(u64, Queued<V>)>,
    /// The last event delivered or covered by a snapshot; nothing before the first.
    sequence: Option<u64>,
    ended: bool,
}

impl<V: PartialEq + Weight + Send + Sync + 'static> Subscription<V> {
    /// Begins with a snapshot.
    pub(crate) fn new(mirror: Arc<Mirror<V>>) -> Self {
        let wakes = mirror.wakes.subscribe();
        Self { mirror, wakes, queued: VecDeque::new(), sequence: None, ended: false }
    }

    /// Continues after `last`, if the mirror still has everything since; else with a resync and a
    /// snapshot.
    pub(crate) fn resuming(mirror: Arc<Mirror<V>>, last: EventId) -> Self {
        let mut subscription = Self::new(mirror);
        if subscription.can_resume(last) {
            subscription.sequence = Some(last.sequence);
        } else {
            let reason = "the events since then are not kept any more";
            subscription.queued.push_back((0, Queued::resync(reason)));
        }
        subscription
    }

    /// The next item, of which `event` makes what is wanted; or the error with which the watch ended, or the
    /// end after that.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is lost when the future is dropped.
    pub(crate) async fn next<E>(
        &mut self,
        event: fn(Item<'_, V>) -> E,
    ) -> Option<Result<(EventId, E), Error>> {
        loop {
            if let Some((sequence, queued)) = self.queued.pop_front() {
                let id = EventId { epoch: self.mirror.epoch, sequence };
                return Some(Ok((id, event(queued.as_item()))));
            }
            if self.ended {
                return None;
            }
            let Some(delivered) = self.sequence else {
                if let Err(error) = self.mirror.filled().await {
                    self.ended = true;
                    return Some(Err(error));
                }
                self.queue_snapshot();
                continue;
            };
            // Asked first: what was published before the end is delivered.
            let over = self.mirror.ended.load(Ordering::Acquire);
            if let Some(next) = self.deliver(delivered, event) {
                return Some(Ok(next));
            }
            if !self.queued.is_empty() {
                continue;
            }
            // Fails only without a sender, and `self` holds the mirror with it.
            if over || self.wakes.changed().await.is_err() {
                self.ended = true;
                return self.mirror.end().map(Err);
            }
        }
    }

    /// What was published after `delivered`. When that is not kept any more, the subscriber starts over.
    fn deliver<E>(&mut self, delivered: u64, event: fn(Item<'_, V>) -> E) -> Option<(EventId, E)> {
        let Self { mirror, sequence, .. } = self;
        if mirror.newest.load(Ordering::Acquire) <= delivered {
            return None;
        }
        let epoch = mirror.epoch;
        let mut take = |published: &Published<V>| {
            *sequence = Some(published.sequence);
            let id = EventId { epoch, sequence: published.sequence };
            (id, event(Item::Change(&published.change)))
        };
        let latest = mirror.latest.load();
        if let Some(published) = latest.as_ref().filter(|latest| latest.sequence == delivered + 1) {
            return Some(take(published));
        }
        drop(latest);
        let after = mirror.ring().after(delivered);
        match after {
            After::Event(published) => Some(take(&published)),
            After::Gone(missed) => {
                self.start_over(missed);
                None
            }
            After::Nothing => None,
        }
    }

    fn start_over(&mut self, missed: u64) {
        let reason = format!("this subscriber fell {missed} events behind");
        self.queued.push_back((0, Queued::resync(reason)));
        self.queue_snapshot();
    }

    fn queue_snapshot(&mut self) {
        let state: Arc<State<V>> = self.mirror.state.load_full();
        let sequence = state.sequence;
        // Resumption from within a snapshot is not possible: its items carry no place.
        self.queued.push_back((0, Queued::SnapshotBegin));
        let mut entries: Vec<_> = state.entries.iter().collect();
        entries.sort_unstable_by(|left, right| left.0.cmp(right.0));
        for (_, value) in entries {
            self.queued.push_back((0, Queued::Snapshot(Arc::clone(value))));
        }
        self.queued.push_back((sequence, Queued::SnapshotEnd));
        self.sequence = Some(sequence);
    }

    /// Whether everything after `last` is still there.
    fn can_resume(&self, last: EventId) -> bool {
        let position = self.mirror.position();
        last.epoch == position.epoch
            && last.sequence > 0
            && last.sequence <= position.sequence
            && !matches!(self.mirror.ring().after(last.sequence), After::Gone(_))
    }
}
