//! Finds plugin files, reads what they are, and compiles them.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use pintle_otlp::text::hex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::{Component, Instance, InstancePre};

use super::{
    audit,
    bindings::{config, lifecycle, lock, registry, tracing},
    cache::CompiledCache,
    compiler::Late,
    engine::{Engine, StoreOptions},
    file::{Capability, PluginEntry, PluginFileError, PluginInfo},
    guest::{Checkpoint, GuestState, printable},
    limits::{Limits, explain_trap},
    network::{Network, NetworkOptions},
    output::LastWords,
    shape,
    thread::PluginThread,
};
use crate::{
    secret::Scrubber,
    settings::{ByteSize, duration_text},
};

/// Versions of the WIT packages that this host serves.
const SERVED: &str = "0.1";

/// Loads plugins by name.
pub(crate) struct Loader {
    engine: Arc<Engine>,
    dir: PathBuf,
    cache: CompiledCache,
    limits: Limits,
    /// The limits under which plugins that have backends describe themselves.
    limits_of: HashMap<String, Limits>,
    /// One for each file that may be compiled at a time.
    compiling: Arc<Semaphore>,
    turns: Mutex<HashMap<FileKey, Weak<tokio::sync::Mutex<()>>>>,
    loaded: Mutex<HashMap<FileKey, Arc<Plugin>>>,
}

/// A file by its path and the digest of its content.
type FileKey = (PathBuf, String);

/// A plugin, compiled, linked and described.
pub(crate) struct Plugin {
    pub(crate) info: PluginInfo,
    pre: InstancePre<GuestState>,
    indices: Indices,
}

struct Indices {
    lifecycle: lifecycle::GuestIndices,
    config: Option<config::GuestIndices>,
    registry: Option<registry::GuestIndices>,
    lock: Option<lock::GuestIndices>,
    tracing: Option<tracing::GuestIndices>,
}

/// The functions of one instantiated plugin.
pub(crate) struct Exports {
    pub(crate) lifecycle: lifecycle::Guest,
    pub(crate) config: Option<config::Guest>,
    pub(crate) registry: Option<registry::Guest>,
    pub(crate) lock: Option<lock::Guest>,
    pub(crate) tracing: Option<tracing::Guest>,
}

impl Loader {
    pub(crate) fn new(
        engine: Arc<Engine>,
        dir: PathBuf,
        cache: CompiledCache,
        limits: Limits,
        limits_of: HashMap<String, Limits>,
    ) -> Self {
        let compiling = Arc::new(Semaphore::new(COMPILING_MAX));
        let (turns, loaded) = (Mutex::default(), Mutex::default());
        Self { engine, dir, cache, limits, limits_of, compiling, turns, loaded }
    }

    /// The plugins' directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names of the files that look like plugins, in order.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<String>, PluginFileError> {
        let unreadable = |error: io::Error| PluginFileError::Directory {
            dir: self.dir.clone(),
            problem: error.to_string(),
        };
        let mut names = Vec::new();
        for file in fs::read_dir(&self.dir).map_err(unreadable)? {
            let path = file.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "wasm")
                && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            {
                names.push(stem.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Every plugin of the directory, usable or not.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be read.
    pub(crate) async fn list(self: &Arc<Self>) -> Result<Vec<PluginEntry>, PluginFileError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            let plugin = self.load(&name, None).await.map(|plugin| plugin.info.clone());
            entries.push(PluginEntry { name, plugin });
        }
        Ok(entries)
    }

    /// Loads `NAME.wasm`, compiling it if need be. What was loaded before is kept.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    ///
    /// # Limits
    ///
    /// Two files are compiled at a time, each within `compile_timeout`; others wait for their turn.
    pub(crate) async fn load(
        self: &Arc<Self>,
        name: &str,
        pinned_sha256: Option<&str>,
    ) -> Result<Arc<Plugin>, PluginFileError> {
        let path = self.path_of(name)?;
        let loaded = self.load_file(name, &path, pinned_sha256).await;
        if let Err(error) = &loaded {
            let reason = error.to_string();
            audit::refused("load-plugin", &path.display().to_string(), &reason);
        }
        loaded
    }

