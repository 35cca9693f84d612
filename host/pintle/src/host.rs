//! The host: settings in, capabilities out.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use crate::{
    config::Config,
    error::{Error, Refusal},
    leader::Leader,
    lock::{LeaseClock, Lock},
    metrics::CallMetrics,
    plugin::{
        Accepted, Backend, BackendState, BackendStatus, Capability, CompiledCache, Compiler,
        CompilerProgram, Engine, Found, Health, Limits, Loader, PluginDiff, PluginEntry,
        PluginFileError, PluginInfo, Processes, Shared, check_backends, follow, supervise,
        take_over,
    },
    registry::Registry,
    settings::{Problem, Settings, SettingsError},
    tracing::{BackendSink, OwnSpan, Pipeline, Role, Tracing, pipeline::Sink},
};

/// Time for the spans that are pending when the host stops.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// Names the default backend of a capability wherever a backend is named.
pub const DEFAULT: &str = "default";

/// A running host. Cheap to clone; the last clone that goes takes the plugins with it, and
/// [`Pintle::shutdown`] lets them leave cleanly first.
#[derive(Clone)]
pub struct Pintle(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    backends: BTreeMap<String, Arc<Backend>>,
    /// Begun when the backends have said what they offer.
    pipeline: OnceLock<Pipeline>,
}

/// Makes a [`Pintle`].
#[derive(Default)]
#[must_use]
pub struct Builder {
    settings: Option<Settings>,
    compiler: Option<CompilerProgram>,
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The machine does not let the sandbox run.
    #[error("the sandbox cannot be started: {0}")]
    Engine(String),
    /// The folder for compiled plugins cannot be used.
    #[error("the folder for compiled plugins cannot be used: {0}; set `cache_dir` in [plugins]")]
    Cache(std::io::Error),
    /// A backend that is required did not come up.
    #[error("backend {name} is required and is {state}: {reason}")]
    Required {
        /// Its name.
        name: String,
        /// Its state in a word.
        state: &'static str,
        /// Why.
        reason: String,
    },
}

/// What a check of a backend found.
#[derive(Debug, Clone)]
pub struct BackendCheck {
    /// How the host sees it.
    pub status: BackendStatus,
    /// What its plugin says of itself and its server; or why it says nothing.
    pub health: Result<Health, Error>,
    /// How long the answer took.
    pub took: Duration,
    /// When it was asked.
    pub at: SystemTime,
}

/// How a shutdown went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Backends whose plugins did not release everything in time: what they held ends with its TTL.
    pub unclean: Vec<String>,
}

impl ShutdownReport {
    /// Whether everything was released.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unclean.is_empty()
    }
}

impl Builder {
    /// Uses these settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Has plugins compiled by processes of `program`, instead of this one: what compiling takes,
    /// a hundred megabytes for a plugin, is then given back.
    pub fn compiler(mut self, program: CompilerProgram) -> Self {
        self.compiler = Some(program);
        self
    }

    /// Starts the host: loads the plugins and waits until each backend serves or has said why not.
    ///
    /// Without settings: the file that `PINTLE_SETTINGS` would name is not looked for, and the
    /// `local` backend is used.
    ///
    /// # Errors
    ///
    /// Fails for settings that cannot work and for a required backend that does not come up. Any
    /// other backend may come up later; [`Pintle::backends`] tells.
    pub async fn start(self) -> Result<Pintle, StartError> {
        let mut settings = match self.settings {
            Some(settings) => settings,
            None => Settings::load(None)?,
        };
        settings.ensure_backend()?;
        Pintle::start(settings, self.compiler).await
    }
}

