//! The one way to the store: changes of concurrent calls become durable together.
//!
//! A call queues a job, lets all others go first, and then does what is queued by then in one turn
//! of the store, theirs and its own; each is answered for itself. While a turn is being made
//! durable the next calls come in, so that the number of writes to the disk follows the disk and
//! not the number of callers. No task is woken for any of this: all that wait are about to run
//! anyway.

use crate::signal::Signal;
use crate::store::{Effects, Store, StoreError, Turn};
use futures::channel::oneshot;
use pintle_plugin_sdk::time::Instant;
use pintle_plugin_sdk::{Error, after_answer, yield_now};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Most jobs in one turn.
const TURN_JOBS_MAX: usize = 1_024;
/// Bytes after which a turn takes no more jobs.
const TURN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most jobs that wait for their turn.
const QUEUE_JOBS_MAX: usize = 16_384;
/// Most bytes that wait for their turn; a single larger job waits alone.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an operation costs beside its bytes, so that many small ones do not make a long turn.
pub(crate) const OPERATION_BYTES: usize = 512;
/// After a failure the database is opened again at most this often.
const RECOVERY_PAUSE: Duration = Duration::from_millis(500);

/// The store, and the queue before it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    shared: Rc<Shared>,
}

struct Shared {
    store: RefCell<Store>,
    jobs: RefCell<VecDeque<Box<dyn Job>>>,
    queued_bytes: Cell<usize>,
    turned: Signal,
    /// The end of a lease that [`Engine::deadline_changes`] was last called with.
    awaited_ns: Cell<Option<u64>>,
    deadline_changed: Signal,
    effects: Box<dyn Fn(&Effects)>,
    last_recovery: Cell<Option<Instant>>,
    counters: Counters,
}

/// What the engine has done, for the health report.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) turns: Cell<u64>,
    pub(crate) jobs: Cell<u64>,
    pub(crate) failures: Cell<u64>,
    pub(crate) recoveries: Cell<u64>,
}

impl Counters {
    fn add(counter: &Cell<u64>, amount: usize) {
        counter.set(counter.get().saturating_add(amount as u64));
    }
}

impl Engine {
    /// The queue before a store; `effects` hears of what each turn did.
    pub(crate) fn new(store: Store, effects: impl Fn(&Effects) + 'static) -> Self {
        let shared = Rc::new(Shared {
            store: RefCell::new(store),
            jobs: RefCell::default(),
            queued_bytes: Cell::new(0),
            turned: Signal::default(),
            awaited_ns: Cell::default(),
            deadline_changed: Signal::default(),
            effects: Box::new(effects),
            last_recovery: Cell::new(None),
            counters: Counters::default(),
        });
        Self { shared }
    }

