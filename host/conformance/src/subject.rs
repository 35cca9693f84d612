//! The plugin under test, on the backend that the operator described.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use pintle::{
    PluginFileError, PluginInfo,
    direct::{Bench, Failure, Faults, Start},
    settings::BackendSettings,
};
use tempfile::TempDir;

use crate::{
    evidence::Evidence,
    owner::Owner,
    report::{Report, Verdict},
};

/// A plugin with everything that its incarnations are started with.
pub struct Subject {
    bench: Bench,
    backend: String,
    settings: BackendSettings,
    plugin: PluginInfo,
    /// Tells the runs on one server apart.
    run: String,
    /// For plugins that keep files: never the operator's own directory.
    scratch: Option<TempDir>,
    spaces: AtomicU64,
    /// The servers keep no lease shorter than this, as was learnt so far.
    ttl_ms_min: AtomicU32,
}

impl Subject {
    /// Loads the plugin of `backend`.
    ///
    /// # Errors
    ///
    /// A plugin that cannot even be described has no further measurement: the report that says so.
    pub async fn open(bench: &Bench, backend: &str) -> Result<Arc<Self>, Box<Report>> {
        let failed = |verdict, reason: String| Box::new(Report::unusable(backend, verdict, reason));
        let settings = bench.settings().backends.get(backend).cloned().unwrap_or_default();
        let plugin = bench.plugin(backend).await.map_err(|error| {
            let verdict = match &error {
                PluginFileError::Describe { .. } => Verdict::Fail,
                _ => Verdict::Inconclusive,
            };
            failed(verdict, error.to_string())
        })?;
        let scratch = plugin.data_directory.then(tempfile::tempdir).transpose();
        let scratch = scratch.map_err(|error| failed(Verdict::Inconclusive, error.to_string()))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{:x}-{:x}", since.as_micros(), std::process::id());
        Ok(Arc::new(Self {
            bench: bench.clone(),
            backend: backend.to_owned(),
            settings,
            plugin,
            run,
            scratch,
            spaces: AtomicU64::default(),
            ttl_ms_min: AtomicU32::default(),
        }))
    }

    /// What the plugin says of itself.
    #[must_use]
    pub fn plugin(&self) -> &PluginInfo {
        &self.plugin
    }

    /// The name of the backend.
    pub(crate) fn backend(&self) -> &str {
        &self.backend
    }

    /// What the operator says of the backend.
    pub(crate) fn settings(&self) -> &BackendSettings {
        &self.settings
    }

    /// Whether it talks to servers.
    pub(crate) fn has_network(&self) -> bool {
        !self.settings.endpoints.is_empty()
    }

    /// Whether anything outlives an incarnation.
    pub(crate) fn keeps(&self) -> bool {
        self.has_network() || self.plugin.data_directory
    }

    /// Whether two incarnations can work on the same data at once.
    pub(crate) fn shares(&self) -> bool {
        self.has_network() && !self.plugin.single_writer
    }

    /// The least TTL that the servers keep, in milliseconds; 0 as long as none was refused.
    pub(crate) fn ttl_ms_min(&self) -> u32 {
        self.ttl_ms_min.load(Ordering::Relaxed)
    }

    /// Remembers what a refusal said.
    pub(crate) fn keeps_no_lease_below(&self, ttl_ms: u32) {
        self.ttl_ms_min.fetch_max(ttl_ms, Ordering::Relaxed);
    }

    /// A part of the backend for one check alone.
    pub(crate) fn space(&self) -> Space {
        let number = self.spaces.fetch_add(1, Ordering::Relaxed);
        let data_dir = self.scratch.as_ref().map(|dir| dir.path().join(number.to_string()));
        Space { prefix: format!("pintle-conformance/{}/{number}", self.run), data_dir }
    }

    /// Starts an incarnation in `space`.
    pub(crate) async fn start(
        self: &Arc<Self>,
        name: &str,
        space: &Space,
        start: Start,
        evidence: &Evidence,
    ) -> Result<Arc<Owner>, Failure> {
        let faults: Arc<Faults> = Arc::clone(&start.faults);
        let start = Start {
            node: format!("conformance-{name}"),
            data_dir: space.data_dir.clone(),
            recorder: Some(evidence.recorder(name)),
            ..start
        };
        let raw = self.bench.start(&self.backend, start).await?;
        Ok(Arc::new(Owner::new(Arc::clone(self), raw, faults)))
    }
}

/// Where one check works, apart from all others.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// Of keys, lock names and services.
    pub(crate) prefix: String,
    /// For plugins that keep files.
    pub(crate) data_dir: Option<std::path::PathBuf>,
}
