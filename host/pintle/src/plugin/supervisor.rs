//! Keeps a backend's plugin running: starts it, notices its end, starts it again, replaces it by
//! another file, or gives up.

mod budget;
mod handover;
mod prepare;
mod repeat;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    actor::{Incarnation, Operation},
    audit,
    backend::{Backend, BackendState, Serving},
    data_dir::{DataDir, DataDirError, bytes_below},
    engine::StoreOptions,
    file::PluginFileError,
    loader::Plugin,
    output::LastWords,
    pump,
};
use crate::{
    lock::LeaseStatus,
    settings::{ByteSize, ShutdownRegistrations},
};

use budget::{RESTARTS_MAX, RestartBudget};
use prepare::explain;
pub(super) use prepare::{Prepared, missing_data_dir, network_of, prepare};
use repeat::repeat_requests;

const START: Operation = Operation::mutation("lifecycle.start");
const STOP: Operation = Operation::mutation("lifecycle.stop");

/// How often a data directory that another process has is tried.
const DATA_DIR_PERIOD: Duration = Duration::from_millis(100);

/// How often the size of a data directory is looked at.
const DATA_BYTES_PERIOD: Duration = Duration::from_millis(250);

/// How long the store of an incarnation that was ended may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A plugin that ends so soon after it replaced another is replaced by that again.
const PROBATION: Duration = Duration::from_secs(10);

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
        plugin: None,
        earlier: None,
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
    /// What it runs, also after an end: another file takes over only when it was let.
    plugin: Option<Arc<Plugin>>,
    /// What ran before that, and since when it does not any more.
    earlier: Option<(Arc<Plugin>, Instant)>,
    /// Locked from the first start to the end, over all incarnations.
    data_dir: Option<DataDir>,
    restarts: RestartBudget,
    incarnations: u64,
}

