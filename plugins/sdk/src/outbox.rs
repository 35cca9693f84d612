//! Events on their way to the host: one bounded channel per handle, one outbox per capability.

use crate::signal::Signal;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Most events that wait for the host in one channel.
pub(crate) const CHANNEL_EVENTS_MAX: usize = 1_024;
/// Most bytes that wait for the host in one channel; a single larger event passes alone.
pub(crate) const CHANNEL_BYTES_MAX: usize = 1 << 20;
/// Most bytes that wait in all channels of a capability: many slow watches together.
pub(crate) const OUTBOX_BYTES_MAX: usize = 8 << 20;
/// Most bytes in one answer to `poll`, far below what the host lets pass in one call.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How many bytes an event takes, roughly.
pub(crate) trait Weight {
    fn weight(&self) -> usize;
}

/// All channels of one capability.
pub(crate) struct Outbox<E> {
    shared: Rc<Shared<E>>,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        let shared = Shared {
            channels: RefCell::default(),
            ready: RefCell::default(),
            arrived: Signal::default(),
            bytes: Cell::new(0),
        };
        Self { shared: Rc::new(shared) }
    }
}

struct Shared<E> {
    channels: RefCell<HashMap<u64, Rc<Channel<E>>>>,
    /// Channels with events, each once, in the order in which they get their turn.
    ready: RefCell<VecDeque<Rc<Channel<E>>>>,
    arrived: Signal,
    bytes: Cell<usize>,
}

impl<E: Weight + 'static> Outbox<E> {
    /// Opens a channel, unless the id is in use.
    pub(crate) fn open(&self, id: u64) -> Option<Rc<Channel<E>>> {
        let mut channels = self.shared.channels.borrow_mut();
        if channels.contains_key(&id) {
            return None;
        }
        let channel = Rc::new(Channel {
            id,
            shared: Rc::clone(&self.shared),
            queue: RefCell::default(),
            changed: Signal::default(),
        });
        channels.insert(id, Rc::clone(&channel));
        Some(channel)
    }

    /// Closes a channel from the host's side: what waits in it is gone. Idempotent.
    pub(crate) fn close(&self, id: u64) {
        let channel = self.shared.channels.borrow_mut().remove(&id);
        if let Some(channel) = channel {
            channel.close();
        }
    }

    pub(crate) fn close_all(&self) {
        let channels = std::mem::take(&mut *self.shared.channels.borrow_mut());
        for channel in channels.into_values() {
            channel.close();
        }
    }

    /// Waits until there is an event.
    pub(crate) async fn arrived(&self) {
        let shared = &self.shared;
        shared.arrived.wait(|| (!shared.ready.borrow().is_empty()).then_some(())).await;
    }

    /// Takes what waits, one event of each channel in turn.
    pub(crate) fn take(&self, events_max: usize) -> Vec<(u64, E)> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < events_max && bytes < BATCH_BYTES_MAX {
            let Some(channel) = self.shared.ready.borrow_mut().pop_front() else { break };
            let Some((event, weight)) = channel.pop() else { continue };
            bytes += weight;
            batch.push((channel.id, event));
            if !channel.is_empty() {
                self.shared.ready.borrow_mut().push_back(channel);
            }
        }
        batch
    }
}

/// Events of one handle.
pub(crate) struct Channel<E> {
    id: u64,
    shared: Rc<Shared<E>>,
    queue: RefCell<Queue<E>>,
    changed: Signal,
}

struct Queue<E> {
    events: VecDeque<(E, usize)>,
    bytes: usize,
    stage: Stage,
    delivered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The last event is queued; the id is free when the host has taken it.
    Finished,
    /// The host does not want more.
    Closed,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { events: VecDeque::new(), bytes: 0, stage: Stage::Open, delivered: false }
    }
}

impl<E: Weight> Channel<E> {
    /// Whether an event of this weight fits.
    pub(crate) fn fits(&self, weight: usize) -> bool {
        let queue = self.queue.borrow();
        queue.events.is_empty()
            || (queue.events.len() < CHANNEL_EVENTS_MAX
                && queue.bytes + weight <= CHANNEL_BYTES_MAX
                && self.shared.bytes.get() + weight <= OUTBOX_BYTES_MAX)
    }

    /// Queues an event whatever the limits say; nothing once the channel is closed.
    pub(crate) fn push(self: &Rc<Self>, event: E) {
        let mut queue = self.queue.borrow_mut();
        if queue.stage != Stage::Open {
            return;
        }
        let weight = event.weight();
        let first = queue.events.is_empty();
        queue.events.push_back((event, weight));
        queue.bytes += weight;
        self.shared.bytes.set(self.shared.bytes.get() + weight);
        drop(queue);
        if first {
            self.shared.ready.borrow_mut().push_back(Rc::clone(self));
        }
        self.shared.arrived.notify();
    }

    /// Takes back what waits and is `superseded`.
    pub(crate) fn retract(&self, superseded: impl Fn(&E) -> bool) {
        let mut freed = 0;
        self.queue.borrow_mut().events.retain(|(event, weight)| {
            let gone = superseded(event);
            freed += if gone { *weight } else { 0 };
            !gone
        });
        self.free(freed);
    }

    /// Takes back the newest event if it is `superseded`.
    pub(crate) fn retract_last(&self, superseded: impl Fn(&E) -> bool) {
        let last = self.queue.borrow_mut().events.pop_back_if(|(event, _)| superseded(event));
        if let Some((_, weight)) = last {
            self.free(weight);
        }
    }

    /// Keeps the books after events were taken back.
    fn free(&self, bytes: usize) {
        self.queue.borrow_mut().bytes -= bytes;
        self.shared.bytes.set(self.shared.bytes.get() - bytes);
        if self.is_empty() {
            self.shared.ready.borrow_mut().retain(|ready| !std::ptr::eq(&raw const **ready, self));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.borrow().events.len()
    }

    /// Resolves with what `condition` answers; asked again whenever something is taken or closed.
    pub(crate) async fn wait<T>(&self, condition: impl FnMut() -> Option<T>) -> T {
        self.changed.wait(condition).await
    }

    pub(crate) fn notify(&self) {
        self.changed.notify();
    }

    /// Whether the host has taken any event.
    pub(crate) fn has_delivered(&self) -> bool {
        self.queue.borrow().delivered
    }

    /// Whether nothing can be queued any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.borrow().stage != Stage::Open
    }

    /// Queues the last event; its id is free once the host has taken it.
    pub(crate) fn finish(self: &Rc<Self>, event: E) {
        self.push(event);
        let mut queue = self.queue.borrow_mut();
        if queue.stage == Stage::Open {
            queue.stage = Stage::Finished;
        }
        drop(queue);
        self.changed.notify();
    }

    fn is_empty(&self) -> bool {
        self.queue.borrow().events.is_empty()
    }

    fn pop(&self) -> Option<(E, usize)> {
        let mut queue = self.queue.borrow_mut();
        let (event, weight) = queue.events.pop_front()?;
        queue.bytes -= weight;
        queue.delivered = true;
        let over = queue.stage == Stage::Finished && queue.events.is_empty();
        drop(queue);
        self.shared.bytes.set(self.shared.bytes.get() - weight);
        if over {
            self.shared.channels.borrow_mut().remove(&self.id);
        }
        self.changed.notify();
        Some((event, weight))
    }

    fn close(&self) {
        self.queue.borrow_mut().stage = Stage::Closed;
        self.retract(|_| true);
        self.changed.notify();
    }
}

#[cfg(test)]
mod tests;
