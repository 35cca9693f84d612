//! One incarnation: the task that owns a store, and the calls that run in it.

mod watchdog;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use wasmtime::{Store, component::Accessor};

use super::{
    bindings::types,
    convert::{millis, shown},
    engine::Engine,
    file::Capability,
    guest::GuestState,
    limits::{Limits, explain_trap},
    loader::{Exports, Plugin},
    output::LastWords,
    thread::{AnswerLookout, Callers, PluginThread, cores},
    throttle::{HeldBack, throttle},
};
use crate::secret::Scrubber;
use watchdog::{Calls, watch_deadlines};

/// A plugin at work. Dropping every handle ends it.
pub(crate) struct Incarnation {
    /// Calls. So many run at a time, and the others wait for their turn.
    jobs: mpsc::Sender<Job>,
    /// What waits for no call.
    urgent: mpsc::Sender<Job>,
    /// One for each call that may run or wait.
    places: Arc<Semaphore>,
    calls: Arc<Calls>,
    callers: Callers,
    lookout: AnswerLookout,
    scrubber: Arc<Scrubber>,
    ended: watch::Receiver<Option<Arc<str>>>,
    store_dropped: watch::Receiver<bool>,
    limits: Limits,
    thread: Handle,
}

/// A function of a plugin, and whether it may change something on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) mutates: bool,
    /// Whether it waits for a place where others are refused.
    is_patient: bool,
}

impl Operation {
    pub(crate) const fn read(name: &'static str) -> Self {
        Self { name, mutates: false, is_patient: false }
    }

    pub(crate) const fn mutation(name: &'static str) -> Self {
        Self { name, mutates: true, is_patient: false }
    }

    /// The same for what users keep open: refused for want of a place, it would end though nobody gave
    /// it up.
    pub(crate) const fn patient(self) -> Self {
        Self { is_patient: true, ..self }
    }

    fn is_start(self) -> bool {
        self.name == "lifecycle.start"
    }

    fn is_poll(self) -> bool {
        self.name.ends_with(".poll")
    }

    /// Whether its answer is a matter of the server alone: a poll waits for news, and an acquire for those who
    /// hold the lock.
    fn is_prompt(self) -> bool {
        !self.is_poll() && self.name != "lock.acquire"
    }

    /// Whether it waits for no call. What brings news and what ends something has to get through
    /// while all places are taken: it may be what the others wait for.
    fn is_urgent(self) -> bool {
        let ends = ["lock.release", "registry.deregister", "lifecycle.stop"];
        self.is_poll() || ends.contains(&self.name)
    }

    /// The capability that it belongs to; none for the lifecycle.
    pub(crate) fn capability(self) -> Option<Capability> {
        self.parts().map(|(capability, _)| capability)
    }

