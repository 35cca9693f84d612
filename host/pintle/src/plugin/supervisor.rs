//! Keeps a backend's plugin running: starts it, notices its end, starts it again, replaces it by
//! another file, or gives up.

mod budget;
mod handover;
mod prepare;
mod repeat;

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    actor::{Incarnation, Operation},
    audit,
    backend::{Backend, BackendState, Serving},
    data_dir::{DataDir, DataDirError, excess},
    engine::StoreOptions,
    estate::{self, Estate},
    file::PluginFileError,
    limits::Limits,
    loader::Plugin,
    output::LastWords,
    pump,
};
use crate::settings::ShutdownRegistrations;

use budget::{RESTARTS_MAX, RestartBudget};
use handover::Room;
use prepare::explain;
pub(super) use prepare::{Prepared, missing_data_dir, network_of, prepare};
use repeat::repeat_requests;

const START: Operation = Operation::mutation("lifecycle.start");
const STOP: Operation = Operation::mutation("lifecycle.stop");

/// How often a data directory that another process has is tried.
const DATA_DIR_PERIOD: Duration = Duration::from_millis(100);

/// How often it is looked at what a data directory holds.
const USAGE_PERIOD: Duration = Duration::from_millis(250);

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
        match error {
            // Its turn comes again when the compiler has come to its end.
            PluginFileError::Slow { .. } => Self::Passing(error.to_string()),
            error => Self::Final(error.to_string()),
        }
    }
}

/// Runs until the backend is asked to stop.
pub(crate) async fn supervise(backend: Arc<Backend>) {
    let estate = estate::take(&backend);
    let mut supervisor = Supervisor {
        estate,
        stop: backend.stop_requested(),
        restart_requests: backend.restart_requests(),
        backend,
        plugin: None,
        earlier: None,
        last: None,
        data_dir: None,
        restarts: RestartBudget::new(),
        incarnations: 0,
    };
    supervisor.run().await;
    supervisor.end_last().await;
    let backend = supervisor.backend;
    backend.publish(BackendState::Stopped, "");
    backend.end_watches();
}

struct Supervisor {
    backend: Arc<Backend>,
    /// What the last host left, until a plugin has taken it over.
    estate: Option<Estate>,
    stop: watch::Receiver<bool>,
    /// What was asked for before the last start is not seen any more: that start was the answer.
    restart_requests: watch::Receiver<u64>,
    /// What it runs, also after an end: another file takes over only when it was let.
    plugin: Option<Arc<Plugin>>,
    /// What ran before another file took over.
    earlier: Option<Earlier>,
    /// The incarnation that was started last. It has ended when the next one is started; its store
    /// may still be there.
    last: Option<Last>,
    /// Locked from the first start to the end, over all incarnations.
    data_dir: Option<DataDir>,
    restarts: RestartBudget,
    incarnations: u64,
}

/// What ran before another file took over, and may have to again.
struct Earlier {
    plugin: Arc<Plugin>,
    replaced_at: Instant,
    /// What it left. A successor that never served has nothing to add to that.
    checkpoint: Option<Vec<u8>>,
    successor_served: bool,
}

