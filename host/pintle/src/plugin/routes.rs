//! What the host keeps open on a backend, by the numbers under which the plugin knows it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Semaphore, watch};

use super::{
    feed::{ConfigFeeds, InstanceFeeds},
    limits::Limits,
    made::Made,
    tail::{TAILS_MAX, Tail},
};
use crate::{
    error::Error,
    lock::{LeaseRecord, LockState},
    registry::RegistrationRecord,
};

/// Most openings that wait for the plugin at once.
const OPENINGS_MAX: usize = 64;

/// Everything that events of a plugin may be about, and that a new incarnation is asked for again.
pub(crate) struct Routes {
    pub(crate) config: ConfigFeeds,
    pub(crate) tails: Table<Tail>,
    /// One for each tail that may be.
    pub(crate) tail_places: Arc<Semaphore>,
    /// One for each opening that may be under way: a new incarnation is asked for everything at
    /// once, and has to have room for other calls.
    pub(crate) openings: Semaphore,
    pub(crate) instances: InstanceFeeds,
    pub(crate) registrations: Table<RegistrationRecord>,
    pub(crate) leases: Table<LeaseRecord>,
    /// One for each acquire that may wait for its lock.
    pub(crate) waiting_places: Semaphore,
    /// Releases that are under way: who waits until nothing is held waits for them as well.
    pub(crate) releases: Releases,
    pub(crate) lock_watches: Table<LockWatchRoute>,
}

/// Acquires that may wait at a time: half of the calls that run, so that others run beside them.
pub(super) fn waiting_max(limits: &Limits) -> usize {
    (limits.calls_running_max / 2).max(1)
}

impl Routes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            config: ConfigFeeds::default(),
            tails: Table::default(),
            tail_places: Arc::new(Semaphore::new(TAILS_MAX)),
            openings: Semaphore::new(OPENINGS_MAX),
            instances: InstanceFeeds::default(),
            registrations: Table::default(),
            leases: Table::default(),
            waiting_places: Semaphore::new(waiting_max(limits)),
            releases: Releases::default(),
            lock_watches: Table::default(),
        }
    }

    /// Ends every watch: nothing will ever come of it.
    pub(crate) fn end_watches(&self, error: &Error) {
        self.config.end(error);
        self.instances.end(error);
        for (_, tail) in self.tails.all() {
            tail.end(error.clone());
        }
        for (_, watch) in self.lock_watches.all() {
            watch.state.send_replace(Some(Err(error.clone())));
        }
    }
}

/// Counts releases from the moment at which a lease does not count as held any more until the plugin has
/// answered.
#[derive(Default, Clone)]
pub(crate) struct Releases(Arc<()>);

impl Releases {
    /// One more, until the answer is dropped.
    pub(crate) fn begin(&self) -> impl Send + 'static + use<> {
        Arc::clone(&self.0)
    }

    pub(crate) fn are_under_way(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// The watch of one lock.
pub(crate) struct LockWatchRoute {
    pub(crate) name: String,
    pub(crate) made: Made,
    pub(crate) state: watch::Sender<Option<Result<LockState, Error>>>,
}

/// Numbers to things, without keeping the things alive: who holds one decides how long it lives.
pub(crate) struct Table<T>(Mutex<HashMap<u64, Weak<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Table<T> {
    pub(crate) fn insert(&self, id: u64, thing: &Arc<T>) {
        self.lock().insert(id, Arc::downgrade(thing));
    }

    pub(crate) fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<T>> {
        self.lock().get(&id)?.upgrade()
    }

    /// Everything that is still alive, in the order in which it was opened.
    pub(crate) fn all(&self) -> Vec<(u64, Arc<T>)> {
        let alive = |(id, thing): (&u64, &Weak<T>)| Some((*id, thing.upgrade()?));
        let mut all: Vec<_> = self.lock().iter().filter_map(alive).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