    /// The capability that it belongs to, and its name there; nothing for the lifecycle.
    pub(crate) fn parts(self) -> Option<(Capability, &'static str)> {
        let (capability, name) = self.name.split_once('.')?;
        Some((capability.parse().ok()?, name))
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// The plugin's own error.
    Plugin(types::Error),
    /// The incarnation ended, after the call had begun or before.
    Ended { reason: Arc<str>, begun: bool },
    /// Its time was over before it had begun, because others were before it. Or it was not taken at
    /// all, because so many may wait and as many did.
    Busy { waiting: usize, queued_max: Option<usize> },
}

impl CallFailure {
    fn late(waiting: usize) -> Self {
        Self::Busy { waiting, queued_max: None }
    }
}

/// What a call does inside the store.
type Job =
    Box<dyn for<'a> FnOnce(&'a Accessor<GuestState>, &'a Exports) -> BoxFuture<'a, ()> + Send>;

/// The result of a guest call: the outer error is wasmtime's, the inner one the plugin's.
pub(crate) type GuestResult<R> = wasmtime::Result<Result<R, types::Error>>;

impl Incarnation {
    /// Puts `plugin` into `store` and lets it run on `thread` until it traps, is killed, or all handles go.
    pub(crate) fn spawn(
        engine: &Engine,
        thread: PluginThread,
        plugin: Arc<Plugin>,
        store: Store<GuestState>,
        last_words: LastWords,
        limits: Limits,
    ) -> Arc<Self> {
        let (jobs, queue) = mpsc::channel(limits.calls_queued_max);
        // Each call can be cancelled once. What else comes here, waits if need be.
        let urgent_max = limits.calls_queued_max.saturating_add(limits.calls_running_max);
        let (urgent, urgent_queue) = mpsc::channel(urgent_max);
        let places_max = urgent_max.min(Semaphore::MAX_PERMITS);
        let (ended, ended_seen) = watch::channel(None);
        let (dropped, store_dropped) = watch::channel(false);
        let backend = Arc::clone(&store.data().host.backend);
        let scrubber = Arc::clone(&store.data().host.scrubber);
        let queues =
            Queues { calls: queue, running_max: limits.calls_running_max, urgent: urgent_queue };
        let running = run(store, plugin, queues);
        let held_back = Arc::new(HeldBack::default());
        let throttled = throttle(limits.cpu, backend, Arc::clone(&held_back), running);
        let (handle, callers) = (thread.handle(), thread.callers());
        let moment = limits.looks_out(cores());
        let lookout = AnswerLookout::new(moment, callers.clone());
        let task = thread.run(throttled, moment);
        let calls = Arc::new(Calls::new(ended, held_back, task.abort_handle(), urgent.downgrade()));
        let host = engine.host_runtime();
        host.spawn(watch_deadlines(Arc::downgrade(&calls), limits.call_grace));
        let finished = Arc::clone(&calls);
        let (known_limits, known_secrets) = (limits.clone(), Arc::clone(&scrubber));
        host.spawn(async move {
            let reason = match task.await {
                Ok(Ok(())) => "it was stopped".to_owned(),
                Ok(Err(error)) => {
                    let error = format!("{error:#}");
                    if let Some(limit) = explain_trap(&error, &known_limits) {
                        last_words.note(&limit);
                    }
                    let text = last_words.summary().unwrap_or(error);
                    shown(&text, &known_secrets, &known_limits)
                }
                Err(error) if error.is_cancelled() => "it was stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            finished.end(&reason);
            dropped.send_replace(true);
        });
        let ended = ended_seen;
        Arc::new(Self {
            jobs,
            urgent,
            places: Arc::new(Semaphore::new(places_max)),
            calls,
            callers,
            lookout,
            scrubber,
            ended,
            store_dropped,
            limits,
            thread: handle,
        })
    }

    /// Runs `function` in the store and waits for its result.
    ///
    /// Where as many wait as may, it is not taken at all, unless the operation is a patient one: that
    /// waits for a place, for `timeout` too. Then the call has `timeout`; one that has not begun until
    /// then is given up. The guest has a grace period after it, past which the whole incarnation is
    /// ended. So this always returns.
    ///
    /// # Cancellation
    ///
    /// When the returned future is dropped, the guest is asked to end the call, and ended itself if
    /// it does not.
    pub(crate) async fn call<R, F>(
        &self,
        operation: Operation,
        timeout: Duration,
        function: F,
    ) -> Result<R, CallFailure>
    where
        R: Send + 'static,
        F: for<'a> FnOnce(
                &'a Accessor<GuestState>,
                &'a Exports,
                types::Context,
            ) -> BoxFuture<'a, GuestResult<R>>
            + Send
            + 'static,
    {
        let place = self.place(operation, timeout).await?;
        let (reply, mut answer) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let call = self.calls.begin(operation, timeout, place);
        let (id, trace) = (call.id(), crate::tracing::current_headers());
        let calls = Arc::clone(&self.calls);
        let caller = operation.is_prompt().then(|| self.callers.join());
        let job: Job = Box::new(move |accessor, exports| {
            Box::pin(async move {
                // Nothing, when its caller has given it up.
                if let Some((left, place)) = calls.start(id) {
                    let context = types::Context { call_id: id, timeout_ms: millis(left), trace };
                    let result = function(accessor, exports, context).await;
                    // Who has its answer does not stand in the way of its own next call.
                    drop((place, caller));
                    // Fails when the caller gave up meanwhile; nobody else needs the result.
                    let _ = reply.send(result);
                    calls.finish(id);
                }
            })
        });
        let lane = if operation.is_urgent() { &self.urgent } else { &self.jobs };
        match timeout_at(deadline, lane.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                return Err(CallFailure::Ended { reason: self.ended().await, begun: false });
            }
            Err(_) => return Err(CallFailure::late(self.calls.waiting())),
        }
        let mut ended = self.ended.clone();
        let given_up = async {
            sleep_until(deadline).await;
            call.give_up()
        };
        if operation.is_prompt() {
            self.lookout.until(&answer).await;
        }
        let result = tokio::select! {
            biased;
            result = &mut answer => result.ok(),
            _ = ended.wait_for(Option::is_some) => None,
            // A call that has begun is the watchdog's business.
            Some(waiting) = given_up => return Err(CallFailure::late(waiting)),
        };
        let begun = call.has_begun();
        call.finish();
        match result {
            Some(Ok(Ok(value))) => Ok(value),
            Some(Ok(Err(error))) => Err(CallFailure::Plugin(error)),
            Some(Err(error)) => {
                let text = format!("{}: {error:#}", operation.name);
                let reason = shown(&text, &self.scrubber, &self.limits);
                self.calls.end(&reason);
                Err(CallFailure::Ended { reason: reason.into(), begun: true })
            }
            // The reply was dropped: the store is ending, and the reason comes in a moment.
            None => {
                let reason = self.ended().await;
                Err(CallFailure::Ended { reason, begun })
            }
        }
    }

