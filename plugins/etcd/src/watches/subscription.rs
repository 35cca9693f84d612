//! One watch: which revision comes next, and who is told.

use super::Watches;
use crate::wire::layout::Range;
use crate::wire::messages::Event;
use futures::channel::oneshot;
use pintle_plugin_sdk::Error;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) range: Range,
    /// The first revision whose changes are wanted.
    pub(crate) start_revision: i64,
    /// Whether to say what was there before.
    pub(crate) prev_kv: bool,
}

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Changes, each once, in the order of their revisions; those of one revision come together.
    Events(Vec<Event>),
    /// Nothing is missing up to this revision.
    Progress(i64),
}

/// Why the server ended a watch.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Changes before this revision are gone, and some of them were not delivered.
    Compacted(i64),
    /// The store is at this revision, before what was delivered: it was restored from a copy.
    WentBack(i64),
    /// It refuses the watch; for good, unless the error can pass.
    Refused(Error),
}

impl End {
    /// What a reader is told, who gets a new snapshot now.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Compacted(oldest) => format!("changes before revision {oldest} are compacted"),
            Self::WentBack(revision) => {
                format!("the store went back to revision {revision}: was a copy restored?")
            }
            Self::Refused(error) => error.message().to_owned(),
        }
    }
}

/// The server's side of a watch.
pub(super) struct Watched {
    target: Target,
    next_revision: Cell<i64>,
    /// The last changes of an answer that goes on: more of the same revision may follow.
    held: RefCell<Vec<Event>>,
    notify: Box<dyn Fn(Notice)>,
    end: RefCell<Option<oneshot::Sender<End>>>,
}

/// The user's side of a watch. Dropping it closes the watch.
pub(crate) struct Subscription {
    id: i64,
    watches: Weak<Watches>,
    ended: oneshot::Receiver<End>,
}

pub(super) fn pair(
    id: i64,
    target: Target,
    notify: impl Fn(Notice) + 'static,
    watches: Weak<Watches>,
) -> (Rc<Watched>, Subscription) {
    let (end, ended) = oneshot::channel();
    let next_revision = Cell::new(target.start_revision);
    let watched = Watched {
        target,
        next_revision,
        held: RefCell::default(),
        notify: Box::new(notify),
        end: RefCell::new(Some(end)),
    };
    (Rc::new(watched), Subscription { id, watches, ended })
}

impl Subscription {
    #[cfg(test)]
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// Waits until the server ends the watch for good.
    pub(crate) async fn ended(&mut self) -> End {
        let lost = || End::Refused(Error::internal("a watch was dropped"));
        (&mut self.ended).await.unwrap_or_else(|_| lost())
    }

    /// Ends the watch from our side: nothing more is told.
    pub(crate) fn close(&self) {
        if let Some(watches) = self.watches.upgrade() {
            watches.close(self.id);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.close();
    }
}

impl Watched {
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The first revision that was not delivered.
    pub(super) fn next_revision(&self) -> i64 {
        self.next_revision.get()
    }

    /// Takes changes. `goes_on`: more of the same answer follows, perhaps of the last revision.
    pub(super) fn receive(&self, events: Vec<Event>, goes_on: bool) {
        let mut ready = self.held.take();
        // After an interruption within a revision that revision comes again from its beginning.
        ready.extend(events.into_iter().filter(|event| event.revision() >= self.next_revision()));
        let Some(last) = ready.last().map(Event::revision) else { return };
        if goes_on {
            let split = ready.partition_point(|event| event.revision() < last);
            self.held.replace(ready.split_off(split));
        }
        if let Some(last) = ready.last().map(Event::revision) {
            self.next_revision.set(last + 1);
            (self.notify)(Notice::Events(ready));
        }
    }

    /// Everything up to this revision was sent.
    pub(super) fn progress(&self, revision: i64) {
        if self.held.borrow().is_empty() && revision + 1 >= self.next_revision() {
            self.next_revision.set(revision + 1);
            (self.notify)(Notice::Progress(revision));
        }
    }

    /// The stream broke.
    pub(super) fn interrupted(&self) {
        self.held.take();
    }

    pub(super) fn ended(&self, end: End) {
        if let Some(told) = self.end.take() {
            // Who has dropped the watch need not know.
            let _ = told.send(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::KeyValue;

    fn event(revision: i64) -> Event {
        let kv = KeyValue { mod_revision: revision, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn watched(start_revision: i64) -> (Rc<Watched>, Subscription, Rc<RefCell<Vec<String>>>) {
        let told = Rc::new(RefCell::new(Vec::new()));
        let telling = Rc::clone(&told);
        let notify = move |notice| {
            telling.borrow_mut().push(match notice {
                Notice::Events(events) => {
                    format!("{:?}", events.iter().map(Event::revision).collect::<Vec<_>>())
                }
                Notice::Progress(revision) => format!("progress {revision}"),
            });
        };
        let range = Range::of_key(b"a".to_vec());
        let target = Target { range, start_revision, prev_kv: false };
        let (watched, subscription) = pair(1, target, notify, Weak::new());
        (watched, subscription, told)
    }

    #[test]
    fn a_revision_that_is_split_over_answers_is_delivered_whole() {
        let (watched, _subscription, told) = watched(5);
        watched.receive(vec![event(5), event(6), event(6)], true);
        watched.receive(vec![event(6), event(7)], true);
        assert_eq!(watched.next_revision(), 7);
        watched.receive(vec![event(7)], false);
        assert_eq!(*told.borrow(), ["[5]", "[6, 6, 6]", "[7, 7]"]);
    }

    #[test]
    fn what_was_interrupted_within_a_revision_comes_again_once() {
        let (watched, _subscription, told) = watched(5);
        watched.receive(vec![event(5), event(6)], true);
        watched.interrupted();
        assert_eq!(watched.next_revision(), 6);
        watched.receive(vec![event(5), event(6), event(6)], false);
        assert_eq!(*told.borrow(), ["[5]", "[6, 6]"]);
    }

    #[test]
    fn progress_moves_the_bookmark_and_never_back() {
        let (watched, _subscription, told) = watched(5);
        watched.progress(9);
        assert_eq!(watched.next_revision(), 10);
        watched.progress(3);
        assert_eq!(watched.next_revision(), 10);
        assert_eq!(*told.borrow(), ["progress 9"]);
    }

    #[test]
    fn nothing_is_proved_in_the_middle_of_an_answer() {
        let (watched, _subscription, told) = watched(5);
        watched.receive(vec![event(5)], true);
        watched.progress(9);
        assert!(told.borrow().is_empty());
    }
}