/// How the service of an incarnation ended.
enum End {
    /// By itself, or it was ended.
    Died(String),
    /// The backend is to stop.
    Stopped,
    /// Somebody wants it to begin again.
    Restarted,
    /// Another file takes over.
    Replaced(Arc<Plugin>),
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
                    End::Died(reason) => reason,
                    End::Stopped => return,
                    End::Restarted => {
                        self.restarts = RestartBudget::new();
                        continue;
                    }
                    End::Replaced(plugin) => {
                        self.earlier = self.plugin.replace(plugin).map(|old| (old, Instant::now()));
                        continue;
                    }
                },
                Err(StartFailure::Final(reason)) if !self.goes_back(&reason) => {
                    tracing::error!(backend = &*self.backend.name, reason, "backend refused");
                    self.backend.publish(BackendState::Refused, &reason);
                    self.let_go(&reason.into());
                    self.backend.end_watches();
                    if self.revived().await {
                        continue;
                    }
                    return;
                }
                Err(StartFailure::Final(_)) => continue,
                Err(StartFailure::Passing(reason)) => reason,
            };
            if self.goes_back(&reason) {
                continue;
            }
            let Some(pause) = self.restarts.take(Instant::now()) else {
                let reason =
                    format!("its plugin ended {RESTARTS_MAX} times in a row, last: {reason}");
                tracing::error!(backend = &*self.backend.name, reason, "backend quarantined");
                audit::done("quarantine", &self.backend.name, &reason);
                self.backend.publish(BackendState::Quarantined, &reason);
                self.backend.end_watches();
                if self.revived().await {
                    continue;
                }
                return;
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

    /// After a replacement that went wrong: whether the earlier plugin takes over again.
    fn goes_back(&mut self, reason: &str) -> bool {
        let Some((earlier, since)) = self.earlier.take() else { return false };
        if since.elapsed() > PROBATION {
            return false;
        }
        let text = format!("the new file did not work, so the earlier one runs again: {reason}");
        let failed = self.plugin.replace(earlier);
        let sha256 = failed.map(|failed| failed.info.sha256.clone()).unwrap_or_default();
        tracing::error!(backend = &*self.backend.name, sha256, reason, "plugin not replaced");
        audit::refused("replace-plugin", &self.backend.name, &text);
        self.backend.remark(Some(&text));
        true
    }

    /// Waits for something that lets a backend try again which gave up; false when it is to stop.
    async fn revived(&mut self) -> bool {
        let mut wanted = self.backend.wanted();
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => return false,
            () = self.backend.restart_requested() => {
                // Only what could never be loaded is read again from its file.
                if !self.backend.has_served() {
                    self.plugin = None;
                }
            }
            plugin = next_wanted(&mut wanted) => {
                self.plugin = plugin;
                self.backend.want(None);
            }
        }
        self.restarts = RestartBudget::new();
        self.backend.publish_wait("it is started again");
        true
    }

    /// Serves until the plugin ends, somebody wants another, or the backend is to stop.
    async fn serve(&mut self, serving: &Arc<Serving>) -> End {
        self.backend.set_serving(Some(Arc::clone(serving)));
        self.backend.publish_serving();
        tracing::info!(backend = &*self.backend.name, plugin = &*serving.label, "backend serves");
        pump::start(&self.backend, serving);
        let repeating = tokio::spawn(repeat_requests(Arc::clone(&self.backend)));
        let filling = self.data_dir.as_ref().map(|dir| {
            tokio::spawn(watch_size(
                dir.path().to_owned(),
                self.backend.limits.data_bytes,
                Arc::downgrade(&serving.incarnation),
            ))
        });
        let end = self.until_end(serving).await;
        repeating.abort();
        if let Some(filling) = filling {
            filling.abort();
        }
        match &end {
            End::Died(reason) => {
                self.backend.set_serving(None);
                self.let_go(&format!("its plugin ended: {reason}").into());
            }
            End::Stopped => self.stop_incarnation(serving).await,
            End::Restarted => self.end_for(serving, "somebody restarts the backend").await,
            End::Replaced(plugin) => {
                let label = format!("{} {}", plugin.info.name, plugin.info.version);
                self.end_for(serving, &format!("its plugin is replaced by {label}")).await;
            }
        }
        end
    }

    async fn until_end(&mut self, serving: &Arc<Serving>) -> End {
        let mut stop = self.stop.clone();
        let mut wanted = self.backend.wanted();
        loop {
            let plugin = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return End::Stopped,
                reason = serving.incarnation.ended() => {
                    return End::Died(serving.scrubber.scrub(&reason).into_owned());
                }
                () = self.backend.restart_requested() => return End::Restarted,
                plugin = next_wanted(&mut wanted) => plugin,
            };
            self.backend.want(None);
            if let Some(plugin) = plugin {
                match self.make_room(serving, &plugin).await {
                    handover::Room::Made => return End::Replaced(plugin),
                    handover::Room::Refused => {}
                    handover::Room::Ended(end) => return end,
                }
            }
        }
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
        let keep =
            self.backend.shared.settings.shutdown.registrations == ShutdownRegistrations::Keep;
        let clean = if keep {
            // Without `stop`, which takes everything back: the successor adopts what it finds.
            self.release_leases().await
        } else {
            let timeout = self.backend.limits.stop_timeout;
            let stopped = serving.incarnation.call(STOP, timeout, |accessor, guest, context| {
                Box::pin(async move { guest.lifecycle.call_stop(accessor, context).await })
            });
            match stopped.await {
                Ok(()) => true,
                Err(failure) => {
                    let error = self.backend.error(STOP, serving, failure);
                    tracing::warn!(%error, "plugin did not stop cleanly; what it held ends with its TTL");
                    false
                }
            }
        };
        self.backend.set_stopped_cleanly(clean);
        self.backend.set_serving(None);
        for (_, lease) in self.backend.routes.leases.all() {
            if !matches!(lease.status(), LeaseStatus::Released) {
                lease.lose("the host is shutting down".into());
            }
        }
        serving.incarnation.kill("it was stopped");
    }

    /// Releases every lease that is held; whether all could be.
    async fn release_leases(&self) -> bool {
        let held = self.backend.routes.leases.all().into_iter();
        let releasing = held.filter(|(_, lease)| lease.release());
        let releasing = releasing.map(|(id, _)| self.backend.lock_release(id));
        let releasing = futures::future::join_all(releasing);
        let timeout = self.backend.limits.stop_timeout;
        match tokio::time::timeout(timeout, releasing).await {
            Ok(released) => released.iter().all(Result::is_ok),
            Err(_) => false,
        }
    }

    async fn start(&mut self) -> Result<Arc<Serving>, StartFailure> {
        let backend = Arc::clone(&self.backend);
        let plugin = match &self.plugin {
            Some(plugin) => Arc::clone(plugin),
            None => {
                let loader = &backend.shared.loader;
                let pin = backend.shared.accepted.pin_of(&backend.name, &backend.settings);
                loader.load(&backend.settings.plugin, pin.as_deref()).await?
            }
        };
        self.plugin = Some(Arc::clone(&plugin));
        backend.set_plugin(&plugin);
        let Prepared { options, scrubber, network, thread } = prepare(&backend, &plugin)?;
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
            thread,
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
        started.await.map_err(|failure| explain(failure, &serving, &backend.limits))?;
        Ok(serving)
    }

    /// Takes the plugin's directory, waiting while another process has it: a server that stops, or
    /// a command.
    async fn grant_data_dir(&mut self, plugin: &Plugin) -> Result<(), StartFailure> {
        if !plugin.info.data_directory {
            return Ok(());
        }
        let name = &self.backend.name;
        let Some(path) = &self.backend.settings.data_dir else {
            return Err(StartFailure::Final(missing_data_dir(name, plugin)));
        };
        let mut told = false;
        while self.data_dir.is_none() {
            match DataDir::open(path) {
                Ok(opened) => self.data_dir = Some(opened),
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
        match full(path, self.backend.limits.data_bytes).await {
            Some(text) => Err(StartFailure::Final(text)),
            None => Ok(()),
        }
    }
}

/// The file that is to take over, as soon as there is one.
async fn next_wanted(
    wanted: &mut tokio::sync::watch::Receiver<Option<Arc<Plugin>>>,
) -> Option<Arc<Plugin>> {
    // Fails only when the backend is gone.
    wanted.wait_for(Option::is_some).await.ok().and_then(|plugin| plugin.clone())
}

/// Ends the incarnation when its directory holds more than it may.
async fn watch_size(path: std::path::PathBuf, max: u64, plugin: std::sync::Weak<Incarnation>) {
    loop {
        tokio::time::sleep(DATA_BYTES_PERIOD).await;
        let Some(incarnation) = plugin.upgrade() else { return };
        if let Some(text) = full(&path, max).await {
            return incarnation.kill(&text);
        }
    }
}

/// What to say of a directory that holds more than `max` bytes.
async fn full(path: &std::path::Path, max: u64) -> Option<String> {
    let folder = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || bytes_below(&folder)).await;
    match looked {
        Ok(Ok(bytes)) if bytes > max => {
            let max = ByteSize::from_bytes(max);
            Some(format!(
                "{} holds {bytes} bytes and may hold data_bytes = \"{max}\"; make room, or raise \
                 that in the backend's limits.more",
                path.display()
            ))
        }
        Ok(Ok(_)) | Err(_) => None,
        Ok(Err(error)) => {
            tracing::warn!(folder = %path.display(), %error, "its size cannot be told");
            None
        }
    }
}
