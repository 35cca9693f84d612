//! Watches on the server: many over few streams, each going on where it was when a stream breaks.
//!
//! New watches share one stream. When it breaks, all that it carried go on over a second one: the
//! server answers a question for progress only when it has caught up with *every* watch of a stream
//! (etcd issue 20242), and new watches must not wait for old ones that catch up.
//!
//! A watch that is quiet has to be proved complete. Servers answer a question for progress only if no
//! watch of the stream begins in the future, which every new watch does while the store is idle; then
//! a linearizable read proves it: what is delivered reaches up to the present.

mod stream;
mod subscription;

pub(crate) use subscription::{End, Notice, Subscription, Target};

use crate::client::{Answer, Client, Counters, Lane, RANGE};
use crate::error::{Failure, Remedy};
use crate::wire::layout::Layout;
use crate::wire::messages::{
    RangeRequest, WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchRequestUnion,
    WatchResponse,
};
use futures::channel::mpsc;
use pintle_plugin_sdk::{Context, Error, spawn};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use stream::Stream;
use subscription::Watched;

/// A watch that begins more revisions than this behind the present has to catch up.
const BEHIND_MAX: i64 = 1_000;
/// How long a proof that nothing is missing may take.
const PROOF_LIMIT: Duration = Duration::from_secs(10);

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
    layout: Layout,
    next_id: Cell<i64>,
    /// The cluster whose revisions are delivered; 0 before the first answer.
    cluster: Cell<u64>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    watched: BTreeMap<i64, Rc<Watched>>,
    streams: BTreeMap<Role, Carried>,
}

/// What one stream carries.
#[derive(Default)]
struct Carried {
    ids: BTreeSet<i64>,
    /// Into the open stream; none while it is being opened.
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    /// Watches whose creation has not been answered, in the order in which it was asked for.
    creating: VecDeque<i64>,
    /// Watches that the server knows: only of these a notice of progress says anything.
    created: BTreeSet<i64>,
}

/// What an answer means for the stream that it came over.
enum Verdict {
    Fine,
    /// It proves that the watches of the stream are complete.
    Progress,
    /// The stream has to be opened again.
    Broken(Failure),
}