struct Last {
    incarnation: Arc<Incarnation>,
    /// Whether it writes what nobody else may write at the same time.
    writes_alone: bool,
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
                        let checkpoint = self.backend.checkpoint.load();
                        self.earlier = self.plugin.replace(plugin).map(|plugin| Earlier {
                            plugin,
                            replaced_at: Instant::now(),
                            checkpoint,
                            successor_served: false,
                        });
                        continue;
                    }
                },
                Err(StartFailure::Final(reason)) if !self.goes_back(&reason) => {
                    tracing::error!(backend = &*self.backend.name, reason, "backend refused");
                    self.backend.publish(BackendState::Refused, &reason);
                    self.interrupt(&reason.into());
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
            if let Ok(false) = tokio::time::timeout(pause, self.revived()).await {
                return;
            }
        }
    }

    /// After a replacement that went wrong: whether the earlier plugin takes over again.
    fn goes_back(&mut self, reason: &str) -> bool {
        let Some(earlier) = self.earlier.take() else { return false };
        if earlier.replaced_at.elapsed() > PROBATION {
            return false;
        }
        let text = format!("the new file did not work, so the earlier one runs again: {reason}");
        self.backend.publish_wait(&text);
        if !earlier.successor_served {
            self.backend.checkpoint.restore(earlier.checkpoint);
        }
        let failed = self.plugin.replace(earlier.plugin);
        let sha256 = failed.map(|failed| failed.info.sha256.clone()).unwrap_or_default();
        tracing::error!(backend = &*self.backend.name, sha256, reason, "plugin not replaced");
        audit::refused("replace-plugin", &self.backend.name, &text);
        self.backend.remark(Some(&text));
        true
    }

    /// Waits for something that lets a backend try again which gave up, or waits for its next try;
    /// false when it is to stop.
    async fn revived(&mut self) -> bool {
        let mut wanted = self.backend.wanted();
        loop {
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return false,
                _ = self.restart_requests.changed() => {
                    // Only what could never be loaded is read again from its file.
                    if !self.backend.has_served() {
                        self.plugin = None;
                    }
                    break;
                }
                plugin = next_wanted(&mut wanted) => {
                    if self.backend.take_wanted(&plugin) {
                        self.plugin = Some(plugin);
                        break;
                    }
                }
            }
        }
        self.restarts = RestartBudget::new();
        self.backend.publish_wait("it is started again");
        true
    }

    /// Serves until the plugin ends, somebody wants another, or the backend is to stop.
    async fn serve(&mut self, serving: &Arc<Serving>) -> End {
        if let Some(earlier) = &mut self.earlier {
            earlier.successor_served = true;
        }
        if let Some(estate) = self.estate.take() {
            estate.settle();
        }
        self.backend.set_serving(Some(Arc::clone(serving)));
        self.backend.publish_serving();
        tracing::info!(backend = &*self.backend.name, plugin = &*serving.label, "backend serves");
        pump::start(&self.backend, serving);
        let repeating = tokio::spawn(repeat_requests(Arc::clone(&self.backend)));
        let filling = self.data_dir.as_ref().map(|dir| {
            let incarnation = Arc::downgrade(&serving.incarnation);
            tokio::spawn(watch_usage(
                dir.path().to_owned(),
                self.backend.limits.clone(),
                incarnation,
            ))
        });
        let end = self.until_end(serving).await;
        repeating.abort();
        if let Some(filling) = filling {
            filling.abort();
        }
        match &end {
            End::Died(reason) => {
                let reason = format!("its plugin ended: {reason}");
                // First: who finds nothing that serves waits for what comes next.
                self.backend.publish_wait(&reason);
                self.backend.set_serving(None);
                self.let_go(serving, &reason.into());
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
                reason = serving.incarnation.ended() => return End::Died(reason.to_string()),
                _ = self.restart_requests.changed() => return End::Restarted,
                plugin = next_wanted(&mut wanted) => plugin,
            };
            // What is wanted can be taken back until the last moment.
            match self.make_room(serving, &plugin, &mut wanted).await {
                Room::Made if self.backend.take_wanted(&plugin) => return End::Replaced(plugin),
                Room::Refused => {
                    self.backend.take_wanted(&plugin);
                }
                Room::Made | Room::Unwanted => {}
                Room::Ended(end) => return end,
            }
        }
    }

    /// What the end of an incarnation means for what was open: its leases are lost, the rest is
    /// asked for again. A lease that another one is asked for meanwhile is none of its business.
    fn let_go(&self, serving: &Serving, reason: &Arc<str>) {
        for (_, lease) in self.backend.routes.leases.all() {
            if lease.was_asked_of(serving.number) {
                lease.lose(Arc::clone(reason));
            }
        }
        self.interrupt(reason);
    }

    /// Tells everybody who follows something that nothing comes for the time being.
    fn interrupt(&self, reason: &Arc<str>) {
        let routes = &self.backend.routes;
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
            // Without `stop`, which takes everything back: the next host adopts what it finds.
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
        self.backend.publish_wait("the host is shutting down");
        self.backend.set_serving(None);
        serving.incarnation.kill("it was stopped");
        for (_, lease) in self.backend.routes.leases.all() {
            lease.lose("the host is shutting down".into());
        }
        if keep && clean {
            estate::leave(&self.backend);
        }
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
        self.restart_requests.mark_unchanged();
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
        self.last_gone(&plugin).await;
        // Before it is read for the successor: what an earlier one still writes comes too late.
        let checkpoint = backend.checkpoint.writer();
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
                checkpoint,
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
        self.last = Some(Last {
            incarnation: Arc::clone(&incarnation),
            writes_alone: plugin.info.single_writer || plugin.info.data_directory,
        });
        let label = format!("{} {}", plugin.info.name, plugin.info.version).into();
        self.incarnations += 1;
        let number = self.incarnations;
        let serving = Arc::new(Serving { number, plugin, incarnation, scrubber, label });
        let timeout = backend.limits.start_timeout;
        let started = serving.incarnation.call(START, timeout, move |accessor, guest, context| {
            Box::pin(async move { guest.lifecycle.call_start(accessor, context, options).await })
        });
        started.await.map_err(|failure| {
            // Whatever became of it: nobody will ask it for anything.
            serving.incarnation.kill("it did not start");
            explain(failure, &serving, &backend.limits)
        })?;
        Ok(serving)
    }

    /// Waits until nothing is left of the incarnation before `next`. Where one of the two writes
    /// what only one may write, for as long as it takes.
    async fn last_gone(&mut self, next: &Plugin) {
        let Some(Last { incarnation, writes_alone }) = &self.last else { return };
        if tokio::time::timeout(END_TIMEOUT, incarnation.dropped()).await.is_err() {
            let backend = &*self.backend.name;
            tracing::error!(backend, "the plugin has ended and does not let go of its store");
            if *writes_alone || next.info.single_writer {
                self.backend.publish_wait(
                    "its plugin has ended and does not let go of its files; it is not started \
                     again before that",
                );
                incarnation.dropped().await;
            }
        }
        self.last = None;
    }

    /// Ends the incarnation that was started last, and waits until nothing of it is left: its
    /// directory is given to others then.
    async fn end_last(&self) {
        let Some(Last { incarnation, writes_alone }) = &self.last else { return };
        incarnation.kill("it was stopped");
        let gone = incarnation.dropped();
        if *writes_alone {
            gone.await;
        } else {
            // Late or not: nothing depends on it.
            let _ = tokio::time::timeout(END_TIMEOUT, gone).await;
        }
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
        let Some(dir) = &self.data_dir else { return Ok(()) };
        match excess(dir.path().to_owned(), &self.backend.limits).await {
            Some(text) => Err(StartFailure::Final(text)),
            None => Ok(()),
        }
    }
}

/// The file that is to take over, as soon as there is one.
async fn next_wanted(wanted: &mut watch::Receiver<Option<Arc<Plugin>>>) -> Arc<Plugin> {
    let plugin = wanted.wait_for(Option::is_some).await.ok().and_then(|plugin| plugin.clone());
    match plugin {
        Some(plugin) => plugin,
        // The backend is gone, and nothing will ever be wanted.
        None => std::future::pending().await,
    }
}

/// Ends the incarnation when it takes more of its directory than it may.
async fn watch_usage(path: PathBuf, limits: Limits, plugin: Weak<Incarnation>) {
    loop {
        tokio::time::sleep(USAGE_PERIOD).await;
        let Some(incarnation) = plugin.upgrade() else { return };
        if let Some(text) = excess(path.clone(), &limits).await {
            return incarnation.kill(&text);
        }
    }
}
