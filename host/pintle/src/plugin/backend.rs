//! A backend: one named use of a plugin, over all its incarnations.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use tokio::sync::watch;
use wasmtime::component::Accessor;

use super::{
    accepted::Accepted,
    actor::{CallFailure, GuestResult, Incarnation, Operation},
    bindings::types,
    convert,
    engine::Engine,
    file::{Capability, PluginInfo},
    guest::{Checkpoint, GuestState},
    limits::Limits,
    loader::{Exports, Loader, Plugin},
    network::{NetworkCounters, NetworkSnapshot},
    routes::Routes,
};
use crate::{
    error::{Cause, Effect, Ended, Error, Place, Refusal},
    lock::LeaseClock,
    metrics::CallMetrics,
    secret::Scrubber,
    settings::{BackendSettings, Settings},
    tracing::{OwnSpan, OwnSpans, Role, in_trace},
};

/// What all backends of a host share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) lease_clock: Arc<LeaseClock>,
    /// Which files the operator let take over.
    pub(crate) accepted: Accepted,
    pub(crate) settings: Settings,
    /// What this host does, as spans.
    pub(crate) own_spans: Arc<OwnSpans>,
    /// What its calls came to.
    pub(crate) call_metrics: CallMetrics,
    /// Identity of this host, given to plugins.
    pub(crate) node: Arc<str>,
}

/// One `[backends.NAME]`.
pub(crate) struct Backend {
    pub(crate) name: Arc<str>,
    pub(crate) settings: BackendSettings,
    pub(crate) limits: Limits,
    pub(crate) shared: Arc<Shared>,
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) routes: Routes,
    /// Over all incarnations.
    pub(crate) network_counters: Arc<NetworkCounters>,
    status: watch::Sender<Status>,
    serving: ArcSwapOption<Serving>,
    stopping: watch::Sender<bool>,
    /// A file that is to take over.
    wanted: watch::Sender<Option<Arc<Plugin>>>,
    /// Counts the wishes that it begin again.
    restarting: watch::Sender<u64>,
    has_served: AtomicBool,
    stopped_cleanly: AtomicBool,
    next_id: AtomicU64,
}

/// An incarnation that takes calls.
pub(crate) struct Serving {
    /// Counts the incarnations of the backend.
    pub(crate) number: u64,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) scrubber: Arc<Scrubber>,
    /// Name and version, for texts.
    pub(crate) label: Arc<str>,
}

/// How a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendState {
    /// Its plugin is being loaded and started.
    Starting,
    /// It takes calls.
    Serving,
    /// Its plugin ended and is being started again.
    Restarting,
    /// Its settings or its plugin's file do not work; somebody has to change them.
    Refused,
    /// Its plugin ended too often.
    Quarantined,
    /// The host is shutting down.
    Stopped,
}

impl BackendState {
    /// Its name in texts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Restarting => "restarting",
            Self::Refused => "refused",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        }
    }

    /// Whether waiting may help.
    const fn is_coming_up(self) -> bool {
        matches!(self, Self::Starting | Self::Restarting)
    }
}

/// What [`crate::Pintle::backends`] tells of a backend.
#[derive(Debug, Clone)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Name of its plugin.
    pub plugin: String,
    /// How it stands.
    pub state: BackendState,
    /// Why, where there is something to say.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
    /// How often its plugin was started again.
    pub restarts: u64,
    /// Whether the host refuses to start without it.
    pub required: bool,
    /// Addresses as the operator wrote them.
    pub endpoints: Vec<String>,
    /// What it used of the network, over all restarts of its plugin.
    pub network: NetworkSnapshot,
    /// What its plugin's file says, once it was loaded.
    pub plugin_info: Option<PluginInfo>,
}

#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) state: BackendState,
    pub(crate) reason: Arc<str>,
    since: SystemTime,
    restarts: u64,
    plugin_info: Option<Arc<Plugin>>,
    /// What to say of it while it serves: that a file waits, for instance.
    remark: Arc<str>,
}

/// One call, before it is made.
pub(crate) struct Call {
    pub(crate) operation: Operation,
    /// How long the guest may take; the backend's `limits.call` if nothing else is said.
    pub(crate) timeout: Option<Duration>,
    /// Features without which the plugin would have to refuse.
    pub(crate) needs: Vec<&'static str>,
    /// Make it on this incarnation only; without one: on whatever serves.
    pub(crate) on: Option<Arc<Serving>>,
}

