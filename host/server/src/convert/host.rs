//! Backends and plugins.

use pintle::{BackendCheck, BackendState, BackendStatus, Capability, HealthState, PluginInfo};
use pintle_api::{backend as api, plugin};

use super::{epoch_ms, milliseconds};

pub(crate) fn backend(status: BackendStatus, default_for: Vec<String>) -> api::Backend {
    let info = status.plugin_info.as_ref();
    api::Backend {
        plugin_version: info.map(|info| info.version.clone()),
        capabilities: info.map(capabilities).unwrap_or_default(),
        features: info.map(|info| info.features.iter().cloned().collect()).unwrap_or_default(),
        name: status.name,
        plugin: status.plugin,
        state: match status.state {
            BackendState::Starting => api::State::Starting,
            BackendState::Serving => api::State::Serving,
            BackendState::Restarting => api::State::Restarting,
            BackendState::Refused => api::State::Refused,
            BackendState::Quarantined => api::State::Quarantined,
            BackendState::Stopped => api::State::Stopped,
        },
        reason: status.reason,
        since_ms: epoch_ms(status.since),
        restarts: status.restarts,
        required: status.required,
        endpoints: status.endpoints,
        default_for,
    }
}

pub(crate) fn check(check: BackendCheck, default_for: Vec<String>) -> api::Check {
    let backend = backend(check.status, default_for);
    let elapsed_ms = milliseconds(check.took);
    match check.health {
        Ok(health) => api::Check {
            backend,
            health: match health.state {
                HealthState::Serving => api::HealthState::Serving,
                HealthState::Degraded => api::HealthState::Degraded,
                HealthState::Unavailable => api::HealthState::Unavailable,
            },
            message: health.message,
            details: health.details.into_iter().collect(),
            counters: health.counters.into_iter().collect(),
            elapsed_ms,
        },
        Err(error) => api::Check {
            backend,
            health: api::HealthState::Unavailable,
            message: error.to_string(),
            details: Default::default(),
            counters: Default::default(),
            elapsed_ms,
        },
    }
}

pub(crate) fn plugin(info: PluginInfo) -> plugin::Plugin {
    plugin::Plugin {
        capabilities: capabilities(&info),
        name: info.name,
        path: info.path.display().to_string(),
        sha256: info.sha256,
        size_bytes: info.size,
        version: info.version,
        summary: info.summary,
        features: info.features.into_iter().collect(),
        imports: info.imports,
        single_writer: info.single_writer,
        data_directory: info.data_directory,
        settings_schema: serde_json::from_str(&info.settings_schema).unwrap_or_default(),
    }
}

fn capabilities(info: &PluginInfo) -> Vec<String> {
    info.capabilities.iter().map(|capability: &Capability| capability.to_string()).collect()
}