impl Watches {
    pub(crate) fn new(client: Rc<Client>, layout: Layout) -> Rc<Self> {
        let (next_id, cluster) = (Cell::new(1), Cell::new(0));
        Rc::new(Self { client, layout, next_id, cluster, state: RefCell::default() })
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

    /// How many watches were opened since the start.
    pub(crate) fn opened_count(&self) -> u64 {
        u64::try_from(self.next_id.get() - 1).unwrap_or_default()
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
        streams.insert(role, Carried { ids, ..Carried::default() });
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
        let ids = std::mem::take(&mut carried.ids);
        if role == Role::Bulk && !ids.is_empty() {
            *carried = Carried { ids, ..Carried::default() };
            return true;
        }
        streams.remove(&role);
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
        if let Some(header) = &response.header {
            self.client.saw(Some(header));
            let known = self.cluster.replace(header.cluster_id);
            if known != 0 && known != header.cluster_id {
                self.went_back(header.revision);
                return Verdict::Fine;
            }
        }
        if response.created {
            let id = self.created(role, response.canceled);
            return match id {
                Some(id) if response.canceled => self.canceled(id, &response, peer),
                _ => Verdict::Fine,
            };
        }
        if response.canceled {
            return self.canceled(response.watch_id, &response, peer);
        }
        if response.watch_id < 0 {
            let revision = response.header.map_or(0, |header| header.revision);
            return self.progress(role, revision, reliable);
        }
        let watched = self.state.borrow().watched.get(&response.watch_id).cloned();
        if let Some(watched) = watched {
            watched.receive(response.events, response.fragment);
        }
        Verdict::Fine
    }

    /// The server has answered the first of the creations that wait for that.
    fn created(&self, role: Role, refused: bool) -> Option<i64> {
        let mut state = self.state.borrow_mut();
        let State { watched, streams } = &mut *state;
        let carried = streams.get_mut(&role)?;
        let id = carried.creating.pop_front()?;
        if !refused && watched.contains_key(&id) {
            carried.created.insert(id);
        }
        Some(id)
    }

    fn canceled(&self, id: i64, response: &WatchResponse, peer: &str) -> Verdict {
        if !self.state.borrow().watched.contains_key(&id) {
            // We asked for it.
            return Verdict::Fine;
        }
        if response.compact_revision > 0 {
            Counters::add(&self.client.counters.resyncs);
            self.end(id, End::Compacted(response.compact_revision));
            return Verdict::Fine;
        }
        let failure = Failure::of_reason(&response.cancel_reason, peer);
        if failure.remedy != Remedy::None {
            return Verdict::Broken(failure);
        }
        self.end(id, End::Refused(failure.error));
        Verdict::Fine
    }

    /// The server says that it has caught up with every watch of the stream, up to this revision.
    /// Servers that say so too early are not believed.
    fn progress(&self, role: Role, revision: i64, reliable: bool) -> Verdict {
        if !reliable {
            return Verdict::Fine;
        }
        for watched in self.created_on(role) {
            watched.progress(revision);
        }
        Verdict::Progress
    }

    fn created_on(&self, role: Role) -> Vec<Rc<Watched>> {
        let state = self.state.borrow();
        let created = state.streams.get(&role).into_iter().flat_map(|carried| &carried.created);
        created.filter_map(|id| state.watched.get(id)).cloned().collect()
    }

    /// Asks for the present revision, which proves those watches complete whose deliveries reach up
    /// to it, and shows when the store is not what it was.
    async fn prove(self: Rc<Self>, role: Role) {
        let before: Vec<_> = self.created_on(role);
        let before: Vec<_> =
            before.into_iter().map(|watched| (watched.next_revision(), watched)).collect();
        let cx = Context::background("asking for the present revision", PROOF_LIMIT);
        let read = RangeRequest { key: self.layout.probe(), limit: 1, ..RangeRequest::default() };
        let present = match self.client.call_in_time(&cx, Lane::Watch, RANGE, read).await {
            Ok(answer) => answer.revision(),
            Err(error) => return tracing::debug!(%error, "the present revision is not known"),
        };
        for (next_before, watched) in before {
            // What was delivered before we asked cannot lie ahead of a linearizable read.
            if next_before > present + 1 {
                return self.went_back(present);
            }
            if watched.next_revision() == present + 1 {
                watched.progress(present);
            }
        }
    }

    /// The store is at this revision, before what was delivered, or it is another store.
    fn went_back(&self, revision: i64) {
        self.client.went_back(revision);
        let ids: Vec<i64> = self.state.borrow().watched.keys().copied().collect();
        for id in ids {
            Counters::add(&self.client.counters.resyncs);
            self.end(id, End::WentBack(revision));
        }
    }

    /// Ends a watch from our side. The server keeps even those that it has ended itself, and answers
    /// no question for progress, until it is told.
    fn end(&self, id: i64, end: End) {
        if let Some(watched) = self.forget(id) {
            watched.ended(end);
        }
    }

    /// Nobody wants the watch any more.
    fn close(&self, id: i64) {
        // It may have ended before.
        let _ = self.forget(id);
    }

    /// Forgets a watch, and tells the server.
    fn forget(&self, id: i64) -> Option<Rc<Watched>> {
        let mut state = self.state.borrow_mut();
        for carried in state.streams.values_mut() {
            carried.created.remove(&id);
            if let (true, Some(requests)) = (carried.ids.remove(&id), &carried.requests) {
                let cancel = WatchRequestUnion::Cancel(WatchCancelRequest { watch_id: id });
                // A stream that just broke carries nothing over that nobody wants.
                let _ = requests.unbounded_send(cancel.into());
            }
        }
        state.watched.remove(&id)
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

#[cfg(test)]
mod tests;
