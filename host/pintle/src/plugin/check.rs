//! Whether backends could start with their settings, found out without starting any.

use std::sync::Arc;

use super::{
    accepted::Accepted,
    cache::CompiledCache,
    engine::Engine,
    file::PluginFileError,
    limits::Limits,
    loader::{Loader, Plugin},
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
    let limits = Limits::of_files(&settings.plugins.limits);
    let folder = settings.plugins_folder();
    let limits_of = limits.of_plugins(settings.backends.values());
    let loader = Arc::new(Loader::new(Arc::clone(engine), folder, cache, limits, limits_of));
    let mut found = Found::default();
    let accepted = Accepted::of(settings);
    for (name, backend) in &settings.backends {
        let pin = accepted.pin_of(name, backend);
        let plugin = loader.load(&backend.plugin, pin.as_deref()).await;
        check(settings, name, backend, plugin, engine, &mut found);
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

fn check(
    settings: &Settings,
    name: &str,
    backend: &BackendSettings,
    plugin: Result<Arc<Plugin>, PluginFileError>,
    engine: &Engine,
    found: &mut Found,
) {
    let plugin = match plugin {
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
            let guests = runtime.clone();
            let network =
                network_of(name, backend, &limits, &prepared, Arc::default(), runtime, guests);
            if let Err(error) = network {
                found.problems.push(settings.problem_of(name, &[], error.to_string()));
            }
            found.warnings.extend(prepared.warnings);
        }
        Err(refused) => found.problems.extend(refused.problems),
    }
}
