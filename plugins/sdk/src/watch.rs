//! The rules of a watch, kept for whoever produces its events.
//!
//! A watch delivers a snapshot, then changes; after a gap `resync` and a whole new snapshot; at most
//! one `ended`, as the last event. [`Feed`] is the state machine behind the typed sinks of `config`
//! and `registry`: an order that the host must not see cannot be produced with it.

use crate::Error;
use crate::outbox::{Channel, Weight};
use std::cell::RefCell;
use std::rc::Rc;

/// What the events of a capability look like.
pub(crate) trait WatchEvent: Weight + 'static {
    /// What a snapshot's end and a progress notice say.
    type Position;

    fn snapshot_begin() -> Self;
    fn snapshot_end(position: Self::Position) -> Self;
    fn resync(reason: String) -> Self;
    fn progress(position: Self::Position) -> Self;
    fn ended(error: Error) -> Self;
    fn is_progress(&self) -> bool;
}

/// One watch, seen from its producer. Cheap to clone; when the last clone goes and the watch is
/// neither closed nor ended, the host is told that it ended.
pub(crate) struct Feed<E: WatchEvent> {
    inner: Rc<Inner<E>>,
}

impl<E: WatchEvent> Clone for Feed<E> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<E: WatchEvent> {
    channel: Rc<Channel<E>>,
    state: RefCell<State<E>>,
}

struct State<E> {
    phase: Phase,
    /// Changes that came while a snapshot was being sent; they follow its end.
    held: Vec<E>,
    held_bytes: usize,
    /// Names the snapshot that is being sent, so that an older one cannot meddle.
    generation: u64,
    /// A change could not be kept, so the view is not whole.
    overflowed: bool,
    /// It opened from a version, so that a `resync` may be its very first event.
    from_version: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was delivered: a snapshot comes first.
    Opening,
    /// Between `snapshot-begin` and `snapshot-end`.
    Snapshot,
    /// Changes pass.
    Live,
    /// `resync` was delivered: a snapshot comes next.
    Resync,
    /// `ended` was delivered.
    Ended,
}

impl<E: WatchEvent> Feed<E> {
    /// `live`: the watch opens from a version, without a snapshot.
    pub(crate) fn new(channel: Rc<Channel<E>>, live: bool) -> Self {
        let phase = if live { Phase::Live } else { Phase::Opening };
        let state = State {
            phase,
            held: Vec::new(),
            held_bytes: 0,
            generation: 0,
            overflowed: false,
            from_version: live,
        };
        Self { inner: Rc::new(Inner { channel, state: RefCell::new(state) }) }
    }

    /// Passes a change on. While a snapshot is wanted it is dropped: the snapshot will show it.
    pub(crate) fn change(&self, event: E) {
        let mut state = self.inner.state.borrow_mut();
        let channel = &self.inner.channel;
        match state.phase {
            Phase::Opening | Phase::Resync | Phase::Ended => {}
            Phase::Snapshot => state.hold(event),
            Phase::Live if channel.fits(event.weight()) => channel.push(event),
            Phase::Live => {
                self.collapse(&mut state, "more changes came than the reader of this watch took");
            }
        }
    }

    /// Passes a change on when the reader has taken enough of those before.
    pub(crate) async fn change_in_turn(&self, event: E) {
        self.room(event.weight()).await;
        self.change(event);
    }

    /// Passes proof that nothing is missing; only the newest waits in the queue.
    pub(crate) fn progress(&self, position: E::Position) {
        if self.inner.state.borrow().phase == Phase::Live {
            self.inner.channel.retract(E::is_progress);
            self.inner.channel.push(E::progress(position));
        }
    }

    /// Tells of a gap; a new snapshot has to follow.
    pub(crate) fn resync(&self, reason: &str) {
        let mut state = self.inner.state.borrow_mut();
        match state.phase {
            Phase::Opening | Phase::Resync | Phase::Ended => {}
            Phase::Snapshot | Phase::Live => self.collapse(&mut state, reason),
        }
    }

    /// What waits is out of date now: `resync` takes its place, unless the reader has nothing yet.
    fn collapse(&self, state: &mut State<E>, reason: &str) {
        let channel = &self.inner.channel;
        state.forget_held();
        channel.retract(|_| true);
        if channel.has_delivered() || state.from_version {
            state.phase = Phase::Resync;
            channel.push(E::resync(reason.to_owned()));
        } else {
            state.phase = Phase::Opening;
        }
        channel.notify();
    }

    /// Ends the watch for good.
    pub(crate) fn end(&self, error: Error) {
        self.inner.end(error);
    }

