//! Single incarnations, driven call by call through the plugins' own interface: without supervisor,
//! mirrors or lease clock between. What the conformance suite measures plugins with; no part of the
//! API, and free to change.

mod calls;
mod record;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use wasmtime::component::Accessor;

use super::{
    actor::{self, CallFailure, GuestResult, Operation},
    backend::{Backend, Shared},
    data_dir::DataDir,
    engine::StoreOptions,
    file::{PluginFileError, PluginInfo},
    guest::{Checkpoint, GuestState},
    limits::Limits,
    loader::Exports,
    output::LastWords,
    supervisor,
};
pub use super::{
    bindings::{config, lifecycle, lock, registry, tracing, types},
    sockets::{Faults, Weather},
};
use crate::{StartError, clock::BootTime, error::Refusal, host, settings::Settings};
pub use record::{Recorder, Spoken};

/// An engine and a folder of plugins. Incarnations of any of its backends are started one by one.
#[derive(Clone)]
pub struct Bench {
    shared: Arc<Shared>,
}

/// How an incarnation is started.
#[derive(Clone, Default)]
pub struct Start {
    /// Identity of the host.
    pub node: String,
    /// What a predecessor left; see [`Incarnation::checkpoint`].
    pub resume: Option<Vec<u8>>,
    /// The settings object as JSON, past the host's checks. Default: the backend's own.
    pub settings: Option<String>,
    /// The directory to grant instead of the backend's.
    pub data_dir: Option<PathBuf>,
    /// What happens to its connections.
    pub faults: Arc<Faults>,
    /// Hears of every call.
    pub recorder: Option<Recorder>,
}

/// Why a call has no result.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The plugin's own error.
    Error(types::Error),
    /// The incarnation ended: it trapped, was killed, or did not answer in time.
    Ended(String),
    /// It could not be started at all, or is not reached.
    Host(String),
}

/// One call: its number, and how long the guest may take.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    id: u64,
    timeout: Duration,
}

/// Above the numbers that the actor itself gives out.
const FIRST_CALL: u64 = 1 << 40;

/// How much longer than it was told a guest may take before it is ended: so much is still measured.
const PATIENCE: Duration = Duration::from_secs(3);

impl Call {
    /// A call with a number of its own.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST_CALL);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), timeout }
    }
}

impl Bench {
    /// Starts the engine. No plugin is loaded yet.
    ///
    /// # Errors
    ///
    /// As [`crate::Builder::start`], but for backends.
    pub fn open(settings: Settings) -> Result<Self, StartError> {
        Ok(Self { shared: host::share(settings, None)? })
    }

    /// The settings that it was opened with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Loads the plugin of `backend` and describes it in a store without any grant.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub async fn plugin(&self, backend: &str) -> Result<PluginInfo, PluginFileError> {
        let plugin = self.settings().backends.get(backend).map(|it| (&it.plugin, &it.sha256));
        let (name, sha256) = plugin.ok_or_else(|| PluginFileError::Missing {
            name: format!("(backend {backend})"),
            dir: self.settings().plugins_folder(),
            found: Vec::new(),
        })?;
        Ok(self.shared.loader.load(name, sha256.as_deref()).await?.info.clone())
    }

    /// What the plugin in any file is. It is compiled and describes itself without a grant.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub async fn inspect(&self, file: &Path) -> Result<PluginInfo, PluginFileError> {
        Ok(self.shared.loader.inspect(file).await?.info.clone())
    }

    /// Starts one more incarnation of `backend`'s plugin.
    ///
    /// # Errors
    ///
    /// What the host or the plugin refuses.
    pub async fn start(&self, backend: &str, start: Start) -> Result<Incarnation, Failure> {
        let settings = self.settings().backends.get(backend);
        let settings =
            settings.ok_or_else(|| Failure::Host(format!("no backend is named \"{backend}\"")))?;
        let limits = Limits { call_grace: PATIENCE, ..Limits::of(&settings.limits) };
        let shared = Arc::clone(&self.shared);
        let backend = Backend::new(backend, settings.clone(), limits, shared);
        let host = |error: String| Failure::Host(error);
        let loading = self.shared.loader.load(&settings.plugin, settings.sha256.as_deref());
        let plugin = loading.await.map_err(|error| host(error.to_string()))?;
        let prepared = supervisor::prepare(&backend, &plugin);
        let supervisor::Prepared { mut options, scrubber, network, thread } =
            prepared.map_err(|failure| host(failure.into_reason()))?;
        network.expose_to(&start.faults);
        options.node = start.node;
        options.resume = start.resume;
        if let Some(json) = start.settings {
            options.settings = json;
        }
        let data_dir = match start.data_dir.or_else(|| settings.data_dir.clone()) {
            Some(path) if plugin.info.data_directory => {
                Some(DataDir::open(&path).map_err(|error| host(error.to_string()))?)
            }
            _ => None,
        };
        let last_words = LastWords::default();
        let store = self.shared.engine.store(StoreOptions {
            backend: Arc::clone(&backend.name),
            limits: &backend.limits,
            scrubber,
            checkpoint: backend.checkpoint.writer(),
            data_dir: data_dir.as_ref().map(DataDir::path),
            last_words: last_words.clone(),
            network,
        });
        let store = store.map_err(|error| host(format!("{error:#}")))?;
        let limits = backend.limits.clone();
        let actor = actor::Incarnation::spawn(
            &self.shared.engine,
            thread,
            plugin,
            store,
            last_words,
            limits,
        );
        let started = Incarnation {
            actor,
            checkpoint: Arc::clone(&backend.checkpoint),
            recorder: start.recorder,
            data_dir: Mutex::new(data_dir),
        };
        let call = Call::within(backend.limits.start_timeout);
        match started.start(call, options).await {
            Ok(()) => Ok(started),
            Err(failure) => {
                started.kill().await;
                Err(failure)
            }
        }
    }
}

