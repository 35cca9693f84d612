//! Events that an incarnation pushed, kept in the order in which they came.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{check::Outcome, pace::within};

/// All events of one capability, by the number that they are about.
pub(crate) struct Inbox<E> {
    events: Mutex<HashMap<u64, Vec<Arrived<E>>>>,
    arrived: Notify,
}

/// An event, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct Arrived<E> {
    pub(crate) at: Instant,
    pub(crate) event: E,
}

impl<E> Default for Inbox<E> {
    fn default() -> Self {
        Self { events: Mutex::default(), arrived: Notify::new() }
    }
}

impl<E: Clone> Inbox<E> {
    pub(crate) fn put(&self, batch: Vec<(u64, E)>) {
        let at = Instant::now();
        let mut events = self.lock();
        for (id, event) in batch {
            events.entry(id).or_default().push(Arrived { at, event });
        }
        drop(events);
        self.arrived.notify_waiters();
    }

    /// What came for `id` so far.
    pub(crate) fn of(&self, id: u64) -> Vec<E> {
        let events = self.lock();
        events.get(&id).into_iter().flatten().map(|arrived| arrived.event.clone()).collect()
    }

    /// How many events came for `id` so far.
    pub(crate) fn count(&self, id: u64) -> usize {
        self.lock().get(&id).map_or(0, Vec::len)
    }

    /// Waits until `find` finds something in what came for `id`.
    ///
    /// # Errors
    ///
    /// As [`within`]: whatever is waited for was promised.
    pub(crate) async fn wait<T>(
        &self,
        id: u64,
        limit: Duration,
        what: &str,
        mut find: impl FnMut(&[Arrived<E>]) -> Option<T>,
    ) -> Outcome<T> {
        let looking = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(found) = find(self.lock().get(&id).map_or(&[], Vec::as_slice)) {
                    return Ok(found);
                }
                arrived.await;
            }
        };
        within(what, limit, looking)
            .await
            .map_err(|stop| stop.and(format!("{} events came", self.count(id))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<Arrived<E>>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
