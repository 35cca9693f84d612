//! One incarnation: the task that owns a store, and the calls that run in it.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};
use wasmtime::{Store, component::Accessor};

use super::{
    bindings::types,
    engine::Engine,
    file::Capability,
    guest::GuestState,
    limits::{Limits, explain_trap},
    loader::{Exports, Plugin},
    output::LastWords,
    thread::PluginThread,
    throttle::{HeldBack, Meters, throttle},
};

/// A plugin at work. Dropping every handle ends it.
pub(crate) struct Incarnation {
    jobs: mpsc::Sender<Job>,
    calls: Arc<Calls>,
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
}

impl Operation {
    pub(crate) const fn read(name: &'static str) -> Self {
        Self { name, mutates: false }
    }

    pub(crate) const fn mutation(name: &'static str) -> Self {
        Self { name, mutates: true }
    }

    fn is_start(self) -> bool {
        self.name == "lifecycle.start"
    }

    fn is_poll(self) -> bool {
        self.name.ends_with(".poll")
    }

    /// The capability that it belongs to; none for the lifecycle.
    pub(crate) fn capability(self) -> Option<Capability> {
        self.name.split_once('.')?.0.parse().ok()
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// The plugin's own error.
    Plugin(types::Error),
    /// The incarnation ended, after the call had begun or before.
    Ended { reason: Arc<str>, begun: bool },
    /// The queue stayed full until the call's timeout.
    Busy { waiting: usize },
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
        let (ended, ended_seen) = watch::channel(None);
        let (dropped, store_dropped) = watch::channel(false);
        let backend = Arc::clone(&store.data().host.backend);
        let unyielded = Arc::clone(&store.data().unyielded);
        let running = run(store, plugin, queue, limits.calls_running_max);
        let held_back = Arc::new(HeldBack::default());
        let meters = Meters { unyielded, held_back: Arc::clone(&held_back) };
        let throttled = throttle(limits.cpu, backend, meters, running);
        let handle = thread.handle();
        let task = thread.run(throttled);
        let calls = Arc::new(Calls {
            running: Mutex::default(),
            next_id: AtomicU64::new(1),
            ended,
            held_back,
            task: task.abort_handle(),
        });
        let host = engine.host_runtime();
        host.spawn(watch_deadlines(Arc::downgrade(&calls), jobs.downgrade(), limits.call_grace));
        let finished = Arc::clone(&calls);
        let known_limits = limits.clone();
        host.spawn(async move {
            let reason = match task.await {
                Ok(Ok(())) => "it was stopped".to_owned(),
                Ok(Err(error)) => {
                    let error = format!("{error:#}");
                    if let Some(limit) = explain_trap(&error, &known_limits) {
                        last_words.note(&limit);
                    }
                    last_words.summary().unwrap_or(error)
                }
                Err(error) if error.is_cancelled() => "it was stopped".to_owned(),
                Err(error) => error.to_string(),
            };
            finished.end(&reason);
            dropped.send_replace(true);
        });
        Arc::new(Self { jobs, calls, ended: ended_seen, store_dropped, limits, thread: handle })
    }

