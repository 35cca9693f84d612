//! One subscriber of a mirror.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use super::{After, Change, Mirror, Newest, Published, State, Weight};
use crate::{config::EventId, error::Error};

/// What a subscriber sees next.
#[derive(Debug, Clone)]
pub(crate) enum Item<V> {
    SnapshotBegin,
    Snapshot(Arc<V>),
    SnapshotEnd,
    Change(Change<V>),
}

/// A place in a mirror's sequence. Keeps the mirror alive.
pub(crate) struct Subscription<V> {
    mirror: Arc<Mirror<V>>,
    newest: watch::Receiver<Newest>,
    /// What to deliver before looking at the ring.
    queued: VecDeque<(u64, Item<V>)>,
    /// The last event delivered or covered by a snapshot; nothing before the first.
    sequence: Option<u64>,
    ended: bool,
}

impl<V: PartialEq + Weight + Send + Sync + 'static> Subscription<V> {
    /// Begins with a snapshot.
    pub(crate) fn new(mirror: Arc<Mirror<V>>) -> Self {
        let newest = mirror.newest.subscribe();
        Self { mirror, newest, queued: VecDeque::new(), sequence: None, ended: false }
    }

    /// Continues after `last`, if the mirror still has everything since; else with a resync and a
    /// snapshot.
    pub(crate) fn resuming(mirror: Arc<Mirror<V>>, last: EventId) -> Self {
        let mut subscription = Self::new(mirror);
        if subscription.can_resume(last) {
            subscription.sequence = Some(last.sequence);
        } else {
            let reason: Arc<str> = "the events since then are not kept any more".into();
            subscription.queued.push_back((0, Item::Change(Change::Resync(reason))));
        }
        subscription
    }

    /// The next item, or the error with which the watch ended, or the end after that.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Result<(EventId, Item<V>), Error>> {
        loop {
            if let Some((sequence, item)) = self.queued.pop_front() {
                let id = EventId { epoch: self.mirror.epoch, sequence };
                return Some(Ok((id, item)));
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
            let after = self.mirror.ring().after(delivered);
            match after {
                After::Event(published) => self.queue(&published),
                After::Gone(missed) => self.start_over(missed),
                After::Nothing => {
                    let next = |newest: &Newest| newest.sequence > delivered || newest.ended;
                    // Fails only without a sender, and `self` holds the mirror with it.
                    let over = match self.newest.wait_for(next).await {
                        Ok(newest) => newest.sequence <= delivered,
                        Err(_) => true,
                    };
                    if over {
                        self.ended = true;
                        return self.mirror.end().map(Err);
                    }
                }
            }
        }
    }

    fn queue(&mut self, published: &Published<V>) {
        self.sequence = Some(published.sequence);
        self.queued.push_back((published.sequence, Item::Change(published.change.clone())));
    }

    fn start_over(&mut self, missed: u64) {
        let reason = format!("this subscriber fell {missed} events behind");
        self.queued.push_back((0, Item::Change(Change::Resync(reason.into()))));
        self.queue_snapshot();
    }

    fn queue_snapshot(&mut self) {
        let state: Arc<State<V>> = self.mirror.state.load_full();
        let sequence = state.sequence;
        // Resumption from within a snapshot is not possible: its items carry no place.
        self.queued.push_back((0, Item::SnapshotBegin));
        let mut entries: Vec<_> = state.entries.iter().collect();
        entries.sort_unstable_by(|left, right| left.0.cmp(right.0));
        for (_, value) in entries {
            self.queued.push_back((0, Item::Snapshot(Arc::clone(value))));
        }
        self.queued.push_back((sequence, Item::SnapshotEnd));
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
