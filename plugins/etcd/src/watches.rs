//! Watches on the server: many over few streams, each going on where it was when a stream breaks.
//!
//! New watches share one stream. When it breaks, all that it carried go on over a second one: the
//! server answers a question for progress only when it has caught up with *every* watch of a stream
//! (etcd issue 20242), and new watches must not wait for old ones that catch up.

mod stream;
mod subscription;

pub(crate) use subscription::{End, Notice, Subscription, Target};

use crate::client::{Client, Counters};
use crate::error::{Failure, Remedy, is_passing};
use crate::wire::messages::{
    WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchRequestUnion, WatchResponse,
};
use futures::channel::mpsc;
use pintle_plugin_sdk::{Error, spawn};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use stream::Stream;
use subscription::Watched;

/// A watch that begins more revisions than this behind the present has to catch up.
const BEHIND_MAX: i64 = 1_000;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Watches that begin at the present.
    Live,
    /// Watches that catch up: after a broken stream, or from an older revision.
    Bulk,
}

/// All watches of this incarnation.
pub(crate) struct Watches {
    client: Rc<Client>,
    next_id: Cell<i64>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    watched: BTreeMap<i64, Rc<Watched>>,
    streams: BTreeMap<Role, Carried>,
}

/// What one stream carries.
struct Carried {
    ids: BTreeSet<i64>,
    /// Into the open stream; none while it is being opened.
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    /// Watches whose creation has not been answered, in the order in which it was asked for.
    creating: VecDeque<i64>,
}

/// What an answer means for the stream that it came over.
enum Verdict {
    Fine,
    /// The stream has to be opened again.
    Broken(Failure),
}

impl Watches {
    pub(crate) fn new(client: Rc<Client>) -> Rc<Self> {
        Rc::new(Self { client, next_id: Cell::new(1), state: RefCell::default() })
    }

    /// Opens a watch. It goes on until it is dropped, or the server ends it for good; `notify` is
    /// told everything in order, and must not wait.
    pub(crate) fn open(
        self: &Rc<Self>,
        target: Target,
        notify: impl Fn(Notice) + 'static,
    ) -> Subscription {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let behind = self.client.revision_seen() - target.start_revision;
        let role = if behind > BEHIND_MAX { Role::Bulk } else { Role::Live };
        let (watched, subscription) = subscription::pair(id, target, notify, Rc::downgrade(self));
        self.state.borrow_mut().watched.insert(id, watched);
        self.carry(role, BTreeSet::from([id]));
        subscription
    }

    /// Puts watches onto a stream, which is opened when there is none.
    fn carry(self: &Rc<Self>, role: Role, ids: BTreeSet<i64>) {
        let mut state = self.state.borrow_mut();
        let State { watched, streams } = &mut *state;
        if let Some(carried) = streams.get_mut(&role) {
            carried.create(&ids, watched);
            carried.ids.extend(ids);
            return;
        }
        let carried = Carried { ids, requests: None, creating: VecDeque::new() };
        streams.insert(role, carried);
        drop(state);
        let stream = Stream::new(Rc::clone(self), role);
        spawn(async move { stream.run().await }).detach();
    }

    /// A stream is open: asks for everything that it carries. Answers false when there is nothing,
    /// so that it is not needed.
    fn opened(&self, role: Role, requests: mpsc::UnboundedSender<WatchRequest>) -> bool {
        let mut state = self.state.borrow_mut();
        let State { watched, streams } = &mut *state;
        let Some(carried) = streams.get_mut(&role) else { return false };
        if carried.ids.is_empty() {
            streams.remove(&role);
            return false;
        }
        carried.requests = Some(requests);
        carried.creating.clear();
        let ids = carried.ids.clone();
        carried.create(&ids, watched);
        true
    }

    /// A stream broke: what it carried goes on over the second one. Answers whether this stream is
    /// that one and has to be opened again.
    fn broke(self: &Rc<Self>, role: Role, reason: &str) -> bool {
        let mut state = self.state.borrow_mut();
        let State { watched, streams } = &mut *state;
        let Some(carried) = streams.get_mut(&role) else { return false };
        for watched in carried.ids.iter().filter_map(|id| watched.get(id)) {
            watched.interrupted();
        }
        tracing::debug!(reason, watches = carried.ids.len(), "a stream of watches broke");
        if role == Role::Bulk && !carried.ids.is_empty() {
            carried.requests = None;
            return true;
        }
        let ids = streams.remove(&role).map(|carried| carried.ids).unwrap_or_default();
        drop(state);
        if !ids.is_empty() {
            self.carry(Role::Bulk, ids);
        }
        false
    }

