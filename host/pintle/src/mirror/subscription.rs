//! One subscriber of a mirror.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
};

use tokio::sync::broadcast::{self, error::RecvError};

use super::{Change, Mirror, Published, State};
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
    events: broadcast::Receiver<Arc<Published<V>>>,
    /// What to deliver before looking at `events`.
    queued: VecDeque<(u64, Item<V>)>,
    /// The last event delivered or covered by a snapshot; nothing before the first.
    sequence: Option<u64>,
    ended: bool,
}

impl<V: PartialEq + Send + Sync + 'static> Subscription<V> {
    /// Begins with a snapshot.
    pub(crate) fn new(mirror: Arc<Mirror<V>>) -> Self {
        let events = mirror.events.subscribe();
        Self { mirror, events, queued: VecDeque::new(), sequence: None, ended: false }
    }

    /// Continues after `last`, if the mirror still has everything since; else with a resync and a
    /// snapshot.
    pub(crate) fn resuming(mirror: Arc<Mirror<V>>, last: EventId) -> Self {
        let mut subscription = Self::new(mirror);
        match subscription.missed_since(last) {
            Some(missed) => {
                subscription.sequence = Some(last.sequence);
                for published in missed {
                    subscription.sequence = Some(published.sequence);
                    let item = Item::Change(published.change.clone());
                    subscription.queued.push_back((published.sequence, item));
                }
            }
            None => {
                let reason: Arc<str> = "the events since then are not kept any more".into();
                subscription.queued.push_back((0, Item::Change(Change::Resync(reason))));
            }
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
            let mut phase = self.mirror.phase.subscribe();
            let received = tokio::select! {
                biased;
                received = self.events.recv() => received,
                _ = phase.wait_for(|phase| matches!(phase, super::Phase::Ended(_))) => {
                    self.ended = true;
                    return self.mirror.end().map(Err);
                }
            };
            match received {
                Ok(published) if published.sequence <= delivered => {}
                Ok(published) => {
                    self.sequence = Some(published.sequence);
                    let item = Item::Change(published.change.clone());
                    self.queued.push_back((published.sequence, item));
                }
                Err(RecvError::Lagged(missed)) => self.start_over(missed),
                // The mirror is held by `self`, and its sender with it.
                Err(RecvError::Closed) => self.ended = true,
            }
        }
    }

    fn start_over(&mut self, missed: u64) {
        let reason = format!("this subscriber fell {missed} events behind");
        self.queued.push_back((0, Item::Change(Change::Resync(reason.into()))));
        // What is still in the ring is older than the snapshot.
        self.events = self.events.resubscribe();
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

    fn missed_since(&self, last: EventId) -> Option<Vec<Arc<Published<V>>>> {
        let position = self.mirror.position();
        if last.epoch != position.epoch || last.sequence > position.sequence || last.sequence == 0 {
            return None;
        }
        let writer = self.mirror.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let missed: Vec<_> =
            writer.ring.iter().filter(|event| event.sequence > last.sequence).cloned().collect();
        let now = self.mirror.position().sequence;
        let complete = u64::try_from(missed.len()).ok()? == now - last.sequence;
        complete.then_some(missed)
    }
}
