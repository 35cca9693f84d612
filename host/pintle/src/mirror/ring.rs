//! The newest changes of a mirror: what subscribers follow, and what a watch can resume over.

use std::{collections::VecDeque, sync::Arc};

use super::{Change, Published};

/// How many changes a subscriber may fall behind, and a resuming one may have missed.
const LEN_MAX: usize = 1024;
/// Bytes of these changes; the newest is kept whatever its size.
const BYTES_MAX: usize = 8 << 20;

/// What a thing takes beside its own bytes, roughly: its place in a table, counters of its owners,
/// and what the allocator adds. A flood of small things is not free.
pub(crate) const OVERHEAD_BYTES: usize = 64;

/// A value whose size counts.
pub(crate) trait Weight {
    /// Bytes that it takes, roughly: with everything that belongs to it.
    fn bytes(&self) -> usize;
}

pub(super) struct Ring<V> {
    /// One for each number of the sequence, without a gap, up to `newest`.
    events: VecDeque<(Arc<Published<V>>, usize)>,
    bytes: usize,
    newest: u64,
}

/// What comes after a place in the sequence.
pub(super) enum After<V> {
    Event(Arc<Published<V>>),
    /// Nothing, yet.
    Nothing,
    /// Something that is not kept any more: so many changes were missed.
    Gone(u64),
}

impl<V> Default for Ring<V> {
    fn default() -> Self {
        Self { events: VecDeque::new(), bytes: 0, newest: 0 }
    }
}

impl<V: Weight> Ring<V> {
    /// Adds the change that follows the newest.
    pub(super) fn push(&mut self, event: Arc<Published<V>>) {
        let bytes = bytes_of(&event.change);
        self.newest = event.sequence;
        self.bytes += bytes;
        self.events.push_back((event, bytes));
        while self.events.len() > LEN_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            let Some((_, bytes)) = self.events.pop_front() else { return };
            self.bytes -= bytes;
        }
    }

    /// Goes on at `sequence`, with nothing that leads there.
    pub(super) fn jump(&mut self, sequence: u64) {
        *self = Self { newest: sequence, ..Self::default() };
    }

    /// The change after number `sequence`.
    pub(super) fn after(&self, sequence: u64) -> After<V> {
        let Some(missed) = self.newest.checked_sub(sequence).filter(|missed| *missed > 0) else {
            return After::Nothing;
        };
        let from_end = usize::try_from(missed).unwrap_or(usize::MAX);
        let index = self.events.len().checked_sub(from_end);
        match index.and_then(|index| self.events.get(index)) {
            Some((event, _)) => After::Event(Arc::clone(event)),
            None => After::Gone(missed),
        }
    }
}

fn bytes_of<V: Weight>(change: &Change<V>) -> usize {
    let previous = |value: &Option<Arc<V>>| value.as_deref().map_or(0, Weight::bytes);
    let texts = match change {
        Change::Put { key, value, previous: replaced } => {
            key.len() + value.bytes() + previous(replaced)
        }
        Change::Removed { key, version, previous: removed } => {
            key.len() + version.as_ref().map_or(0, |version| version.len()) + previous(removed)
        }
        Change::Resync(reason) => reason.len(),
    };
    size_of::<Published<V>>() + OVERHEAD_BYTES + texts
}