/// A plugin at work. Dropped, it is ended as by a crash of the host.
pub struct Incarnation {
    actor: Arc<actor::Incarnation>,
    checkpoint: Arc<Checkpoint>,
    recorder: Option<Recorder>,
    /// Locked until the store is gone.
    data_dir: Mutex<Option<DataDir>>,
}

impl Incarnation {
    /// What it handed over for a successor last.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Vec<u8>> {
        self.checkpoint.load()
    }

    /// Ends it as a crash does, and waits until its connections and files are closed.
    pub async fn kill(&self) {
        self.actor.kill("the suite ended it");
        self.actor.dropped().await;
        drop(self.data_dir.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Waits until it has ended, and says why.
    pub async fn ended(&self) -> Arc<str> {
        self.actor.ended().await
    }

    async fn call<R, F>(&self, name: &'static str, call: Call, function: F) -> Result<R, Failure>
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
        // The guest is told its own number and time, so that the suite can cancel it and see how
        // late it is; the actor's come on top.
        let context = types::Context {
            call_id: call.id,
            timeout_ms: u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX),
            trace: Vec::new(),
        };
        let result = self.actor.call(
            Operation::mutation(name),
            call.timeout + PATIENCE,
            move |accessor, exports, _| function(accessor, exports, context),
        );
        result.await.map_err(|failure| match failure {
            CallFailure::Plugin(error) => Failure::Error(error),
            CallFailure::Ended { reason, .. } => Failure::Ended(reason.to_string()),
            CallFailure::Busy { waiting, queued_max } => {
                Failure::Host(Refusal::Busy { waiting, queued_max }.to_string())
            }
        })
    }

    /// Runs a function that cannot wait, in the order of the calls.
    fn post<F>(&self, function: F) -> Result<(), Failure>
    where
        F: for<'a> FnOnce(
                &'a Accessor<GuestState>,
                &'a Exports,
            ) -> BoxFuture<'a, wasmtime::Result<()>>
            + Send
            + 'static,
    {
        let posted = self.actor.post(function);
        if posted { Ok(()) } else { Err(Failure::Host("its queue of calls is full".into())) }
    }
}

/// The clock that [`types::Validity::sent_at`] is read from, in nanoseconds.
#[must_use]
pub fn clock_ns() -> u64 {
    BootTime::now().nanos()
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => {
                let effect = match error.effect {
                    types::Effect::None => "none",
                    types::Effect::Unknown => "unknown",
                };
                write!(out, "error `{}`, effect {effect}: {}", error.code, error.message)
            }
            Self::Ended(reason) => write!(out, "the incarnation ended: {reason}"),
            Self::Host(reason) => out.write_str(reason),
        }
    }
}