    /// Begins a snapshot. If the reader already had one, it is told `resync` first.
    pub(crate) fn snapshot(&self) -> Snapshot<E> {
        self.resync("the watch starts over");
        let mut state = self.inner.state.borrow_mut();
        state.generation += 1;
        let generation = state.generation;
        if state.phase != Phase::Ended {
            state.phase = Phase::Snapshot;
            state.overflowed = false;
            self.inner.channel.push(E::snapshot_begin());
        }
        drop(state);
        Snapshot { feed: self.clone(), generation, done: false }
    }

    pub(crate) fn wants_snapshot(&self) -> bool {
        matches!(self.inner.state.borrow().phase, Phase::Opening | Phase::Resync)
    }

    /// Waits until a snapshot has to be sent.
    pub(crate) async fn snapshot_wanted(&self) {
        self.inner.channel.wait(|| self.wants_snapshot().then_some(())).await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.channel.is_closed()
    }

    /// Waits until the host has closed the watch, or it has ended.
    pub(crate) async fn closed(&self) {
        self.inner.channel.wait(|| self.is_closed().then_some(())).await;
    }

    /// Waits until an event of this weight fits.
    async fn room(&self, weight: usize) {
        let channel = &self.inner.channel;
        channel.wait(|| (channel.is_closed() || channel.fits(weight)).then_some(())).await;
    }
}

impl<E: WatchEvent> Inner<E> {
    fn end(&self, error: Error) {
        let mut state = self.state.borrow_mut();
        if state.phase != Phase::Ended {
            state.phase = Phase::Ended;
            state.forget_held();
            self.channel.finish(E::ended(error));
        }
    }
}

impl<E: WatchEvent> Drop for Inner<E> {
    fn drop(&mut self) {
        if !self.channel.is_closed() {
            self.end(Error::internal("the plugin stopped feeding this watch"));
        }
    }
}

impl<E: Weight> State<E> {
    fn hold(&mut self, event: E) {
        use crate::outbox::{CHANNEL_BYTES_MAX, CHANNEL_EVENTS_MAX};
        let weight = event.weight();
        let full = self.held.len() >= CHANNEL_EVENTS_MAX
            || (!self.held.is_empty() && self.held_bytes + weight > CHANNEL_BYTES_MAX);
        if self.overflowed || full {
            self.overflowed = true;
            self.forget_held();
        } else {
            self.held_bytes += weight;
            self.held.push(event);
        }
    }

    fn forget_held(&mut self) {
        self.held = Vec::new();
        self.held_bytes = 0;
    }
}

/// A snapshot that is being sent. Dropping it before [`end`](Self::end) is a gap.
pub(crate) struct Snapshot<E: WatchEvent> {
    feed: Feed<E>,
    generation: u64,
    done: bool,
}

impl<E: WatchEvent> Snapshot<E> {
    /// Adds what is there; waits while the reader is behind.
    pub(crate) async fn add(&mut self, event: E) {
        self.feed.room(event.weight()).await;
        if self.is_current() {
            self.feed.inner.channel.push(event);
        }
    }

    /// Ends the snapshot; changes that came meanwhile follow.
    pub(crate) fn end(mut self, position: E::Position) {
        self.done = true;
        if !self.is_current() {
            return;
        }
        let mut state = self.feed.inner.state.borrow_mut();
        self.feed.inner.channel.push(E::snapshot_end(position));
        state.phase = Phase::Live;
        let held = std::mem::take(&mut state.held);
        state.forget_held();
        let overflowed = state.overflowed;
        drop(state);
        for event in held {
            self.feed.change(event);
        }
        if overflowed {
            self.feed.gap_after_snapshot();
        }
    }

    fn is_current(&self) -> bool {
        let state = self.feed.inner.state.borrow();
        state.phase == Phase::Snapshot && state.generation == self.generation
    }
}

impl<E: WatchEvent> Feed<E> {
    /// The snapshot stands, but changes after it were lost: it is delivered, and then `resync`.
    fn gap_after_snapshot(&self) {
        let mut state = self.inner.state.borrow_mut();
        if state.phase == Phase::Live {
            state.phase = Phase::Resync;
            let reason = "more changes came than could be kept while the snapshot was sent";
            self.inner.channel.push(E::resync(reason.to_owned()));
            self.inner.channel.notify();
        }
    }
}

impl<E: WatchEvent> Drop for Snapshot<E> {
    fn drop(&mut self) {
        if !self.done && self.is_current() {
            self.feed.resync("the snapshot could not be finished");
        }
    }
}

#[cfg(test)]
mod tests;
