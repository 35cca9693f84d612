//! Who listens to events of which nodes, on whatever connection the session has.

use super::client::Client;
use crate::limits::{Budget, Share};
use crate::wire::{Event, EventKind, RemoveWatches, WatchMode};
use pintle_plugin_sdk::signal::Signal;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// Most changes that wait for one listener; more become a gap.
const CHANGES_MAX: usize = 16_384;
/// What is kept for a change beside its path.
const CHANGE_BYTES: usize = 32;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Anything may have changed, and why: look again.
    Gap(String),
    /// These nodes have changed, in this order; a node may be named twice.
    Changed(Vec<(String, EventKind)>),
}

impl Notice {
    /// Whether all that happened is that something was written.
    pub(crate) fn is_of_data(&self) -> bool {
        let Self::Changed(changes) = self else { return false };
        changes.iter().all(|(_, kind)| *kind == EventKind::DataChanged)
    }
}

/// By the node that they listen to.
type Listeners = BTreeMap<(String, WatchMode), Vec<Weak<Ear>>>;

/// All listeners of a session.
pub(crate) struct Watches {
    /// What changes that wait may take, with all else that watches keep.
    budget: Rc<Budget>,
    listeners: RefCell<Listeners>,
    /// What has to be watched on each connection, and for how many.
    lasting: RefCell<BTreeMap<String, Lasting>>,
    /// Where lasting watches are taken away. Where the server keeps none, the same request would take
    /// away what others listen by.
    client: RefCell<Option<Client>>,
}

#[derive(Clone, Copy, Default)]
struct Lasting {
    nodes: usize,
    trees: usize,
}

impl Lasting {
    fn of(&mut self, mode: WatchMode) -> &mut usize {
        match mode {
            WatchMode::Node => &mut self.nodes,
            WatchMode::Tree => &mut self.trees,
        }
    }

    /// One watch a path: older servers keep only the last.
    fn mode(self) -> WatchMode {
        if self.trees > 0 { WatchMode::Tree } else { WatchMode::Node }
    }
}

/// Hears what happens to a node, or to it and all below it, until it is dropped.
pub(crate) struct Listener {
    ear: Rc<Ear>,
    watches: Rc<Watches>,
}

struct Ear {
    path: String,
    mode: WatchMode,
    lasting: bool,
    heard: RefCell<Heard>,
    /// What `heard` takes of the budget.
    share: Share,
    changed: Signal,
}

#[derive(Default)]
struct Heard {
    gap: Option<String>,
    changes: Vec<(String, EventKind)>,
    bytes: usize,
}

impl Watches {
    pub(crate) fn new(budget: Rc<Budget>) -> Self {
        Self {
            budget,
            listeners: RefCell::default(),
            lasting: RefCell::default(),
            client: RefCell::default(),
        }
    }

    /// Begins to listen to what comes for a node. With `lasting` the server is told on each new
    /// connection that the session gets; on the present one it has to be told by
    /// [`AddWatch`](crate::wire::AddWatch) with [`mode_of`](Self::mode_of).
    pub(crate) fn listen(self: &Rc<Self>, path: &str, mode: WatchMode, lasting: bool) -> Listener {
        let ear = Rc::new(Ear {
            path: path.to_owned(),
            mode,
            lasting,
            heard: RefCell::default(),
            share: self.budget.share(),
            changed: Signal::default(),
        });
        let mut listeners = self.listeners.borrow_mut();
        listeners.entry((path.to_owned(), mode)).or_default().push(Rc::downgrade(&ear));
        if lasting {
            *self.lasting.borrow_mut().entry(path.to_owned()).or_default().of(mode) += 1;
        }
        Listener { ear, watches: Rc::clone(self) }
    }

    /// How a path has to be watched for all that listen to it.
    pub(crate) fn mode_of(&self, path: &str) -> WatchMode {
        self.lasting.borrow().get(path).map_or(WatchMode::Node, |lasting| lasting.mode())
    }

    /// All that has to be watched on a connection.
    pub(crate) fn lasting(&self) -> Vec<(String, WatchMode)> {
        let lasting = self.lasting.borrow();
        lasting.iter().map(|(path, lasting)| (path.clone(), lasting.mode())).collect()
    }

