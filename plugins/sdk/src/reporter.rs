//! What a plugin says of a lease or registration that it keeps.

use crate::handles::{Slots, forget};
use crate::outbox::{CHANNEL_EVENTS_MAX, Channel, Weight};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// Carries reports to the host, none before the host knows the handle, none after the last.
pub(crate) struct Reporter<E> {
    inner: Rc<Inner<E>>,
}

impl<E> Clone for Reporter<E> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<E> {
    channel: Rc<Channel<E>>,
    id: u64,
    slots: Weak<Slots>,
    state: RefCell<State<E>>,
}

enum State<E> {
    /// The host does not know the handle yet; reports wait.
    Opening(Vec<E>),
    Reporting,
    Over,
}

impl<E: Weight + 'static> Reporter<E> {
    pub(crate) fn new(channel: Rc<Channel<E>>, id: u64, slots: Weak<Slots>) -> Self {
        let state = RefCell::new(State::Opening(Vec::new()));
        Self { inner: Rc::new(Inner { channel, id, slots, state }) }
    }

    /// The host knows the handle now.
    pub(crate) fn begin(&self) {
        let mut state = self.inner.state.borrow_mut();
        if let State::Opening(waiting) = &mut *state {
            let waiting = std::mem::take(waiting);
            *state = State::Reporting;
            for event in waiting {
                self.inner.channel.push(event);
            }
        }
    }

    /// Reports; a report at the end of the queue that is `superseded` by this one is taken back.
    pub(crate) fn report(&self, event: E, superseded: impl Fn(&E) -> bool) {
        match &mut *self.inner.state.borrow_mut() {
            State::Opening(waiting) => {
                waiting.retain(|earlier| !superseded(earlier));
                waiting.push(event);
            }
            State::Reporting => {
                let channel = &self.inner.channel;
                channel.retract_last(superseded);
                if channel.len() >= CHANNEL_EVENTS_MAX {
                    channel.retract(|_| true);
                }
                channel.push(event);
            }
            State::Over => {}
        }
    }

    /// Reports for the last time; nothing if that was done.
    pub(crate) fn finish(&self, event: E) {
        let mut state = self.inner.state.borrow_mut();
        let before = std::mem::replace(&mut *state, State::Over);
        drop(state);
        if matches!(before, State::Over) {
            return;
        }
        if matches!(before, State::Reporting) {
            self.inner.channel.finish(event);
        }
        forget(&self.inner.slots, self.inner.id);
        self.inner.channel.notify();
    }

    /// Whether nobody wants reports any more: lost, released or closed.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.inner.state.borrow(), State::Over) || self.inner.channel.is_closed()
    }

    /// Waits until nobody wants reports any more.
    pub(crate) async fn over(&self) {
        self.inner.channel.wait(|| self.is_over().then_some(())).await;
    }
}