    /// Does `work` in the next turn; answers when it is durable.
    ///
    /// `bytes` is how much it will write, roughly.
    ///
    /// # Cancellation
    ///
    /// Work whose turn has not come is not done any more.
    pub(crate) async fn change<T: 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&mut Turn<'_>) -> Result<T, StoreError> + 'static,
    ) -> Result<T, Error> {
        let bytes = bytes + OPERATION_BYTES;
        if !self.shared.has_room_for(bytes) {
            // Jobs of calls that have gone would stay until somebody else makes a turn.
            self.shared.forget_unwanted_jobs();
        }
        let (jobs, queued) = (self.shared.jobs.borrow().len(), self.shared.queued_bytes.get());
        if !self.shared.has_room_for(bytes) {
            let message = format!("{jobs} changes of {queued} bytes wait for the disk already");
            return Err(Error::exhausted(message).retry_after(Duration::from_millis(100)));
        }
        self.shared.queued_bytes.set(queued + bytes);
        let (reply, mut answer) = oneshot::channel();
        let job = Pending { bytes, work: Some(work), outcome: None, reply };
        self.shared.jobs.borrow_mut().push_back(Box::new(job));
        let mut look = || match answer.try_recv() {
            Ok(answer) => answer,
            Err(_) => Some(Err(Error::internal("a change was forgotten").effect_unknown())),
        };
        loop {
            yield_now().await;
            if let Some(answer) = look() {
                return answer;
            }
            self.shared.turn();
            if let Some(answer) = look() {
                let shared = Rc::clone(&self.shared);
                after_answer(async move { shared.settle() });
                return answer;
            }
        }
    }

    /// Reads the store as it is.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, Error> {
        self.shared.reopen()?;
        let result = work(&self.shared.store.borrow());
        if let Err(failure) = &result
            && failure.is_fault()
        {
            self.shared.store.borrow_mut().note_failure(failure);
            Counters::add(&self.shared.counters.failures, 1);
        }
        Ok(result?)
    }

    /// Does what neither reads nor writes the database.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        work(&mut self.shared.store.borrow_mut())
    }

    /// Waits for the next turn that changed anything.
    pub(crate) async fn turned(&self) {
        self.shared.turned.next().await;
    }

    /// Waits for a turn after which the next lease ends at another time than this: most turns
    /// change nothing of that.
    pub(crate) async fn deadline_changes(&self, awaited_ns: Option<u64>) {
        self.shared.awaited_ns.set(awaited_ns);
        self.shared.deadline_changed.next().await;
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Shared {
    fn turn(&self) {
        let mut jobs = self.take_jobs();
        if jobs.is_empty() {
            return;
        }
        Counters::add(&self.counters.turns, 1);
        Counters::add(&self.counters.jobs, jobs.len());
        let result = self.reopen().and_then(|()| {
            let mut store = self.store.borrow_mut();
            store.turn(|turn| jobs.iter_mut().try_for_each(|job| job.run(turn)))
        });
        match result {
            Ok(((), effects)) => {
                jobs.into_iter().for_each(|job| job.answer(None));
                self.tell(&effects);
            }
            Err(failure) => {
                Counters::add(&self.counters.failures, 1);
                tracing::warn!(%failure, "the store could not be changed");
                jobs.into_iter().for_each(|job| job.answer(Some(&failure)));
            }
        }
    }

    /// Does what the last turn left for later.
    fn settle(&self) {
        let mut store = self.store.borrow_mut();
        if let Err(failure) = store.settle() {
            store.note_failure(&failure);
            Counters::add(&self.counters.failures, 1);
            tracing::warn!(%failure, "the store has to be opened again");
        }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        let jobs = self.jobs.borrow().len();
        let fits = self.queued_bytes.get() + bytes <= QUEUE_BYTES_MAX;
        jobs == 0 || (jobs < QUEUE_JOBS_MAX && fits)
    }

    fn forget_unwanted_jobs(&self) {
        let mut jobs = self.jobs.borrow_mut();
        jobs.retain(|job| job.is_wanted());
        self.queued_bytes.set(jobs.iter().map(|job| job.bytes()).sum());
    }

    fn take_jobs(&self) -> Vec<Box<dyn Job>> {
        let mut queue = self.jobs.borrow_mut();
        let mut jobs = Vec::new();
        let mut bytes = 0;
        while jobs.len() < TURN_JOBS_MAX && bytes < TURN_BYTES_MAX {
            let Some(job) = queue.pop_front() else { break };
            self.queued_bytes.set(self.queued_bytes.get().saturating_sub(job.bytes()));
            if job.is_wanted() {
                bytes += job.bytes();
                jobs.push(job);
            }
        }
        jobs
    }

    /// Opens the database again if it failed, and if the last attempt was not just now.
    fn reopen(&self) -> Result<(), StoreError> {
        let Some(reason) = self.store.borrow().failure().map(str::to_owned) else { return Ok(()) };
        if self.last_recovery.get().is_some_and(|last| last.elapsed() < RECOVERY_PAUSE) {
            return Err(StoreError::Closed { reason });
        }
        self.last_recovery.set(Some(Instant::now()));
        let effects = self.store.borrow_mut().recover()?;
        Counters::add(&self.counters.recoveries, 1);
        tracing::info!(reason, "the store is open again");
        self.tell(&effects);
        Ok(())
    }

    fn tell(&self, effects: &Effects) {
        (self.effects)(effects);
        self.turned.notify();
        if self.store.borrow().next_deadline_ns() != self.awaited_ns.get() {
            self.deadline_changed.notify();
        }
    }
}

/// One call's part of a turn.
trait Job {
    fn is_wanted(&self) -> bool;
    fn bytes(&self) -> usize;
    /// Does the work; a fault ends the turn for all.
    fn run(&mut self, turn: &mut Turn<'_>) -> Result<(), StoreError>;
    /// Answers the caller: what came of the work, or that the turn failed.
    fn answer(self: Box<Self>, failure: Option<&StoreError>);
}

struct Pending<T, W> {
    bytes: usize,
    work: Option<W>,
    outcome: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T, W: FnOnce(&mut Turn<'_>) -> Result<T, StoreError>> Job for Pending<T, W> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_canceled()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.outcome = Some(match work(turn) {
            Err(failure) if failure.is_fault() => return Err(failure),
            outcome => outcome.map_err(Error::from),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<&StoreError>) {
        let answer = match (self.outcome, failure) {
            // A refusal stands, whatever became of the rest.
            (Some(Err(refusal)), _) => Err(refusal),
            (_, Some(failure)) => Err(Error::from(failure)),
            (Some(outcome), None) => outcome,
            (None, None) => Err(Error::internal("a change was forgotten").effect_unknown()),
        };
        // A caller that has gone was told by the SDK that the effect is unknown.
        let _ = self.reply.send(answer);
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use crate::store::{Acquire, Clock, Directory, Mode, Options, Seeds};
    use std::sync::Arc;

    struct Stopped;

    impl Clock for Stopped {
        fn monotonic_ns(&self) -> u64 {
            0
        }

        fn unix_ms(&self) -> u64 {
            0
        }
    }

    fn with_engine(test: impl AsyncFnOnce(&Engine)) {
        let directory = tempfile::tempdir().unwrap();
        let storage = Box::new(Directory::new(directory.path()));
        let seeds = Seeds { identity: 1, generation: 1 };
        let store = Store::open(storage, Options::default(), Arc::new(Stopped), seeds).unwrap();
        pintle_plugin_sdk::testing::run(test(&Engine::new(store, |_| ())));
    }

    #[test]
    fn who_waits_for_the_next_lease_to_end_hears_of_the_turns_that_change_that() {
        with_engine(async |engine| {
            let mut waits = Box::pin(engine.deadline_changes(None));
            assert!(futures::poll!(&mut waits).is_pending());
            engine.change(0, |turn| turn.expire()).await.unwrap();
            assert!(futures::poll!(&mut waits).is_pending());
            let request = Acquire {
                name: "l".into(),
                mode: Mode::Exclusive,
                ttl_ms: 2_000,
                owner: "o".into(),
                wait: false,
            };
            engine.change(0, move |turn| turn.acquire(&request)).await.unwrap();
            assert!(futures::poll!(&mut waits).is_ready());
        });
    }

    #[test]
    fn changes_whose_callers_have_gone_take_no_room_in_the_queue() {
        const BYTES: usize = QUEUE_BYTES_MAX / 2 - OPERATION_BYTES;
        with_engine(async |engine| {
            let mut queued = [0, 1].map(|_| Box::pin(engine.change(BYTES, |_| Ok(()))));
            for change in &mut queued {
                assert!(futures::poll!(change).is_pending());
            }
            let refused = engine.change(BYTES, |_| Ok(())).await.unwrap_err();
            assert_eq!(refused.code(), "exhausted");
            drop(queued);
            engine.change(BYTES, |_| Ok(())).await.unwrap();
        });
    }
}
