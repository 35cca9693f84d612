//! Waking those who wait for some state to change.

use futures::channel::oneshot;
use std::cell::{Cell, RefCell};

/// Wakes all who wait, once each. One thread, so nothing happens between reading a condition and
/// waiting for it.
#[derive(Default)]
pub(crate) struct Signal {
    waiting: RefCell<Vec<oneshot::Sender<()>>>,
    /// When so many wait, look who is still there.
    tidy_at: Cell<usize>,
}

impl Signal {
    /// Wakes all who wait; call it after the state has changed.
    pub(crate) fn notify(&self) {
        for waiting in std::mem::take(&mut *self.waiting.borrow_mut()) {
            // Whoever has stopped waiting needs no waking.
            let _ = waiting.send(());
        }
    }

    /// Waits for the next [`notify`](Self::notify).
    pub(crate) async fn next(&self) {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() >= self.tidy_at.get() {
                waiting.retain(|sender| !sender.is_canceled());
                self.tidy_at.set(16.max(2 * waiting.len()));
            }
            waiting.push(sender);
        }
        // Dropped together with whatever would have notified: as good as a change.
        let _ = receiver.await;
    }
}