impl Call {
    pub(crate) fn new(operation: Operation, timeout: Option<Duration>) -> Self {
        Self { operation, timeout, needs: Vec::new(), on: None }
    }

    /// Makes it on the incarnation of `serving` and no other.
    pub(crate) fn on(mut self, serving: &Arc<Serving>) -> Self {
        self.on = Some(Arc::clone(serving));
        self
    }

    /// Adds `feature` to what is needed if `condition` holds.
    pub(crate) fn needs_if(mut self, condition: bool, feature: &'static str) -> Self {
        if condition {
            self.needs.push(feature);
        }
        self
    }
}

impl Backend {
    pub(crate) fn new(
        name: &str,
        settings: BackendSettings,
        limits: Limits,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            settings,
            routes: Routes::new(&limits),
            limits,
            shared,
            checkpoint: Arc::default(),
            network_counters: Arc::default(),
            status: watch::Sender::new(Status {
                state: BackendState::Starting,
                reason: "".into(),
                since: SystemTime::now(),
                restarts: 0,
                plugin_info: None,
                remark: "".into(),
            }),
            serving: ArcSwapOption::empty(),
            stopping: watch::Sender::new(false),
            wanted: watch::Sender::new(None),
            restarting: watch::Sender::new(0),
            has_served: AtomicBool::new(false),
            stopped_cleanly: AtomicBool::new(true),
            next_id: AtomicU64::new(1),
        })
    }

    /// A number for a watch, lease or registration; never used twice.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes one call on whatever incarnation serves.
    ///
    /// While the plugin is being started this waits for it, within the call's timeout.
    pub(crate) async fn call<R, F>(&self, call: Call, function: F) -> Result<R, Error>
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
        let operation = call.operation;
        let made = async {
            let timeout = call.timeout.unwrap_or(self.limits.call_timeout);
            let serving = match call.on {
                Some(serving) => serving,
                None => self.wait_for_serving(operation, timeout).await?,
            };
            if let Some(feature) =
                call.needs.into_iter().find(|feature| !serving.plugin.has(feature))
            {
                let refusal = Refusal::Unsupported { feature };
                return Err(Error::new(
                    Cause::Refused(refusal),
                    self.place(operation, Some(&serving)),
                ));
            }
            self.require(operation, &serving)?;
            let call = serving.incarnation.call(operation, timeout, function);
            let Some(mut span) = self.begin_span(operation, &serving) else {
                return call.await.map_err(|failure| self.error(operation, &serving, failure));
            };
            let result = in_trace(span.headers(), call).await;
            let result = result.map_err(|failure| self.error(operation, &serving, failure));
            if let Err(error) = &result {
                span.fail(error.code());
            }
            result
        };
        self.shared.call_metrics.measure(&self.name, operation, made).await
    }

    /// A span around a call, where they are wanted; never around what brings spans away.
    fn begin_span(&self, operation: Operation, serving: &Serving) -> Option<OwnSpan> {
        let capability = operation.capability().filter(|it| *it != Capability::Tracing)?;
        let mut span = self.shared.own_spans.begin(Role::Client, || operation.name.to_owned())?;
        span.attribute("pintle.capability", capability.as_str());
        span.attribute("pintle.backend", &*self.name);
        span.attribute("pintle.plugin", &*serving.label);
        // Names the other side, as the conventions want it.
        span.attribute("peer.service", &*self.name);
        Some(span)
    }

    /// Whether the plugin declares `feature`; false while it is not known.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.status.borrow().plugin_info.as_ref().is_some_and(|plugin| plugin.has(feature))
    }

    /// What the plugin's file says; nothing while it could not be loaded.
    pub(crate) fn plugin(&self) -> Option<Arc<Plugin>> {
        self.status.borrow().plugin_info.clone()
    }

    /// The incarnation that serves now, without waiting.
    pub(crate) fn serving_now(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    pub(crate) fn state(&self) -> BackendState {
        self.status.borrow().state
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn describe(&self) -> BackendStatus {
        let status = self.status.borrow().clone();
        BackendStatus {
            name: self.name.to_string(),
            plugin: self.settings.plugin.clone(),
            state: status.state,
            reason: if status.state == BackendState::Serving {
                status.remark.to_string()
            } else {
                status.reason.to_string()
            },
            since: status.since,
            restarts: status.restarts,
            required: self.settings.required,
            endpoints: self.settings.endpoints.iter().map(ToString::to_string).collect(),
            network: self.network_counters.snapshot(),
            plugin_info: status.plugin_info.map(|plugin| plugin.info.clone()),
        }
    }

    pub(crate) fn place(&self, operation: Operation, serving: Option<&Serving>) -> Place {
        Place {
            backend: Arc::clone(&self.name),
            plugin: serving.map_or_else(|| "".into(), |serving| Arc::clone(&serving.label)),
            operation: operation.name,
        }
    }

    pub(crate) fn refuse(&self, operation: Operation, refusal: Refusal) -> Error {
        let serving = self.serving_now();
        Error::new(Cause::Refused(refusal), self.place(operation, serving.as_deref()))
    }

    /// Asks the supervisor to stop the plugin; [`Backend::subscribe`] tells when it has.
    pub(crate) fn request_stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(crate) fn stop_requested(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Asks the supervisor to begin again, also where it gave up.
    pub(crate) fn request_restart(&self) {
        self.restarting.send_modify(|wishes| *wishes += 1);
    }

    pub(crate) fn restart_requests(&self) -> watch::Receiver<u64> {
        self.restarting.subscribe()
    }

    /// Asks the supervisor to let this file take over.
    pub(crate) fn want(&self, plugin: &Arc<Plugin>) {
        self.wanted.send_replace(Some(Arc::clone(plugin)));
    }

    /// Takes back what was asked for and has not happened yet; answers whether there was something.
    pub(crate) fn want_nothing(&self) -> bool {
        self.wanted.send_replace(None).is_some()
    }

    /// Takes the wish for `plugin`, unless it was taken back or replaced by another meanwhile.
    pub(crate) fn take_wanted(&self, plugin: &Arc<Plugin>) -> bool {
        self.wanted.send_if_modified(|wanted| {
            wanted.take_if(|wanted| Arc::ptr_eq(wanted, plugin)).is_some()
        })
    }

    pub(crate) fn wanted(&self) -> watch::Receiver<Option<Arc<Plugin>>> {
        self.wanted.subscribe()
    }

    /// What to say of it while it serves.
    pub(crate) fn remark(&self, text: Option<&str>) {
        self.status.send_modify(|status| status.remark = text.unwrap_or_default().into());
    }

    /// Whether the plugin could release all that it held when it was stopped.
    pub(crate) fn stopped_cleanly(&self) -> bool {
        self.stopped_cleanly.load(Ordering::Acquire)
    }

    // For the supervisor.

    pub(crate) fn set_stopped_cleanly(&self, clean: bool) {
        self.stopped_cleanly.store(clean, Ordering::Release);
    }

    pub(crate) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Acquire)
    }

    pub(crate) fn publish_serving(&self) {
        self.has_served.store(true, Ordering::Release);
        self.publish(BackendState::Serving, "");
    }

    pub(crate) fn publish(&self, state: BackendState, reason: &str) {
        self.status.send_modify(|status| {
            status.state = state;
            status.reason = reason.into();
            status.since = SystemTime::now();
            if state == BackendState::Restarting {
                status.restarts += 1;
            }
        });
    }

    /// Ends every watch, with the reason why nothing serves: nothing will ever come of it.
    pub(crate) fn end_watches(&self) {
        self.routes.end_watches(&self.absence().into());
    }

    /// Says that the plugin is not started before something else happens, which `reason` names.
    pub(crate) fn publish_wait(&self, reason: &str) {
        self.status.send_modify(|status| {
            status.state = BackendState::Restarting;
            status.reason = reason.into();
            status.since = SystemTime::now();
        });
    }

    pub(crate) fn set_plugin(&self, plugin: &Arc<Plugin>) {
        self.status.send_modify(|status| status.plugin_info = Some(Arc::clone(plugin)));
    }

    pub(crate) fn set_serving(&self, serving: Option<Arc<Serving>>) {
        self.serving.store(serving);
    }

    /// The incarnation that serves, for a call that is to be made on it, waiting for it while it is
    /// being started. A call that finds none counts as made.
    pub(crate) async fn serving(
        &self,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Arc<Serving>, Error> {
        let begun = Instant::now();
        let found = self.wait_for_serving(operation, timeout).await;
        if let Err(error) = &found {
            self.shared.call_metrics.not_made(&self.name, operation, error, begun);
        }
        found
    }

    async fn wait_for_serving(
        &self,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Arc<Serving>, Error> {
        if let Some(serving) = self.serving_now() {
            return Ok(serving);
        }
        let mut status = self.subscribe();
        let settled = status.wait_for(|status| !status.state.is_coming_up());
        // Late or settled: the state says which.
        let _ = tokio::time::timeout(timeout, settled).await;
        if let Some(serving) = self.serving_now() {
            return Ok(serving);
        }
        Err(self.refuse(operation, self.absence()))
    }

    /// The incarnation that follows `ended`, if one serves within the time.
    pub(crate) async fn serving_after(
        &self,
        ended: &Serving,
        timeout: Duration,
    ) -> Option<Arc<Serving>> {
        let follows = || self.serving_now().filter(|now| now.number != ended.number);
        let mut status = self.subscribe();
        let settled = status.wait_for(|status| {
            let is_up = matches!(status.state, BackendState::Serving);
            follows().is_some() || !(is_up || status.state.is_coming_up())
        });
        // Late or settled: what serves says which.
        let _ = tokio::time::timeout(timeout, settled).await;
        follows()
    }

    /// Why nothing serves.
    pub(crate) fn absence(&self) -> Refusal {
        let status = self.status.borrow().clone();
        if status.state == BackendState::Stopped {
            return Refusal::ShuttingDown;
        }
        let mut reason = status.state.as_str().to_owned();
        if !status.reason.is_empty() {
            reason = format!("{reason}: {}", status.reason);
        }
        Refusal::NotRunning { reason }
    }

    /// Whether it will not serve again before somebody does something.
    pub(crate) fn is_settled_down(&self) -> bool {
        let state = self.status.borrow().state;
        !state.is_coming_up() && state != BackendState::Serving
    }

    /// Opens something by `attempt`, again and again while that may help, until `is_over`.
    ///
    /// # Errors
    ///
    /// The last one, when another attempt cannot help.
    pub(crate) async fn open_patiently<F: Future<Output = Result<(), Error>>>(
        &self,
        attempt: impl Fn() -> F,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Error> {
        while !is_over() {
            let permit = self.routes.openings.acquire().await;
            let opened = attempt().await;
            drop(permit);
            let Err(error) = opened else { return Ok(()) };
            if !error.is_transient() || self.is_settled_down() {
                return Err(error);
            }
            tokio::time::sleep(pause_after(&error)).await;
        }
        Ok(())
    }

    fn require(&self, operation: Operation, serving: &Serving) -> Result<(), Error> {
        let offered = &serving.plugin.info.capabilities;
        let Some(capability) = operation.capability().filter(|needed| !offered.contains(needed))
        else {
            return Ok(());
        };
        let refusal = Refusal::NoCapability {
            capability: capability.as_str(),
            offered: offered.iter().map(Capability::to_string).collect(),
        };
        Err(Error::new(Cause::Refused(refusal), self.place(operation, Some(serving))))
    }

    /// Ends an incarnation that answered what nobody can keep: `problem` says what.
    pub(crate) fn reject(&self, operation: Operation, serving: &Serving, problem: &str) -> Error {
        let reason = format!("{} answered {problem}", operation.name);
        serving.incarnation.kill(&reason);
        let failure = CallFailure::Ended { reason: reason.into(), begun: true };
        self.error(operation, serving, failure)
    }

    pub(crate) fn error(
        &self,
        operation: Operation,
        serving: &Serving,
        failure: CallFailure,
    ) -> Error {
        let cause = match failure {
            CallFailure::Plugin(error) => {
                Cause::Plugin(convert::error(error, &serving.scrubber, &self.limits))
            }
            CallFailure::Ended { reason, begun } => Cause::Ended(Ended {
                reason,
                effect: if begun && operation.mutates { Effect::Unknown } else { Effect::None },
            }),
            CallFailure::Busy { waiting, queued_max } => {
                Cause::Refused(Refusal::Busy { waiting, queued_max })
            }
        };
        Error::new(cause, self.place(operation, Some(serving)))
    }
}

/// Between attempts to open something, where nobody says how long to wait.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);
/// A plugin does not decide that there is no pause, or no next attempt.
const ATTEMPT_PAUSE_MIN: Duration = Duration::from_millis(100);
const ATTEMPT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long to wait after `error` before another attempt.
pub(super) fn pause_after(error: &Error) -> Duration {
    error.retry_after().unwrap_or(ATTEMPT_PAUSE).clamp(ATTEMPT_PAUSE_MIN, ATTEMPT_PAUSE_MAX)
}