    /// No server can carry this stream's watches, for good.
    fn refused(&self, role: Role, error: &Error) {
        let carried = self.state.borrow_mut().streams.remove(&role);
        for id in carried.map(|carried| carried.ids).unwrap_or_default() {
            self.end(id, End::Refused(error.clone()));
        }
    }

    /// Hands out one answer of the server.
    fn receive(&self, role: Role, response: WatchResponse, reliable: bool, peer: &str) -> Verdict {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        self.client.saw(revision);
        if response.created {
            let id = self.created(role);
            if response.canceled {
                return self.canceled(id, &response, peer);
            }
            return Verdict::Fine;
        }
        if response.canceled {
            return self.canceled(Some(response.watch_id), &response, peer);
        }
        if response.watch_id < 0 {
            self.progress(role, revision, reliable);
            return Verdict::Fine;
        }
        let watched = self.state.borrow().watched.get(&response.watch_id).cloned();
        if let Some(watched) = watched {
            watched.receive(response.events, response.fragment);
        }
        Verdict::Fine
    }

    fn created(&self, role: Role) -> Option<i64> {
        self.state.borrow_mut().streams.get_mut(&role)?.creating.pop_front()
    }

    fn canceled(&self, id: Option<i64>, response: &WatchResponse, peer: &str) -> Verdict {
        let Some(id) = id else { return Verdict::Fine };
        if response.compact_revision > 0 {
            Counters::add(&self.client.counters.resyncs);
            self.end(id, End::Compacted(response.compact_revision));
            return Verdict::Fine;
        }
        if !self.state.borrow().watched.contains_key(&id) {
            // We asked for it.
            return Verdict::Fine;
        }
        let failure = Failure::of_reason(&response.cancel_reason, peer);
        if failure.remedy != Remedy::None || is_passing(&failure.error) {
            return Verdict::Broken(failure);
        }
        self.end(id, End::Refused(failure.error));
        Verdict::Fine
    }

    /// The server has caught up with every watch of the stream, up to this revision.
    fn progress(&self, role: Role, revision: i64, reliable: bool) {
        let state = self.state.borrow();
        let Some(carried) = state.streams.get(&role) else { return };
        let ready: Vec<_> =
            carried.ids.iter().filter_map(|id| state.watched.get(id)).cloned().collect();
        drop(state);
        for watched in ready {
            watched.progress(revision, reliable);
        }
    }

    fn end(&self, id: i64, end: End) {
        if let Some(watched) = self.forget(id) {
            watched.ended(end);
        }
    }

    /// Nobody wants the watch any more.
    fn close(&self, id: i64) {
        let role = self.role_of(id);
        if self.forget(id).is_none() {
            return;
        }
        let state = self.state.borrow();
        let requests = role.and_then(|role| state.streams.get(&role)?.requests.as_ref());
        if let Some(requests) = requests {
            let cancel = WatchRequestUnion::Cancel(WatchCancelRequest { watch_id: id });
            // A stream that just broke carries nothing over that nobody wants.
            let _ = requests.unbounded_send(cancel.into());
        }
    }

    fn role_of(&self, id: i64) -> Option<Role> {
        let state = self.state.borrow();
        state.streams.iter().find(|(_, carried)| carried.ids.contains(&id)).map(|(role, _)| *role)
    }

    fn forget(&self, id: i64) -> Option<Rc<Watched>> {
        let mut state = self.state.borrow_mut();
        for carried in state.streams.values_mut() {
            carried.ids.remove(&id);
        }
        state.watched.remove(&id)
    }

    /// How many watches were opened since the start.
    pub(crate) fn opened_count(&self) -> u64 {
        u64::try_from(self.next_id.get() - 1).unwrap_or_default()
    }

    /// Whether a stream carries nothing any more.
    fn is_idle(&self, role: Role) -> bool {
        self.state.borrow().streams.get(&role).is_none_or(|carried| carried.ids.is_empty())
    }
}

impl Carried {
    /// Asks for watches, if the stream is open.
    fn create(&mut self, ids: &BTreeSet<i64>, watched: &BTreeMap<i64, Rc<Watched>>) {
        let Some(requests) = &self.requests else { return };
        for id in ids {
            let Some(watched) = watched.get(id) else { continue };
            let Target { range, prev_kv, .. } = watched.target().clone();
            let create = WatchRequestUnion::Create(WatchCreateRequest {
                key: range.start,
                range_end: range.end,
                start_revision: watched.next_revision(),
                prev_kv,
                watch_id: *id,
                fragment: true,
            });
            self.creating.push_back(*id);
            // When the stream has just broken it is opened again, and asks again.
            let _ = requests.unbounded_send(create.into());
        }
    }
}
