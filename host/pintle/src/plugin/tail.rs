//! A watch of its own, from a version on, opened again whenever the plugin or the reader needs it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{backend::Backend, made::Made};
use crate::{
    backlog::{Backlog, Fit},
    config::{ChangePosition, Entry, Target, Version, WatchEvent},
    error::Error,
    mirror::Upstream,
};

/// Between attempts to open it on a backend that does not run.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// The watch, seen from the plugin's side.
pub(crate) struct Tail {
    pub(super) target: Target,
    pub(super) made: Made,
    state: Mutex<State>,
    /// Something was added to the backlog. One reader waits for it.
    arrived: Notify,
}

struct State {
    backlog: Backlog,
    /// The number under which the plugin knows it. Each opening has one of its own, so that events
    /// of an earlier one, which may still be under way, are not taken for those of a later.
    id: Option<u64>,
    /// The reader was too far behind: it is opened again when the backlog was read.
    paused: bool,
}

/// The one who reads it. The watch ends with this.
pub(crate) struct TailUser {
    backend: Arc<Backend>,
    tail: Arc<Tail>,
}

impl Tail {
    /// Takes the next event of opening `id`.
    pub(super) fn apply(&self, backend: &Backend, id: u64, event: Upstream<Entry>) {
        let mut state = self.lock();
        if state.id != Some(id) {
            return;
        }
        if state.backlog.apply(event) == Fit::Full {
            state.paused = true;
            close(backend, &mut state);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Prepares an opening: its number, and the version that it continues after; without one it
    /// begins with a snapshot.
    pub(super) fn begin(self: &Arc<Self>, backend: &Backend) -> (u64, Option<Version>) {
        let id = backend.next_id();
        let mut state = self.lock();
        close(backend, &mut state);
        state.id = Some(id);
        let from = state.backlog.reopen();
        drop(state);
        backend.routes.tails.insert(id, self);
        (id, from)
    }

    /// Opens it again, however long it takes until the backend runs. Another error ends it.
    pub(super) async fn reopen(self: &Arc<Self>, backend: &Backend) {
        while let Err(error) = backend.config_tail(self).await {
            if !error.is_transient() {
                return self.end(error);
            }
            tokio::time::sleep(error.retry_after().unwrap_or(REOPEN_PAUSE)).await;
        }
    }

    /// Ends it for good.
    pub(super) fn end(&self, error: Error) {
        self.lock().backlog.apply(Upstream::Ended(error));
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TailUser {
    /// Opens a watch of `target` that continues at `position`.
    ///
    /// # Errors
    ///
    /// Those of the plugin, `unsupported` without the feature `watch.from-version`.
    pub(crate) async fn open(
        backend: Arc<Backend>,
        target: Target,
        position: ChangePosition,
    ) -> Result<Self, Error> {
        let state = State { backlog: Backlog::new(position), id: None, paused: false };
        let tail = Arc::new(Tail {
            target,
            made: Made::default(),
            state: Mutex::new(state),
            arrived: Notify::new(),
        });
        // First, so that it is closed whatever becomes of the opening.
        let user = Self { backend, tail };
        user.backend.config_tail(&user.tail).await?;
        Ok(user)
    }

    /// What happened next; nothing after the error with which it ended.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Option<Result<WatchEvent, Error>> {
        loop {
            {
                let mut state = self.tail.lock();
                if let Some(next) = state.backlog.take() {
                    return next;
                }
                if std::mem::take(&mut state.paused) {
                    self.open_again();
                }
            }
            self.tail.arrived.notified().await;
        }
    }

    /// Where a watch continues that is opened when everything taken so far was seen.
    pub(crate) fn position(&self) -> ChangePosition {
        self.tail.lock().backlog.taken_position().clone()
    }

    fn open_again(&self) {
        let (backend, tail) = (Arc::downgrade(&self.backend), Arc::downgrade(&self.tail));
        self.backend.shared.engine.host_runtime().spawn(async move {
            let (Some(backend), Some(tail)) = (backend.upgrade(), tail.upgrade()) else { return };
            tail.made.forget().await;
            tail.reopen(&backend).await;
        });
    }
}

impl Drop for TailUser {
    fn drop(&mut self) {
        close(&self.backend, &mut self.tail.lock());
    }
}

/// Ends the present opening.
fn close(backend: &Backend, state: &mut State) {
    if let Some(id) = state.id.take() {
        backend.routes.tails.remove(id);
        backend.config_close(id);
    }
}