impl Pintle {
    /// Begins to make a host.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a host with the settings of a file and the environment.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`]; a problem in the file is told with its line.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, StartError> {
        Self::builder().settings(Settings::load(Some(path.as_ref()))?).start().await
    }

    /// Checks whether the backends of `settings` could start, as far as that can be told without
    /// starting them: their plugins' files, secrets, certificates, and what is set for the plugins
    /// against the plugins' own schemas. Answers what the operator should know although it works.
    ///
    /// A plugin whose file is not there is a warning, since it may be put there later; unless its
    /// backend is required.
    ///
    /// # Errors
    ///
    /// Everything with which a backend would be refused, where it was written.
    pub async fn check(settings: &Settings) -> Result<Vec<Problem>, StartError> {
        let engine = Engine::start().map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let mut settings = settings.clone();
        settings.ensure_backend()?;
        let Found { problems, warnings } = check_backends(&settings, &engine).await;
        if problems.is_empty() { Ok(warnings) } else { Err(SettingsError { problems }.into()) }
    }

    async fn start(
        settings: Settings,
        compiler: Option<CompilerProgram>,
    ) -> Result<Self, StartError> {
        let shared = share(settings, compiler)?;
        let host = shared.engine.host_runtime();
        let clock = Arc::clone(&shared.lease_clock);
        host.spawn(async move { clock.run().await });
        let backends: BTreeMap<_, _> = shared
            .settings
            .backends
            .iter()
            .map(|(name, backend)| {
                let limits = Limits::of(&backend.limits);
                let backend = Backend::new(name, backend.clone(), limits, Arc::clone(&shared));
                host.spawn(supervise(Arc::clone(&backend)));
                (name.clone(), backend)
            })
            .collect();
        let all: Vec<_> = backends.values().cloned().collect();
        follow(&shared, &all);
        let pintle = Self(Arc::new(Inner { shared, backends, pipeline: OnceLock::new() }));
        for backend in pintle.0.backends.values() {
            settle(backend).await?;
        }
        // Begins it: from now on its sinks are known.
        let _ = pintle.pipeline();
        Ok(pintle)
    }

    /// Configuration on a backend; `default` means the default one.
    ///
    /// # Errors
    ///
    /// `unknown-backend`, `no-default` or `no-capability`.
    pub fn config(&self, backend: &str) -> Result<Config, Error> {
        self.find(backend, Capability::Config).map(Config::new)
    }

    /// The registry on a backend; `default` means the default one.
    ///
    /// # Errors
    ///
    /// `unknown-backend`, `no-default` or `no-capability`.
    pub fn registry(&self, backend: &str) -> Result<Registry, Error> {
        self.find(backend, Capability::Registry).map(Registry::new)
    }

    /// Locks on a backend; `default` means the default one.
    ///
    /// # Errors
    ///
    /// `unknown-backend`, `no-default` or `no-capability`.
    pub fn lock(&self, backend: &str) -> Result<Lock, Error> {
        self.find(backend, Capability::Lock).map(Lock::new)
    }

    /// Elections on a backend that offers locks; `default` means the default one for locks.
    ///
    /// # Errors
    ///
    /// `unknown-backend`, `no-default` or `no-capability`.
    pub fn leader(&self, backend: &str) -> Result<Leader, Error> {
        self.lock(backend).map(Leader::new)
    }

    /// A sink for spans; `default` means the first default one.
    ///
    /// # Errors
    ///
    /// `unknown-backend`, `no-default` or `no-capability`.
    pub fn tracing(&self, backend: &str) -> Result<Tracing, Error> {
        self.find(backend, Capability::Tracing).map(Tracing::new)
    }

    /// Where applications report their spans: it brings them to the backends that the settings choose
    /// for tracing, or to the only one that offers it.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        self.0.pipeline.get_or_init(|| {
            let shared = &self.0.shared;
            let settings = &shared.settings.tracing;
            let runtime = shared.engine.host_runtime();
            let pipeline = Pipeline::start(settings, self.sinks(), &runtime);
            if settings.own && pipeline.has_sink() {
                shared.own_spans.report_to(&pipeline, &shared.node);
            }
            pipeline
        })
    }

    /// Begins a span for a request that somebody makes to this host, in the trace that the caller
    /// belongs to ([`crate::tracing::in_trace`]). None unless `own` is set in `[tracing]`.
    ///
    /// `name` is asked for where a span begins, and answers one of few: a route, never a path.
    #[must_use]
    pub fn request_span(&self, name: impl FnOnce() -> String) -> Option<OwnSpan> {
        self.0.shared.own_spans.begin(Role::Server, name)
    }

    fn sinks(&self) -> Vec<Arc<dyn Sink>> {
        let chosen = &self.0.shared.settings.defaults.tracing;
        let backends: Vec<_> = if chosen.is_empty() {
            self.default_of(Capability::Tracing).into_iter().collect()
        } else {
            chosen.iter().filter_map(|name| self.named(name).ok().cloned()).collect()
        };
        let sink = |backend| Arc::new(BackendSink(Tracing::new(backend))) as Arc<dyn Sink>;
        backends.into_iter().map(sink).collect()
    }

    /// Shows what calls on backends came to in a registry of Prometheus metrics, from now on:
    /// `call_seconds`, by capability, backend, operation and outcome. Callers can make no new labels.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.0.shared.call_metrics.register(registry);
    }

    /// How every backend stands, by name.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendStatus> {
        self.0.backends.values().map(|backend| backend.describe()).collect()
    }

    /// How one backend stands.
    ///
    /// # Errors
    ///
    /// `unknown-backend`.
    pub fn backend(&self, name: &str) -> Result<BackendStatus, Error> {
        Ok(self.named(name)?.describe())
    }

    /// Asks a backend's plugin how it and its server are.
    ///
    /// # Errors
    ///
    /// `unknown-backend`. A plugin that does not answer is told in the result.
    pub async fn check_backend(&self, name: &str) -> Result<BackendCheck, Error> {
        let backend = self.named(name)?;
        let at = SystemTime::now();
        let asked = std::time::Instant::now();
        let health = backend.health().await;
        Ok(BackendCheck { status: backend.describe(), health, took: asked.elapsed(), at })
    }

    /// Every plugin file of the plugins' directory, usable or not.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be read.
    pub async fn plugins(&self) -> Result<Vec<PluginEntry>, PluginFileError> {
        self.0.shared.loader.list().await
    }

    /// What one plugin file is.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub async fn plugin(&self, name: &str) -> Result<PluginInfo, PluginFileError> {
        Ok(self.0.shared.loader.load(name, None).await?.info.clone())
    }

    /// Compares the file that a plugin's backend runs with the one that lies in the plugins'
    /// directory; nothing where no backend runs it.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub async fn plugin_diff(&self, name: &str) -> Result<Option<PluginDiff>, PluginFileError> {
        let new = self.0.shared.loader.load(name, None).await?;
        let using = self.0.backends.values().filter(|backend| backend.settings.plugin == name);
        let running = using.filter_map(|backend| backend.plugin()).next();
        Ok(running.map(|old| PluginDiff::between(&old.info, &new.info)))
    }

    /// Lets the file of a plugin take over from what its backends run, instead of what the settings
    /// pin, and although it asks for more or offers less. With `sha256` only if that is its digest.
    /// It is remembered until the pin in the settings is changed.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub async fn accept_plugin(
        &self,
        name: &str,
        sha256: Option<&str>,
    ) -> Result<PluginInfo, PluginFileError> {
        let shared = &self.0.shared;
        let plugin = shared.loader.load(name, sha256).await?;
        let using = || self.0.backends.values().filter(|backend| backend.settings.plugin == name);
        let pins = using().filter_map(|backend| backend.settings.sha256.as_deref());
        let pins = pins.map(str::to_ascii_lowercase);
        if let Err(error) = shared.accepted.accept(name, &plugin.info.sha256, pins) {
            tracing::error!(%error, "what was accepted is forgotten when the host ends");
        }
        for backend in using() {
            let runs = backend.plugin();
            if runs.is_none_or(|runs| runs.info.sha256 != plugin.info.sha256) {
                take_over(backend, &plugin);
            }
        }
        Ok(plugin.info.clone())
    }

    /// Ends a backend's plugin and starts it again, also where the host had given up on it. Its
    /// leases are reported lost.
    ///
    /// # Errors
    ///
    /// `unknown-backend`.
    pub fn restart_backend(&self, name: &str) -> Result<(), Error> {
        self.named(name)?.request_restart();
        Ok(())
    }

    /// The settings that it runs with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.shared.settings
    }

    /// Delivers the spans that are pending, lets every plugin release what it holds, and stops it. Calls
    /// made from now on are refused.
    ///
    /// Registrations are taken back, or stay until their TTL ends, as `shutdown.registrations` says.
    ///
    /// # Limits
    ///
    /// All together have `shutdown.deadline`; what is still held then ends with its TTL. Spans have half
    /// of it, and five seconds at most; what is not delivered then is dropped and counted.
    pub async fn shutdown(&self) -> ShutdownReport {
        let limit = self.0.shared.settings.shutdown.deadline;
        let deadline = tokio::time::Instant::now() + limit;
        let pipeline = self.pipeline();
        // Leases and registrations of the others do not wait for spans.
        for backend in self.0.backends.values().filter(|it| !pipeline.goes_to(&it.name)) {
            backend.request_stop();
        }
        pipeline.close(LAST_SPANS.min(limit / 2)).await;
        for backend in self.0.backends.values() {
            backend.request_stop();
        }
        let mut unclean = Vec::new();
        for backend in self.0.backends.values() {
            let mut status = backend.subscribe();
            let stopped = status.wait_for(|status| status.state == BackendState::Stopped);
            // Fails only when the backend is gone already.
            let in_time = tokio::time::timeout_at(deadline, stopped).await.is_ok();
            if !in_time || !backend.stopped_cleanly() {
                unclean.push(backend.name.to_string());
            }
        }
        ShutdownReport { unclean }
    }

    fn named(&self, name: &str) -> Result<&Arc<Backend>, Error> {
        let unknown = || Refusal::UnknownBackend {
            name: name.to_owned(),
            known: self.0.backends.keys().cloned().collect(),
        };
        Ok(self.0.backends.get(name).ok_or_else(unknown)?)
    }

    fn find(&self, name: &str, capability: Capability) -> Result<Arc<Backend>, Error> {
        if name == DEFAULT && !self.0.backends.contains_key(DEFAULT) {
            return self.default_of(capability);
        }
        let backend = self.named(name)?;
        // What cannot be told yet is told by the call.
        if let Some(plugin) = backend.plugin()
            && !plugin.info.capabilities.contains(&capability)
        {
            let offered = plugin.info.capabilities.iter().map(ToString::to_string).collect();
            return Err(Refusal::NoCapability { capability: capability.as_str(), offered }.into());
        }
        Ok(Arc::clone(backend))
    }

    /// The backend that the settings choose, or the only one that offers the capability.
    fn default_of(&self, capability: Capability) -> Result<Arc<Backend>, Error> {
        let defaults = &self.0.shared.settings.defaults;
        let chosen = match capability {
            Capability::Config => defaults.config.as_ref(),
            Capability::Registry => defaults.registry.as_ref(),
            Capability::Lock => defaults.lock.as_ref(),
            Capability::Tracing => defaults.tracing.first(),
        };
        if let Some(name) = chosen {
            return self.named(name).cloned();
        }
        if self.0.backends.len() == 1
            && let Some(only) = self.0.backends.values().next()
        {
            return self.find(&only.name, capability);
        }
        let offers = |backend: &&Arc<Backend>| {
            let plugin = backend.plugin();
            plugin.is_some_and(|plugin| plugin.info.capabilities.contains(&capability))
        };
        let candidates: Vec<_> = self.0.backends.values().filter(offers).collect();
        match candidates.as_slice() {
            [only] => Ok(Arc::clone(only)),
            several => Err(Refusal::NoDefault {
                capability: capability.as_str(),
                candidates: several.iter().map(|backend| backend.name.to_string()).collect(),
            }
            .into()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for backend in self.backends.values() {
            backend.request_stop();
        }
    }
}

/// Makes what all backends of a host share. Nothing runs yet.
pub(crate) fn share(
    settings: Settings,
    compiler: Option<CompilerProgram>,
) -> Result<Arc<Shared>, StartError> {
    let engine = Engine::start().map_err(|error| StartError::Engine(format!("{error:#}")))?;
    let limits = Limits::of_files(&settings.plugins.limits);
    let compiler = compiler.map_or(Compiler::Here, |program| {
        Compiler::Apart(Processes {
            program,
            runtime: engine.host_runtime(),
            memory_bytes: limits.compile_memory,
            timeout: limits.compile_timeout,
        })
    });
    let cache = CompiledCache::open(settings.cache_folder()?, engine.wasmtime.clone())
        .map_err(StartError::Cache)?
        .compiled_by(compiler);
    let limits_of = limits.of_plugins(settings.backends.values());
    let folder = settings.plugins_folder();
    let loader = Loader::new(Arc::clone(&engine), folder, cache, limits, limits_of);
    Ok(Arc::new(Shared {
        engine,
        loader: Arc::new(loader),
        lease_clock: Arc::new(LeaseClock::default()),
        accepted: Accepted::of(&settings),
        node: settings.node_name().into(),
        settings,
        own_spans: Arc::default(),
        call_metrics: CallMetrics::default(),
    }))
}

/// Waits for the first start of a backend to end, well or not.
async fn settle(backend: &Backend) -> Result<(), StartError> {
    let mut status = backend.subscribe();
    let settled = status.wait_for(|status| status.state != BackendState::Starting).await;
    let Ok(status) = settled else { return Ok(()) };
    if backend.settings.required && status.state != BackendState::Serving {
        return Err(StartError::Required {
            name: backend.name.to_string(),
            state: status.state.as_str(),
            reason: status.reason.to_string(),
        });
    }
    Ok(())
}
