//! Keeps a backend's plugin running: starts it, notices its end, starts it again, or gives up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};

use super::{
    actor::{CallFailure, Incarnation, Operation},
    backend::{Backend, BackendState, Serving, pause_after},
    bindings::lifecycle,
    convert,
    data_dir::{DataDir, DataDirError},
    engine::StoreOptions,
    file::PluginFileError,
    http::HttpOptions,
    limits::Limits,
    loader::Plugin,
    network::{
        GuestEndpoint, Network, NetworkCounters, NetworkError, NetworkLimits, NetworkOptions,
    },
    output::LastWords,
    pump,
    routes::LockWatchRoute,
    tls::TlsSetting,
};
use crate::{
    error::Refusal,
    lock::LeaseStatus,
    registry::RegistrationRecord,
    secret::Scrubber,
    settings::{BackendSettings, PreparedSettings},
};

const START: Operation = Operation::mutation("lifecycle.start");
const STOP: Operation = Operation::mutation("lifecycle.stop");

/// Shortest and longest pause before a plugin is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How often a data directory that another process has is tried.
const DATA_DIR_PERIOD: Duration = Duration::from_millis(100);

/// How often a plugin may end before its backend is quarantined, and how fast it may again.
const RESTARTS_MAX: u32 = 8;
const RESTART_REFILL: Duration = Duration::from_secs(30);

/// Why a plugin did not start.
pub(super) enum StartFailure {
    /// It never will as things stand.
    Final(String),
    /// It may later: its server is away, or it trapped.
    Passing(String),
}

impl StartFailure {
    /// The reason, in words.
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Final(reason) | Self::Passing(reason) => reason,
        }
    }
}

impl From<PluginFileError> for StartFailure {
    fn from(error: PluginFileError) -> Self {
        Self::Final(error.to_string())
    }
}

/// Runs until the backend is asked to stop.
pub(crate) async fn supervise(backend: Arc<Backend>) {
    let mut supervisor = Supervisor {
        stop: backend.stop_requested(),
        backend,
        data_dir: None,
        restarts: RestartBudget::new(),
        incarnations: 0,
    };
    supervisor.run().await;
    let backend = supervisor.backend;
    backend.publish(BackendState::Stopped, "");
    backend.end_watches();
}

struct Supervisor {
    backend: Arc<Backend>,
    stop: tokio::sync::watch::Receiver<bool>,
    /// Locked from the first start to the end, over all incarnations.
    data_dir: Option<DataDir>,
    restarts: RestartBudget,
    incarnations: u64,
}