    /// Runs `function` in the store and waits for its result.
    ///
    /// The guest has `timeout`, then a grace period; past it the whole incarnation is ended, so this
    /// always returns.
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
        let (reply, answer) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let call = self.calls.begin(operation, timeout, self.jobs.downgrade());
        let context = types::Context {
            call_id: call.id,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            trace: crate::tracing::current_headers(),
        };
        let (job_begun, job_calls) = (Arc::clone(&begun), Arc::clone(&self.calls));
        let job: Job = Box::new(move |accessor, exports| {
            Box::pin(async move {
                let id = context.call_id;
                if !reply.is_closed() {
                    job_begun.store(true, Ordering::Relaxed);
                    let result = function(accessor, exports, context).await;
                    // Fails when the caller gave up meanwhile; nobody else needs the result.
                    let _ = reply.send(result);
                }
                job_calls.lock().remove(&id);
            })
        });
        if let Err(failure) = self.enqueue(job, timeout).await {
            self.calls.lock().remove(&call.id);
            call.finish();
            return Err(failure);
        }
        let mut ended = self.ended.clone();
        let result = tokio::select! {
            biased;
            result = answer => result.ok(),
            _ = ended.wait_for(Option::is_some) => None,
        };
        call.finish();
        match result {
            Some(Ok(Ok(value))) => Ok(value),
            Some(Ok(Err(error))) => Err(CallFailure::Plugin(error)),
            Some(Err(error)) => {
                let reason = format!("{}: {error:#}", operation.name);
                self.calls.end(&reason);
                Err(CallFailure::Ended { reason: reason.into(), begun: true })
            }
            // The reply was dropped: the store is ending, and the reason comes in a moment.
            None => {
                let reason = self.ended().await;
                Err(CallFailure::Ended { reason, begun: begun.load(Ordering::Relaxed) })
            }
        }
    }

    /// Runs a function that cannot wait and has no result, such as `close`, without waiting for it.
    ///
    /// With a full queue it is skipped and this answers false: the caller repeats it or lets go.
    pub(crate) fn post<F>(&self, function: F) -> bool
    where
        F: for<'a> FnOnce(
                &'a Accessor<GuestState>,
                &'a Exports,
            ) -> BoxFuture<'a, wasmtime::Result<()>>
            + Send
            + 'static,
    {
        post(&self.jobs, function)
    }

    /// Like [`Incarnation::post`], but with a full queue it waits for its turn in the background,
    /// on `runtime`.
    pub(crate) fn post_in_turn<F>(&self, runtime: &tokio::runtime::Handle, function: F)
    where
        F: for<'a> FnOnce(
                &'a Accessor<GuestState>,
                &'a Exports,
            ) -> BoxFuture<'a, wasmtime::Result<()>>
            + Send
            + 'static,
    {
        if let Err(mpsc::error::TrySendError::Full(job)) = self.jobs.try_send(posted(function)) {
            let jobs = self.jobs.clone();
            // Fails when the incarnation ends: then nothing of it is left.
            runtime.spawn(async move { jobs.send(job).await.ok() });
        }
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
        self.calls.lock().values().all(|running| running.operation.is_poll())
    }

    /// Ends the incarnation now, whatever it does.
    pub(crate) fn kill(&self, reason: &str) {
        self.calls.end(reason);
    }

    async fn enqueue(&self, job: Job, timeout: Duration) -> Result<(), CallFailure> {
        let job = match self.jobs.try_send(job) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.gone().await),
            Err(mpsc::error::TrySendError::Full(job)) => job,
        };
        match tokio::time::timeout(timeout, self.jobs.send(job)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.gone().await),
            Err(_) => Err(CallFailure::Busy { waiting: self.limits.calls_queued_max }),
        }
    }

    async fn gone(&self) -> CallFailure {
        CallFailure::Ended { reason: self.ended().await, begun: false }
    }
}

impl Drop for Incarnation {
    fn drop(&mut self) {
        self.calls.end("it was stopped");
    }
}

/// Calls under way, for the watchdog.
struct Calls {
    running: Mutex<HashMap<u64, Running>>,
    next_id: AtomicU64,
    ended: watch::Sender<Option<Arc<str>>>,
    /// For how long the store was held back.
    held_back: Arc<HeldBack>,
    task: AbortHandle,
}

struct Running {
    operation: Operation,
    timeout: Duration,
    deadline: Instant,
    /// For how long the store had been held back when the call began.
    held_before: Duration,
    /// The same when it was cancelled, if it was.
    cancelled: Option<Duration>,
}

impl Running {
    /// Whether the guest is to be asked to end it. `held` is how long the store was held back.
    fn is_late(&self, now: Instant, held: Duration) -> bool {
        // A plugin that cannot even start as slowly as it is let would never serve.
        let held_back = if self.operation.is_start() {
            held.saturating_sub(self.held_before)
        } else {
            Duration::ZERO
        };
        now >= self.deadline + held_back
    }

    /// Whether the guest had `grace` to end it after that. It cannot while it is held back.
    fn is_stuck(&self, now: Instant, held: Duration, grace: Duration) -> bool {
        let Some(held_then) = self.cancelled else { return false };
        let held_since = if self.operation.is_start() { self.held_before } else { held_then };
        now >= self.deadline + grace + held.saturating_sub(held_since)
    }
}

impl Calls {
    fn begin(
        self: &Arc<Self>,
        operation: Operation,
        timeout: Duration,
        jobs: mpsc::WeakSender<Job>,
    ) -> CallGuard {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let (deadline, held_before) = (now + timeout, self.held_back.total(now));
        let running = Running { operation, timeout, deadline, held_before, cancelled: None };
        self.lock().insert(id, running);
        CallGuard { id, calls: Arc::clone(self), jobs, finished: false }
    }

    /// The first reason wins.
    fn end(&self, reason: &str) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(reason.into());
            }
            first
        });
        self.task.abort();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the guest to end the call if nobody waits for it any more.
struct CallGuard {
    id: u64,
    calls: Arc<Calls>,
    jobs: mpsc::WeakSender<Job>,
    finished: bool,
}

impl CallGuard {
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The guest still works on it: the watchdog keeps an eye on it until `cancel` came through.
        let now = Instant::now();
        if let Some(running) = self.calls.lock().get_mut(&self.id) {
            let held = self.calls.held_back.total(now);
            *running =
                Running { deadline: now, held_before: held, cancelled: Some(held), ..*running };
        }
        if let Some(jobs) = self.jobs.upgrade() {
            cancel(&jobs, self.id, &self.calls);
        }
    }
}

/// How often deadlines are looked at. Calls are late by at most this much.
const WATCHDOG_TICK: Duration = Duration::from_millis(100);

