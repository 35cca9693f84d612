//! A watch of its own, from a version on, opened again whenever the plugin or the reader needs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{backend::Backend, calls::WATCH_CONFIG, made::Made};
use crate::{
    backlog::{Backlog, Fit},
    config::{ChangePosition, Entry, Target, Version, WatchEvent},
    error::{Error, Refusal},
    mirror::Upstream,
};

/// Most watches from a version on one backend: each is one upstream, with what waits for its reader.
pub(super) const TAILS_MAX: usize = 256;

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
    /// Nobody reads any more.
    abandoned: bool,
}

impl State {
    /// Whether it is never opened again.
    fn is_over(&self) -> bool {
        self.abandoned || self.backlog.is_over()
    }
}

/// The one who reads it. The watch ends with this.
pub(crate) struct TailUser {
    backend: Arc<Backend>,
    tail: Arc<Tail>,
    _place: OwnedSemaphorePermit,
}

impl Tail {
    /// Takes the next event of opening `id`.
    pub(super) fn apply(&self, backend: &Backend, id: u64, event: Upstream<Entry>) {
        let mut state = self.lock();
        if state.id != Some(id) {
            return;
        }
        let fit = state.backlog.apply(event);
        state.paused = fit == Fit::Full;
        if state.paused || state.is_over() {
            close(backend, &mut state);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Prepares an opening: its number, and the version that it continues after; without one it
    /// begins with a snapshot. Nothing when it is over.
    pub(super) fn begin(self: &Arc<Self>, backend: &Backend) -> Option<(u64, Option<Version>)> {
        let mut state = self.lock();
        close(backend, &mut state);
        if state.is_over() {
            return None;
        }
        let id = backend.next_id();
        state.id = Some(id);
        let from = state.backlog.reopen();
        backend.routes.tails.insert(id, self);
        drop(state);
        Some((id, from))
    }

    /// Whether opening `id` is still wanted.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.lock().id == Some(id)
    }

    /// Opens it again, however long it takes until the backend runs. Another error ends it.
    pub(super) async fn reopen(self: &Arc<Self>, backend: &Backend) {
        let attempt = move || backend.config_tail(self);
        if let Err(error) = backend.open_patiently(attempt, || self.lock().is_over()).await {
            self.end(error);
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
    /// Those of the plugin, `unsupported` without the feature `watch.from-version`, and `exhausted`
    /// with too many of them.
    pub(crate) async fn open(
        backend: Arc<Backend>,
        target: Target,
        position: ChangePosition,
    ) -> Result<Self, Error> {
        let place = Arc::clone(&backend.routes.tail_places).try_acquire_owned().map_err(|_| {
            let what = format!("{TAILS_MAX} watches from a version on this backend");
            backend.refuse(WATCH_CONFIG, Refusal::Exhausted { what })
        })?;
        let backlog = Backlog::new(position);
        let state = State { backlog, id: None, paused: false, abandoned: false };
        let tail = Arc::new(Tail {
            target,
            made: Made::default(),
            state: Mutex::new(state),
            arrived: Notify::new(),
        });
        // First, so that it is closed whatever becomes of the opening.
        let user = Self { backend, tail, _place: place };
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
        let mut state = self.tail.lock();
        state.abandoned = true;
        close(&self.backend, &mut state);
    }
}

/// Ends the present opening.
fn close(backend: &Backend, state: &mut State) {
    if let Some(id) = state.id.take() {
        backend.routes.tails.remove(id);
        backend.config_close(id);
    }
}