    /// A place for one more call, among those that run and those that wait; none where it needs none.
    async fn place(
        &self,
        operation: Operation,
        wait_max: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, CallFailure> {
        if operation.is_urgent() {
            return Ok(None);
        }
        let places = Arc::clone(&self.places);
        let place = if operation.is_patient {
            timeout(wait_max, places.acquire_owned()).await.ok().and_then(Result::ok)
        } else {
            places.try_acquire_owned().ok()
        };
        place.map(Some).ok_or_else(|| CallFailure::Busy {
            waiting: self.calls.waiting(),
            queued_max: Some(self.limits.calls_queued_max),
        })
    }

    /// Runs a function that cannot wait and has no result after the calls that were made before, and
    /// does not wait for it. With a full queue it is skipped and this answers false.
    pub(crate) fn post<F>(&self, function: F) -> bool
    where
        F: Posted,
    {
        self.jobs.try_send(posted(function)).is_ok()
    }

    /// Runs a function that ends something, such as `close`, without waiting for it or for calls.
    /// With too many of them it waits for its turn in the background, on `runtime`.
    pub(crate) fn post_urgent<F>(&self, runtime: &tokio::runtime::Handle, function: F)
    where
        F: Posted,
    {
        if let Err(mpsc::error::TrySendError::Full(job)) = self.urgent.try_send(posted(function)) {
            let urgent = self.urgent.clone();
            // Fails when the incarnation ends: then nothing of it is left.
            runtime.spawn(async move { urgent.send(job).await.ok() });
        }
    }

    /// Why the incarnation has ended, if it has.
    pub(crate) fn end(&self) -> Option<Arc<str>> {
        self.ended.borrow().clone()
    }

    /// Waits until the incarnation has ended, and says why.
    pub(crate) async fn ended(&self) -> Arc<str> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "it was stopped".into(),
        }
    }

    /// Waits until nothing of the incarnation is left: its files and connections are closed.
    pub(crate) async fn dropped(&self) {
        let mut dropped = self.store_dropped.clone();
        // Fails only when the sender is gone, and then so is the store.
        let _ = dropped.wait_for(|dropped| *dropped).await;
    }

    /// The plugin's own thread, for what is to be done there: it ends with the incarnation.
    pub(crate) fn thread(&self) -> &Handle {
        &self.thread
    }

    /// Whether no call but a poll is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.calls.all(Operation::is_poll)
    }

    /// Ends the incarnation now, whatever it does.
    pub(crate) fn kill(&self, reason: &str) {
        self.calls.end(reason);
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.calls.end("it was stopped");
    }
}

/// A function that cannot wait and has no result.
pub(crate) trait Posted:
    for<'a> FnOnce(&'a Accessor<GuestState>, &'a Exports) -> BoxFuture<'a, wasmtime::Result<()>>
    + Send
    + 'static
{
}

impl<F> Posted for F where
    F: for<'a> FnOnce(&'a Accessor<GuestState>, &'a Exports) -> BoxFuture<'a, wasmtime::Result<()>>
        + Send
        + 'static
{
}

fn posted(function: impl Posted) -> Job {
    Box::new(move |accessor, exports| {
        Box::pin(async move {
            if let Err(error) = function(accessor, exports).await {
                tracing::debug!(error = format!("{error:#}"), "a posted call failed");
            }
        })
    })
}

/// What waits to be run in a store.
struct Queues {
    calls: mpsc::Receiver<Job>,
    running_max: usize,
    urgent: mpsc::Receiver<Job>,
}

/// The task that owns the store. It returns when the last handle is gone, or with the trap.
async fn run(
    mut store: Store<GuestState>,
    plugin: Arc<Plugin>,
    mut queues: Queues,
) -> wasmtime::Result<()> {
    let exports = plugin.instantiate(&mut store).await?;
    let unyielded = Arc::clone(&store.data().unyielded);
    store
        .run_concurrent(async move |accessor: &Accessor<GuestState>| {
            let mut event_loop = pin!(serve(accessor, &exports, &mut queues));
            // Polled once in each turn of the store's loop: the guest has yielded.
            poll_fn(|context| {
                unyielded.reset();
                Pin::as_mut(&mut event_loop).poll(context)
            })
            .await;
        })
        .await
}

async fn serve(accessor: &Accessor<GuestState>, exports: &Exports, queues: &mut Queues) {
    let Queues { calls, running_max, urgent } = queues;
    let mut running = FuturesUnordered::new();
    // As many as there are capabilities, calls under way and things that are open, at most.
    let mut beside = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = running.next(), if !running.is_empty() => {}
            Some(()) = beside.next(), if !beside.is_empty() => {}
            job = urgent.recv() => match job {
                Some(job) => beside.push(job(accessor, exports)),
                None => return,
            },
            job = calls.recv(), if running.len() < *running_max => match job {
                Some(job) => running.push(job(accessor, exports)),
                None => return,
            },
        }
    }
}
