//! Changes on their way to a reader, at the reader's pace.
//!
//! The server sends as fast as it can. What waits here is bounded: when it is too much the watch is
//! closed, and opened again behind the last change once the reader has taken what waits. Nothing is
//! missed by that as long as it is not compacted.

use crate::watches::{End, Notice, Subscription, Target, Watches};
use crate::wire::messages::{Event, KeyValue};
use futures::channel::mpsc;
use futures::stream::StreamExt;
use std::cell::Cell;
use std::rc::Rc;

/// Bytes of changes that may wait for a reader; a single larger answer of the server passes alone.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// One watch on the server.
pub(super) struct Changes {
    subscription: Subscription,
    notices: mpsc::UnboundedReceiver<Notice>,
    waiting: Rc<Waiting>,
    /// The first revision that the reader was not given.
    next_revision: i64,
}

#[derive(Default)]
struct Waiting {
    bytes: Cell<usize>,
    /// No more is taken.
    full: Cell<bool>,
}

/// What comes next.
pub(super) enum Next {
    Notice(Notice),
    /// The reader was behind and has taken all that waited; the watch goes on at this revision.
    GoOnAt(i64),
    Ended(End),
}

impl Changes {
    pub(super) fn open(watches: &Rc<Watches>, target: Target) -> Self {
        let (sender, notices) = mpsc::unbounded();
        let waiting = Rc::new(Waiting::default());
        let next_revision = target.start_revision;
        let filling = Rc::clone(&waiting);
        let subscription = watches.open(target, move |notice| {
            if filling.take(weight(&notice)) {
                // A reader that has gone takes nothing.
                let _ = sender.unbounded_send(notice);
            }
        });
        Self { subscription, notices, waiting, next_revision }
    }

    pub(super) async fn next(&mut self) -> Next {
        if self.waiting.full.get() {
            // The server is not to send what cannot be kept.
            self.subscription.close();
        }
        let Some(notice) = self.notices.next().await else {
            if self.waiting.full.get() {
                return Next::GoOnAt(self.next_revision);
            }
            return Next::Ended(self.subscription.ended().await);
        };
        self.waiting.bytes.set(self.waiting.bytes.get() - weight(&notice));
        let through = match &notice {
            Notice::Events(events) => events.last().map_or(0, Event::revision),
            Notice::Progress(revision) => *revision,
        };
        self.next_revision = self.next_revision.max(through + 1);
        Next::Notice(notice)
    }
}

impl Waiting {
    /// Makes room for one more. Answers false when there is none.
    fn take(&self, bytes: usize) -> bool {
        if self.full.get() {
            return false;
        }
        self.bytes.set(self.bytes.get() + bytes);
        self.full.set(self.bytes.get() > WAITING_BYTES_MAX);
        true
    }
}

fn weight(notice: &Notice) -> usize {
    let Notice::Events(events) = notice else { return size_of::<Notice>() };
    let of_kv = |kv: &Option<KeyValue>| {
        kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len() + size_of::<KeyValue>())
    };
    events.iter().map(|event| of_kv(&event.kv) + of_kv(&event.prev_kv)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_a_large_answer_passes_alone() {
        let waiting = Waiting::default();
        assert!(waiting.take(WAITING_BYTES_MAX));
        assert!(waiting.take(WAITING_BYTES_MAX), "one that does not fit is still taken");
        assert!(!waiting.take(1));
    }

    #[test]
    fn a_notice_weighs_what_it_carries() {
        let kv = KeyValue { value: vec![0; 1_000], ..KeyValue::default() };
        let event = Event { kv: Some(kv.clone()), prev_kv: Some(kv), ..Event::default() };
        assert!(weight(&Notice::Events(vec![event])) > 2_000);
        assert!(weight(&Notice::Progress(1)) > 0);
    }
}