    /// The plugin in a file of any directory, which need not be one that is in use.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub(crate) async fn inspect(
        self: &Arc<Self>,
        path: &Path,
    ) -> Result<Arc<Plugin>, PluginFileError> {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        self.load_file(name, path, None).await
    }

    async fn load_file(
        self: &Arc<Self>,
        name: &str,
        path: &Path,
        pinned_sha256: Option<&str>,
    ) -> Result<Arc<Plugin>, PluginFileError> {
        let file = self.aside(path, {
            let path = path.to_owned();
            move |loader: &Self| loader.read(&path)
        });
        let File { bytes, sha256 } = file.await??;
        if let Some(pinned) = pinned_sha256.filter(|pinned| !pinned.eq_ignore_ascii_case(&sha256)) {
            let pinned = pinned.to_ascii_lowercase();
            return Err(PluginFileError::Digest { path: path.to_owned(), found: sha256, pinned });
        }
        let key = (path.to_owned(), sha256.clone());
        if let Some(plugin) = self.loaded().get(&key) {
            return Ok(Arc::clone(plugin));
        }
        // Who comes for the same file meanwhile finds what the first one made of it.
        let turn = Arc::new(self.turn(&key).lock_owned().await);
        if let Some(plugin) = self.loaded().get(&key) {
            return Ok(Arc::clone(plugin));
        }
        // A closed semaphore would be no reason to wait; this one is never closed.
        let place = Arc::clone(&self.compiling).acquire_owned().await.ok();
        // Only now: what others take is not this file's time.
        let timeout = self.limits.compile_timeout;
        let busy = (place, Arc::clone(&turn));
        let compiled = tokio::time::timeout(timeout, self.compile(name, path, bytes, sha256, busy));
        let slow = |_| PluginFileError::Slow { path: path.to_owned(), timeout };
        let plugin = compiled.await.map_err(slow)??;
        let plugin = Arc::new(self.describe(plugin).await?);
        let mut loaded = self.loaded();
        // Who still runs an earlier one keeps it.
        loaded.retain(|(other, _), _| other != path);
        Ok(Arc::clone(loaded.entry(key).or_insert(plugin)))
    }

    /// Runs what takes its time where it holds up nobody.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        path: &Path,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, PluginFileError> {
        let loader = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&loader));
        done.await.map_err(|error| PluginFileError::NotComponent {
            path: path.to_owned(),
            problem: format!("the compiler failed: {error}"),
        })
    }

    async fn compile(
        self: &Arc<Self>,
        name: &str,
        path: &Path,
        bytes: Vec<u8>,
        sha256: String,
        busy: impl Send + 'static,
    ) -> Result<Plugin, PluginFileError> {
        let (name, owned) = (name.to_owned(), path.to_owned());
        let prepared = self.aside(path, move |loader: &Self| {
            let prepared = loader.prepare(&name, &owned, &bytes, sha256);
            // Until the compiler has ended, whoever still waits for it.
            drop(busy);
            prepared
        });
        prepared.await?
    }

    /// What those take in turns who load the same file.
    fn turn(&self, key: &FileKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key.clone(), Arc::downgrade(&turn));
        turn
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<FileKey, Arc<Plugin>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, name: &str) -> Result<PathBuf, PluginFileError> {
        let path = self.dir.join(format!("{name}.wasm"));
        // A name is a file's stem: nothing that leads out of the directory.
        let is_stem = Path::new(name).components().count() == 1 && !name.starts_with('.');
        if is_stem && path.is_file() {
            return self.inside(path);
        }
        Err(PluginFileError::Missing {
            name: name.to_owned(),
            dir: self.dir.clone(),
            found: self.names()?,
        })
    }

    /// A link may lead to another file of the directory, but not out of it: whoever may write there
    /// would then decide what runs here.
    fn inside(&self, path: PathBuf) -> Result<PathBuf, PluginFileError> {
        let unreadable = |error: io::Error| PluginFileError::Unreadable {
            path: path.clone(),
            problem: error.to_string(),
        };
        let target = path.canonicalize().map_err(unreadable)?;
        if target.starts_with(self.dir.canonicalize().map_err(unreadable)?) {
            return Ok(path);
        }
        let file = path.display().to_string();
        let error = PluginFileError::Link { path, target };
        audit::refused("load-plugin", &file, &error.to_string());
        Err(error)
    }

    fn prepare(
        &self,
        name: &str,
        path: &Path,
        bytes: &[u8],
        sha256: String,
    ) -> Result<Plugin, PluginFileError> {
        self.check_shape(path, bytes)?;
        let component = self.cache.compile(bytes, &sha256).map_err(|error| {
            let path = path.to_owned();
            if error.is::<Late>() {
                return PluginFileError::Slow { path, timeout: self.limits.compile_timeout };
            }
            PluginFileError::NotComponent { path, problem: printable_error(&error) }
        })?;
        let (capabilities, imports) = self.read_interfaces(&component, path)?;
        let mismatch = |error: wasmtime::Error| PluginFileError::Mismatch {
            path: path.to_owned(),
            problem: printable_error(&error),
        };
        let pre = self.engine.linker.instantiate_pre(&component).map_err(mismatch)?;
        let indices = Indices::find(&pre, &capabilities).map_err(mismatch)?;
        let info = PluginInfo {
            name: name.to_owned(),
            path: path.to_owned(),
            sha256,
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            version: String::new(),
            summary: String::new(),
            capabilities,
            features: std::collections::BTreeSet::new(),
            settings_schema: String::new(),
            single_writer: false,
            data_directory: false,
            imports,
        };
        Ok(Plugin { info, pre, indices })
    }

    /// Refuses what the compiler might not come to an end with.
    fn check_shape(&self, path: &Path, bytes: &[u8]) -> Result<(), PluginFileError> {
        let (shape, limits) = (shape::measure(bytes), &self.limits);
        let refuse = |what: String, limit: String| {
            Err(PluginFileError::Limit { path: path.to_owned(), what, limit })
        };
        let size = ByteSize::from_bytes;
        if shape.nesting > limits.nesting_max {
            let what = format!("{} components and modules inside each other", shape.nesting);
            return refuse(what, format!("nesting_max = {}", limits.nesting_max));
        }
        if shape.function_bytes > limits.function_bytes {
            let what = format!("a function of {} bytes", shape.function_bytes);
            return refuse(what, format!("function_bytes = \"{}\"", size(limits.function_bytes)));
        }
        if shape.code_bytes > limits.code_bytes {
            let what = format!("{} bytes of code", shape.code_bytes);
            return refuse(what, format!("code_bytes = \"{}\"", size(limits.code_bytes)));
        }
        Ok(())
    }

    /// Reads a file once: what is hashed is what is compiled, whatever happens to the file.
    fn read(&self, path: &Path) -> Result<File, PluginFileError> {
        let unreadable = |error: io::Error| PluginFileError::Unreadable {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        let file = fs::File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.mode() & WRITABLE_BY_ALL != 0 {
            return Err(PluginFileError::Exposed { path: path.to_owned() });
        }
        let (size, limit) = (metadata.len(), self.limits.component_bytes);
        let too_large = |size| PluginFileError::TooLarge { path: path.to_owned(), size, limit };
        if size > limit {
            return Err(too_large(size));
        }
        let mut bytes = Vec::new();
        // It may grow while it is read.
        file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > limit {
            return Err(too_large(size));
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        Ok(File { bytes, sha256 })
    }

    /// What the component exports and imports, read from its type before anything of it runs.
    fn read_interfaces(
        &self,
        component: &Component,
        path: &Path,
    ) -> Result<(Vec<Capability>, Vec<String>), PluginFileError> {
        let ty = component.component_type();
        let engine = &self.engine.wasmtime;
        let mut has_lifecycle = false;
        let mut capabilities = Vec::new();
        for (name, _) in ty.exports(engine) {
            let Some((interface, version)) = name.split_once('@') else { continue };
            if !interface.starts_with("pintle:") {
                continue;
            }
            if version.rsplit_once('.').is_none_or(|(track, _)| track != SERVED) {
                return Err(PluginFileError::Version {
                    path: path.to_owned(),
                    interface: interface.to_owned(),
                    found: version.to_owned(),
                    served: format!("{SERVED}.x"),
                });
            }
            has_lifecycle |= interface == "pintle:plugin/lifecycle";
            let offered =
                |capability: &Capability| interface == format!("pintle:{capability}/{capability}");
            capabilities.extend(Capability::ALL.into_iter().find(offered));
        }
        if !has_lifecycle {
            return Err(PluginFileError::NotPlugin { path: path.to_owned() });
        }
        if capabilities.is_empty() {
            return Err(PluginFileError::NoCapability { path: path.to_owned() });
        }
        capabilities.sort_unstable();
        let imports = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
        Ok((capabilities, imports))
    }

    /// Runs `describe` in a store without any grant.
    async fn describe(&self, mut plugin: Plugin) -> Result<Plugin, PluginFileError> {
        let path = plugin.info.path.clone();
        let limits = self.limits_of.get(&plugin.info.name).unwrap_or(&self.limits);
        let last_words = LastWords::default();
        let name = format!("({})", plugin.info.name);
        let failed = |problem: String| PluginFileError::Describe {
            path: path.clone(),
            problem: last_words.summary().unwrap_or(problem),
        };
        let thread = PluginThread::start(&name).map_err(|error| failed(error.to_string()))?;
        let nothing = NetworkOptions::new(name.clone(), self.engine.host_runtime());
        let network = Network::new(nothing).map_err(|error| failed(error.to_string()))?;
        let mut store = self
            .engine
            .store(StoreOptions {
                backend: name.into(),
                limits,
                scrubber: Arc::new(Scrubber::default()),
                checkpoint: Arc::new(Checkpoint::default()).writer(),
                data_dir: None,
                last_words: last_words.clone(),
                network,
            })
            .map_err(|error| failed(format!("{error:#}")))?;
        let (pre, indices) = (plugin.pre.clone(), plugin.indices.lifecycle.clone());
        let describe = async move {
            let instance = pre.instantiate_async(&mut store).await?;
            let lifecycle = indices.load(&mut store, &instance)?;
            store
                .run_concurrent(async move |accessor| lifecycle.call_describe(accessor).await)
                .await?
        };
        let mut describing = thread.run(describe, Duration::ZERO);
        let timeout = self.limits.describe_timeout;
        let Ok(described) = tokio::time::timeout(timeout, &mut describing).await else {
            describing.abort();
            return Err(failed(format!("no answer within {}", duration_text(timeout))));
        };
        let description = match described {
            Ok(Ok(description)) => description,
            Ok(Err(error)) => {
                let error = printable_error(&error);
                return Err(failed(explain_trap(&error, limits).unwrap_or(error)));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let features_max = self.limits.features_max;
        if description.features.len() > features_max {
            let count = description.features.len();
            return Err(failed(format!(
                "it declares {count} features; features_max is {features_max}"
            )));
        }
        let info = &mut plugin.info;
        info.version = printable(&description.version, NAME_BYTES_MAX);
        info.summary = printable(&description.summary, PROBLEM_BYTES_MAX);
        info.features = description.features.into_iter().collect();
        info.settings_schema = description.settings_schema;
        info.single_writer = description.single_writer;
        info.data_directory = description.data_directory;
        Ok(plugin)
    }
}

/// Most bytes of an error that may quote names out of a plugin's file.
const PROBLEM_BYTES_MAX: usize = 8 << 10;
/// Most bytes of a version.
const NAME_BYTES_MAX: usize = 256;
/// Files that are compiled at a time: the compiler uses every core for one.
const COMPILING_MAX: usize = 2;
/// The bit of a file's mode that lets everybody write it.
const WRITABLE_BY_ALL: u32 = 0o002;

fn printable_error(error: &wasmtime::Error) -> String {
    printable(&format!("{error:#}"), PROBLEM_BYTES_MAX)
}

/// What was read of a file.
struct File {
    bytes: Vec<u8>,
    sha256: String,
}

impl Plugin {
    /// Makes a fresh instance in `store`.
    ///
    /// # Errors
    ///
    /// Fails when a limit is passed or the component's start traps.
    pub(crate) async fn instantiate(
        &self,
        store: &mut wasmtime::Store<GuestState>,
    ) -> wasmtime::Result<Exports> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        self.indices.load(store, &instance)
    }

    /// Whether the plugin declares `feature`.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.info.features.contains(feature)
    }
}

impl Indices {
    fn find(pre: &InstancePre<GuestState>, capabilities: &[Capability]) -> wasmtime::Result<Self> {
        let has = |capability| capabilities.contains(&capability);
        Ok(Self {
            lifecycle: lifecycle::GuestIndices::new(pre)?,
            config: has(Capability::Config).then(|| config::GuestIndices::new(pre)).transpose()?,
            registry: has(Capability::Registry)
                .then(|| registry::GuestIndices::new(pre))
                .transpose()?,
            lock: has(Capability::Lock).then(|| lock::GuestIndices::new(pre)).transpose()?,
            tracing: has(Capability::Tracing)
                .then(|| tracing::GuestIndices::new(pre))
                .transpose()?,
        })
    }

    fn load(
        &self,
        store: &mut wasmtime::Store<GuestState>,
        instance: &Instance,
    ) -> wasmtime::Result<Exports> {
        Ok(Exports {
            lifecycle: self.lifecycle.load(&mut *store, instance)?,
            config: self
                .config
                .as_ref()
                .map(|found| found.load(&mut *store, instance))
                .transpose()?,
            registry: self
                .registry
                .as_ref()
                .map(|found| found.load(&mut *store, instance))
                .transpose()?,
            lock: self.lock.as_ref().map(|found| found.load(&mut *store, instance)).transpose()?,
            tracing: self
                .tracing
                .as_ref()
                .map(|found| found.load(&mut *store, instance))
                .transpose()?,
        })
    }
}