/// Cancels calls that are past their deadline, and ends the incarnation when that does not help.
async fn watch_deadlines(
    calls: std::sync::Weak<Calls>,
    jobs: mpsc::WeakSender<Job>,
    grace: Duration,
) {
    let mut ticks = tokio::time::interval(WATCHDOG_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (Some(calls), Some(jobs)) = (calls.upgrade(), jobs.upgrade()) else { return };
        let now = Instant::now();
        let held = calls.held_back.total(now);
        let mut late = Vec::new();
        let mut stuck = None;
        for (id, running) in &mut *calls.lock() {
            if running.cancelled.is_none() && running.is_late(now, held) {
                running.cancelled = Some(held);
                late.push(*id);
            }
            if running.is_stuck(now, held, grace) {
                stuck = Some((running.operation.name, running.timeout));
            }
        }
        for id in late {
            cancel(&jobs, id, &calls);
        }
        if let Some((operation, timeout)) = stuck {
            let (timeout, grace) = (timeout.as_millis(), grace.as_millis());
            calls.end(&format!(
                "{operation} did not return within {timeout} ms and {grace} ms of grace"
            ));
            return;
        }
    }
}

fn cancel(jobs: &mpsc::Sender<Job>, id: u64, calls: &Arc<Calls>) {
    let calls = Arc::clone(calls);
    // With a full queue the call stays in the table and the watchdog ends the incarnation.
    post(jobs, move |accessor, exports| {
        Box::pin(async move {
            exports.lifecycle.call_cancel(accessor, id).await?;
            drop(calls);
            Ok(())
        })
    });
}

fn post<F>(jobs: &mpsc::Sender<Job>, function: F) -> bool
where
    F: for<'a> FnOnce(&'a Accessor<GuestState>, &'a Exports) -> BoxFuture<'a, wasmtime::Result<()>>
        + Send
        + 'static,
{
    jobs.try_send(posted(function)).is_ok()
}

fn posted<F>(function: F) -> Job
where
    F: for<'a> FnOnce(&'a Accessor<GuestState>, &'a Exports) -> BoxFuture<'a, wasmtime::Result<()>>
        + Send
        + 'static,
{
    Box::new(move |accessor, exports| {
        Box::pin(async move {
            if let Err(error) = function(accessor, exports).await {
                tracing::debug!(error = format!("{error:#}"), "a posted call failed");
            }
        })
    })
}

/// The task that owns the store. It returns when the last handle is gone, or with the trap.
async fn run(
    mut store: Store<GuestState>,
    plugin: Arc<Plugin>,
    mut queue: mpsc::Receiver<Job>,
    running_max: usize,
) -> wasmtime::Result<()> {
    let exports = plugin.instantiate(&mut store).await?;
    let unyielded = Arc::clone(&store.data().unyielded);
    store
        .run_concurrent(async move |accessor: &Accessor<GuestState>| {
            let mut event_loop = pin!(serve(accessor, &exports, &mut queue, running_max));
            // Polled once in each turn of the store's loop: the guest has yielded.
            poll_fn(|context| {
                unyielded.reset();
                Pin::as_mut(&mut event_loop).poll(context)
            })
            .await;
        })
        .await
}

async fn serve(
    accessor: &Accessor<GuestState>,
    exports: &Exports,
    queue: &mut mpsc::Receiver<Job>,
    running_max: usize,
) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = running.next(), if !running.is_empty() => {}
            job = queue.recv(), if running.len() < running_max => match job {
                Some(job) => running.push(job(accessor, exports)),
                None => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(operation: Operation, begun: Instant) -> Running {
        let timeout = Duration::from_secs(5);
        Running {
            operation,
            timeout,
            deadline: begun + timeout,
            held_before: Duration::from_secs(100),
            cancelled: None,
        }
    }

    #[test]
    fn time_in_which_a_plugin_is_held_back_is_not_taken_from_its_grace() {
        let begun = Instant::now();
        let (after, grace) = (|s| begun + Duration::from_secs(s), Duration::from_secs(1));
        let held = Duration::from_secs;
        let mut call = running(Operation::read("config.get"), begun);
        assert!(!call.is_late(after(4), held(103)));
        assert!(call.is_late(after(5), held(104)));
        call.cancelled = Some(held(104));
        // From then on it was held back all the time.
        assert!(!call.is_stuck(after(9), held(108), grace));
        assert!(call.is_stuck(after(9), held(107), grace));
        assert!(call.is_stuck(after(6), held(104), grace));
    }

    #[test]
    fn a_start_has_its_time_while_the_plugin_is_not_held_back() {
        let begun = Instant::now();
        let (after, grace) = (|s| begun + Duration::from_secs(s), Duration::from_secs(1));
        let held = Duration::from_secs;
        let mut start = running(Operation::mutation("lifecycle.start"), begun);
        assert!(!start.is_late(after(50), held(146)));
        assert!(start.is_late(after(50), held(145)));
        start.cancelled = Some(held(145));
        assert!(!start.is_stuck(after(60), held(155), grace));
        assert!(start.is_stuck(after(61), held(155), grace));
    }
}