impl Supervisor {
    async fn run(&mut self) {
        loop {
            let mut stop = self.stop.clone();
            let started = tokio::select! {
                started = self.start() => started,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let reason = match started {
                Ok(serving) => match self.serve(&serving).await {
                    Some(reason) => reason,
                    None => return,
                },
                Err(StartFailure::Final(reason)) => {
                    tracing::error!(backend = &*self.backend.name, reason, "backend refused");
                    self.backend.publish(BackendState::Refused, &reason);
                    self.let_go(&reason.into());
                    self.backend.end_watches();
                    return self.stopped().await;
                }
                Err(StartFailure::Passing(reason)) => reason,
            };
            let Some(pause) = self.restarts.take(Instant::now()) else {
                let reason =
                    format!("its plugin ended {RESTARTS_MAX} times in a row, last: {reason}");
                tracing::error!(backend = &*self.backend.name, reason, "backend quarantined");
                self.backend.publish(BackendState::Quarantined, &reason);
                self.backend.end_watches();
                return self.stopped().await;
            };
            tracing::warn!(
                backend = &*self.backend.name,
                reason,
                ?pause,
                "plugin ended; starting it again"
            );
            self.backend.publish(BackendState::Restarting, &reason);
            let mut stop = self.stop.clone();
            let asked = stop.wait_for(|stop| *stop);
            if tokio::time::timeout(pause, asked).await.is_ok() {
                return;
            }
        }
    }

    async fn stopped(&mut self) {
        // Fails only when the backend is gone, and then there is nothing to stop either.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// Serves until the plugin ends, and says why; or until the backend is to stop.
    async fn serve(&mut self, serving: &Arc<Serving>) -> Option<String> {
        self.backend.set_serving(Some(Arc::clone(serving)));
        self.backend.publish(BackendState::Serving, "");
        tracing::info!(backend = &*self.backend.name, plugin = &*serving.label, "backend serves");
        pump::start(&self.backend, serving);
        let repeating = tokio::spawn(repeat_requests(Arc::clone(&self.backend)));
        let ended = tokio::select! {
            reason = serving.incarnation.ended() => Some(serving.scrubber.scrub(&reason).into_owned()),
            _ = self.stop.wait_for(|stop| *stop) => None,
        };
        repeating.abort();
        match &ended {
            Some(reason) => {
                self.backend.set_serving(None);
                self.let_go(&format!("its plugin ended: {reason}").into());
            }
            None => self.stop_incarnation(serving).await,
        }
        ended
    }

    /// What an end means for what was open: leases are lost, the rest is asked for again.
    fn let_go(&self, reason: &Arc<str>) {
        let routes = &self.backend.routes;
        for (_, lease) in routes.leases.all() {
            lease.lose(Arc::clone(reason));
        }
        for (_, registration) in routes.registrations.all() {
            registration.suspect(Arc::clone(reason));
        }
        routes.config.interrupt(reason);
        routes.instances.interrupt(reason);
    }

    async fn stop_incarnation(&self, serving: &Serving) {
        let timeout = self.backend.limits.stop_timeout;
        let stopped = serving.incarnation.call(STOP, timeout, |accessor, guest, context| {
            Box::pin(async move { guest.lifecycle.call_stop(accessor, context).await })
        });
        if let Err(failure) = stopped.await {
            let error = self.backend.error(STOP, serving, failure);
            tracing::warn!(%error, "plugin did not stop cleanly; what it held ends with its TTL");
        }
        self.backend.set_serving(None);
        for (_, lease) in self.backend.routes.leases.all() {
            if !matches!(lease.status(), LeaseStatus::Released) {
                lease.lose("the host is shutting down".into());
            }
        }
        serving.incarnation.kill("it was stopped");
    }

    async fn start(&mut self) -> Result<Arc<Serving>, StartFailure> {
        let backend = Arc::clone(&self.backend);
        let settings = &backend.settings;
        let loader = &backend.shared.loader;
        let plugin = loader.load(&settings.plugin, settings.sha256.as_deref()).await?;
        backend.set_plugin(&plugin);
        let Prepared { options, scrubber, network } = prepare(&backend, &plugin)?;
        self.grant_data_dir(&plugin).await?;

        let last_words = LastWords::default();
        let store = backend
            .shared
            .engine
            .store(StoreOptions {
                backend: Arc::clone(&backend.name),
                limits: &backend.limits,
                scrubber: Arc::clone(&scrubber),
                checkpoint: Arc::clone(&backend.checkpoint),
                data_dir: self.data_dir.as_ref().map(DataDir::path),
                last_words: last_words.clone(),
                network,
            })
            .map_err(|error| StartFailure::Final(format!("{error:#}")))?;
        let incarnation = Incarnation::spawn(
            &backend.shared.engine,
            Arc::clone(&plugin),
            store,
            last_words,
            backend.limits.clone(),
        );
        let label = format!("{} {}", plugin.info.name, plugin.info.version).into();
        self.incarnations += 1;
        let number = self.incarnations;
        let serving = Arc::new(Serving { number, plugin, incarnation, scrubber, label });
        let timeout = backend.limits.start_timeout;
        let started = serving.incarnation.call(START, timeout, move |accessor, guest, context| {
            Box::pin(async move { guest.lifecycle.call_start(accessor, context, options).await })
        });
        started.await.map_err(|failure| explain(failure, &serving))?;
        Ok(serving)
    }

    /// Takes the plugin's directory, waiting while another process has it: a server that stops, or
    /// a command.
    async fn grant_data_dir(&mut self, plugin: &Plugin) -> Result<(), StartFailure> {
        if !plugin.info.data_directory || self.data_dir.is_some() {
            return Ok(());
        }
        let name = &self.backend.name;
        let Some(path) = &self.backend.settings.data_dir else {
            return Err(StartFailure::Final(missing_data_dir(name, plugin)));
        };
        let mut told = false;
        loop {
            match DataDir::open(path) {
                Ok(opened) => {
                    self.data_dir = Some(opened);
                    return Ok(());
                }
                Err(error @ DataDirError::InUse { .. }) => {
                    if !std::mem::replace(&mut told, true) {
                        let reason = error.to_string();
                        tracing::warn!(backend = &**name, reason, "backend waits for its data");
                        self.backend.publish_wait(&reason);
                    }
                    tokio::time::sleep(DATA_DIR_PERIOD).await;
                }
                Err(error @ DataDirError::Io { .. }) => {
                    return Err(StartFailure::Final(error.to_string()));
                }
            }
        }
    }
}

/// What the plugin is told and may reach: read anew at each start, so that a changed secret
/// counts.
pub(super) fn prepare(backend: &Backend, plugin: &Plugin) -> Result<Prepared, StartFailure> {
    let schema = &plugin.info.settings_schema;
    let prepared = backend.shared.settings.prepare(&backend.name, schema).map_err(refused)?;
    for warning in &prepared.warnings {
        tracing::warn!(backend = &*backend.name, "{warning}");
    }
    let scrubber = Arc::new(Scrubber::new(&prepared.secrets).map_err(refused)?);
    let network = network_of(
        &backend.name,
        &backend.settings,
        &backend.limits,
        &prepared,
        Arc::clone(&backend.network_counters),
        backend.shared.engine.host_runtime(),
    )
    .map_err(refused)?;
    let endpoint = |GuestEndpoint { host, port, tls }| lifecycle::Endpoint { host, port, tls };
    let options = lifecycle::StartOptions {
        settings: prepared.json.expose().to_owned(),
        endpoints: network.endpoints().into_iter().map(endpoint).collect(),
        resume: backend.checkpoint.load(),
        backend: backend.name.to_string(),
        node: backend.shared.node.to_string(),
    };
    Ok(Prepared { options, scrubber, network })
}

/// What a backend's plugin may reach.
pub(super) fn network_of(
    name: &str,
    settings: &BackendSettings,
    limits: &Limits,
    prepared: &PreparedSettings,
    counters: Arc<NetworkCounters>,
    runtime: tokio::runtime::Handle,
) -> Result<Network, NetworkError> {
    let endpoints = settings.endpoints.iter();
    Network::new(NetworkOptions {
        endpoints: endpoints.map(|endpoint| endpoint.to_string().into()).collect(),
        allow: settings.allow.clone(),
        tls: settings.tls.clone().map_or(TlsSetting::Off, TlsSetting::On),
        http: HttpOptions {
            h2c: settings.http.h2c,
            proxy: prepared.proxy_url.as_ref().map(|url| url.expose().to_owned()),
        },
        limits: NetworkLimits {
            connections_max: usize::try_from(limits.connections).unwrap_or(usize::MAX),
            ..NetworkLimits::default()
        },
        counters,
        ..NetworkOptions::new(name, runtime)
    })
}

/// What to say of a backend whose plugin needs a directory that it was not given.
pub(super) fn missing_data_dir(name: &str, plugin: &Plugin) -> String {
    format!(
        "the plugin {} keeps files and has no directory for them; grant one by \
         data_dir = \"/var/lib/pintle/{name}\" in [backends.{name}]",
        plugin.info.name
    )
}

/// What an incarnation starts with.
pub(super) struct Prepared {
    pub(super) options: lifecycle::StartOptions,
    pub(super) scrubber: Arc<Scrubber>,
    pub(super) network: Network,
}

fn refused(error: impl std::fmt::Display) -> StartFailure {
    StartFailure::Final(error.to_string())
}

fn explain(failure: CallFailure, serving: &Serving) -> StartFailure {
    match failure {
        CallFailure::Plugin(error) => {
            let error = convert::error(error, &serving.scrubber);
            let settled = matches!(
                error.code.as_str(),
                "invalid" | "unsupported" | "unauthenticated" | "denied" | "not-found" | "conflict"
            );
            let setting = error.details.get("setting");
            let text = match setting {
                Some(key) => format!("settings.{key}: {}", error.message),
                None => error.message,
            };
            if settled { StartFailure::Final(text) } else { StartFailure::Passing(text) }
        }
        CallFailure::Ended { reason, .. } => {
            StartFailure::Passing(serving.scrubber.scrub(&reason).into_owned())
        }
        CallFailure::Busy { waiting } => {
            StartFailure::Passing(Refusal::Busy { waiting }.to_string())
        }
    }
}

/// Asks a new incarnation for everything that users have open: each on its own, because one that
/// is refused again and again must not hold up the others.
async fn repeat_requests(backend: Arc<Backend>) {
    let routes = &backend.routes;
    let (registrations, tails) = (routes.registrations.all(), routes.tails.all());
    let lock_watches = routes.lock_watches.all();
    let registering = registrations.iter().map(|(_, record)| register_again(&backend, record));
    let registering: FuturesUnordered<_> = registering.collect();
    let following: FuturesUnordered<_> =
        tails.iter().map(|(_, tail)| tail.reopen(&backend)).collect();
    let watching = lock_watches.iter().map(|(id, watch)| watch_lock_again(&backend, *id, watch));
    let watching: FuturesUnordered<_> = watching.collect();
    tokio::join!(
        registering.collect::<()>(),
        following.collect::<()>(),
        watching.collect::<()>(),
        routes.config.reopen(&backend),
        routes.instances.reopen(&backend),
    );
}

async fn watch_lock_again(backend: &Backend, id: u64, watch: &Arc<LockWatchRoute>) {
    let _permit = backend.routes.openings.acquire().await;
    if let Err(error) = backend.lock_watch(id, watch).await {
        watch.state.send_replace(Some(Err(error)));
    }
    // Its user may have gone while it was being opened, and closed what was not there yet.
    if backend.routes.lock_watches.find(id).is_none() {
        backend.lock_close(id);
    }
}

async fn register_again(backend: &Backend, registration: &Arc<RegistrationRecord>) {
    while !registration.is_over() {
        let permit = backend.routes.openings.acquire().await;
        let registered = backend.registry_register(None, registration).await;
        drop(permit);
        let Err(error) = registered else { return };
        if !registration.is_over() {
            registration.lost(error.to_string().into());
            // When this incarnation ends too, so does this task.
            tokio::time::sleep(pause_after(&error)).await;
        }
    }
}

/// Counts ends against a budget that refills with time.
struct RestartBudget {
    left: u32,
    refilled: Instant,
    backoff: Duration,
}

impl RestartBudget {
    fn new() -> Self {
        Self { left: RESTARTS_MAX, refilled: Instant::now(), backoff: BACKOFF_MIN }
    }

    /// How long to wait before the next start; nothing when the budget is used up.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        while self.left < RESTARTS_MAX && now.duration_since(self.refilled) >= RESTART_REFILL {
            self.left += 1;
            self.refilled += RESTART_REFILL;
            self.backoff = BACKOFF_MIN;
        }
        if self.left == RESTARTS_MAX {
            self.refilled = now;
        }
        self.left = self.left.checked_sub(1)?;
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_a_row_back_off_and_then_quarantine() {
        let mut budget = RestartBudget::new();
        let now = Instant::now();
        let pauses: Vec<_> = (0..RESTARTS_MAX).map(|_| budget.take(now).unwrap()).collect();
        assert_eq!(pauses[0], BACKOFF_MIN);
        assert!(pauses.is_sorted());
        assert_eq!(budget.take(now), None);
    }

    #[test]
    fn the_budget_refills_with_time() {
        let mut budget = RestartBudget::new();
        let now = Instant::now();
        while budget.take(now).is_some() {}
        assert_eq!(budget.take(now + RESTART_REFILL), Some(BACKOFF_MIN));
        assert_eq!(budget.take(now + RESTART_REFILL), None);
    }
}