    /// There is a connection, and this is it where everything lasting is watched on it; what happened
    /// before it is not known.
    pub(crate) fn armed(&self, client: Option<&Client>, gap: Option<&str>) {
        *self.client.borrow_mut() = client.cloned();
        if let Some(reason) = gap {
            self.each(|ear| ear.hear_gap(reason));
        }
    }

    /// The server keeps no lasting watches on this connection.
    pub(crate) fn disarm(&self) {
        *self.client.borrow_mut() = None;
    }

    /// Passes an event on to all whom it concerns.
    pub(crate) fn tell(&self, event: &Event) {
        if matches!(event.kind, EventKind::Other(_)) {
            return;
        }
        let concerned = {
            let listeners = self.listeners.borrow();
            let mut concerned = Vec::new();
            let of = |path: &str, mode| listeners.get(&(path.to_owned(), mode)).cloned();
            concerned.extend(of(&event.path, WatchMode::Node).into_iter().flatten());
            for path in with_ancestors(&event.path) {
                concerned.extend(of(path, WatchMode::Tree).into_iter().flatten());
            }
            concerned
        };
        for ear in concerned.iter().filter_map(Weak::upgrade) {
            ear.hear(event);
        }
    }

    fn each(&self, tell: impl Fn(&Ear)) {
        let all: Vec<_> = self.listeners.borrow().values().flatten().cloned().collect();
        all.iter().filter_map(Weak::upgrade).for_each(|ear| tell(&ear));
    }

    fn forget(&self, ear: &Ear) {
        let key = (ear.path.clone(), ear.mode);
        let mut listeners = self.listeners.borrow_mut();
        if let Some(left) = listeners.get_mut(&key) {
            left.retain(|other| !std::ptr::eq(other.as_ptr(), ear));
            if left.is_empty() {
                listeners.remove(&key);
            }
        }
        drop(listeners);
        if !ear.lasting {
            return;
        }
        let mut lasting = self.lasting.borrow_mut();
        if let Some(left) = lasting.get_mut(&ear.path) {
            *left.of(ear.mode) -= 1;
            if left.nodes + left.trees == 0 {
                lasting.remove(&ear.path);
                if let Some(client) = &*self.client.borrow() {
                    // A watch that is left over only costs events that nobody hears.
                    drop(client.call(&RemoveWatches { path: &ear.path }));
                }
            }
        }
    }
}

/// A path, its parent, and so on up to the root.
fn with_ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        end => path.get(..end),
    })
}

impl Ear {
    fn hear(&self, event: &Event) {
        let mut heard = self.heard.borrow_mut();
        if heard.gap.is_some() {
            // Whoever looks because of it sees this too.
            return;
        }
        let bytes = heard.bytes + event.path.len() + CHANGE_BYTES;
        if heard.changes.len() >= CHANGES_MAX || self.share.set(bytes).is_err() {
            let gap = Some("more changes came than could be looked at".to_owned());
            *heard = Heard { gap, ..Heard::default() };
            self.let_go();
        } else {
            heard.changes.push((event.path.clone(), event.kind));
            heard.bytes = bytes;
        }
        drop(heard);
        self.changed.notify();
    }

    fn hear_gap(&self, reason: &str) {
        self.heard.replace(Heard { gap: Some(reason.to_owned()), ..Heard::default() });
        self.let_go();
        self.changed.notify();
    }

    fn take(&self) -> Option<Notice> {
        let Heard { gap, changes, .. } = self.heard.take();
        self.let_go();
        let changed = || (!changes.is_empty()).then_some(Notice::Changed(changes));
        gap.map(Notice::Gap).or_else(changed)
    }

    fn let_go(&self) {
        // Nothing always fits.
        let _ = self.share.set(0);
    }
}

impl Listener {
    /// Waits for the next notice: all that has come together.
    pub(crate) async fn next(&self) -> Notice {
        self.ear.changed.wait(|| self.ear.take()).await
    }

    /// Forgets what has come: whoever looks now sees all of it.
    pub(crate) fn clear(&self) {
        drop(self.ear.take());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.watches.forget(&self.ear);
    }
}
