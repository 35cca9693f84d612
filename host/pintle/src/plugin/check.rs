//! Whether backends could start with their settings, found out without starting any.

use std::sync::Arc;

use super::{
    cache::CompiledCache,
    engine::Engine,
    file::PluginFileError,
    limits::Limits,
    loader::Loader,
    supervisor::{missing_data_dir, network_of},
};
use crate::settings::{BackendSettings, Origin, Problem, Settings};

/// What a check of the backends found.
#[derive(Default)]
pub(crate) struct Found {
    /// With these a backend does not start.
    pub(crate) problems: Vec<Problem>,
    /// What the operator should know although it works.
    pub(crate) warnings: Vec<Problem>,
}

/// Loads the plugin of each backend, lets it describe itself without any grant, and checks the
/// backend's settings against that.
pub(crate) async fn check_backends(settings: &Settings, engine: &Arc<Engine>) -> Found {
    // A folder that the check created might belong to the wrong user.
    let cache = settings.cache_folder().ok();
    let cache = CompiledCache::if_present(cache, engine.wasmtime.clone());
    let loader = Arc::new(Loader::new(Arc::clone(engine), settings.plugins_folder(), cache));
    let mut found = Found::default();
    for (name, backend) in &settings.backends {
        check(settings, name, backend, &loader, engine, &mut found).await;
    }
    // As the operator reads the file, not as the backends are named.
    found.problems.sort_by_key(line_of);
    found.warnings.sort_by_key(line_of);
    found
}

fn line_of(problem: &Problem) -> usize {
    match problem.origin {
        Some(Origin::File { line, .. }) => line,
        _ => 0,
    }
}

async fn check(
    settings: &Settings,
    name: &str,
    backend: &BackendSettings,
    loader: &Arc<Loader>,
    engine: &Engine,
    found: &mut Found,
) {
    let plugin = match loader.load(&backend.plugin, backend.sha256.as_deref()).await {
        Ok(plugin) => plugin,
        Err(error @ (PluginFileError::Missing { .. } | PluginFileError::Directory { .. })) => {
            let text = format!("{error}; so its settings cannot be checked");
            let problem = settings.problem_of(name, &["plugin"], text);
            let found = if backend.required { &mut found.problems } else { &mut found.warnings };
            return found.push(problem);
        }
        Err(error) => {
            let key = match error {
                PluginFileError::Digest { .. } => "sha256",
                _ => "plugin",
            };
            return found.problems.push(settings.problem_of(name, &[key], error.to_string()));
        }
    };
    if plugin.info.data_directory && backend.data_dir.is_none() {
        let text = missing_data_dir(name, &plugin);
        found.problems.push(settings.problem_of(name, &[], text));
    }
    match settings.prepare(name, &plugin.info.settings_schema) {
        Ok(prepared) => {
            let limits = Limits::of(&backend.limits);
            let runtime = engine.host_runtime();
            let network = network_of(name, backend, &limits, &prepared, Arc::default(), runtime);
            if let Err(error) = network {
                found.problems.push(settings.problem_of(name, &[], error.to_string()));
            }
            found.warnings.extend(prepared.warnings);
        }
        Err(refused) => found.problems.extend(refused.problems),
    }
}
