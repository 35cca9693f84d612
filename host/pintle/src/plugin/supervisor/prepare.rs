//! What an incarnation is started with, and why it does not start.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::StartFailure;
use crate::{
    error::Refusal,
    plugin::{
        actor::CallFailure,
        backend::{Backend, Serving},
        bindings::lifecycle,
        convert,
        http::HttpOptions,
        limits::Limits,
        loader::Plugin,
        network::{
            GuestEndpoint, Network, NetworkCounters, NetworkError, NetworkLimits, NetworkOptions,
        },
        thread::PluginThread,
        tls::TlsSetting,
    },
    secret::Scrubber,
    settings::{BackendSettings, PreparedSettings},
};

/// What the plugin is told and may reach: read anew at each start, so that a changed secret
/// counts.
pub(in crate::plugin) fn prepare(
    backend: &Backend,
    plugin: &Plugin,
) -> Result<Prepared, StartFailure> {
    let schema = &plugin.info.settings_schema;
    let prepared = backend.shared.settings.prepare(&backend.name, schema).map_err(refused)?;
    for warning in &prepared.warnings {
        tracing::warn!(backend = &*backend.name, "{warning}");
    }
    let scrubber = Arc::new(Scrubber::new(&prepared.secrets).map_err(refused)?);
    let thread = PluginThread::start(&backend.name)
        .map_err(|error| refused(format!("no thread can be started for it: {error}")))?;
    let network = network_of(
        &backend.name,
        &backend.settings,
        &backend.limits,
        &prepared,
        Arc::clone(&backend.network_counters),
        backend.shared.engine.host_runtime(),
        thread.handle(),
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
    Ok(Prepared { options, scrubber, network, thread })
}

/// What a backend's plugin may reach. Connections are made on `runtime`; those of the guest's own
/// bytes live on `guests`.
pub(in crate::plugin) fn network_of(
    name: &str,
    settings: &BackendSettings,
    limits: &Limits,
    prepared: &PreparedSettings,
    counters: Arc<NetworkCounters>,
    runtime: Handle,
    guests: Handle,
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
            connect_timeout: limits.connect_timeout,
            connects_per_second: limits.connects_per_second,
            names_max: limits.lookups_max,
            requests_max: limits.requests_max,
            ..NetworkLimits::default()
        },
        counters,
        guests,
        ..NetworkOptions::new(name, runtime)
    })
}

/// What to say of a backend whose plugin needs a directory that it was not given.
pub(in crate::plugin) fn missing_data_dir(name: &str, plugin: &Plugin) -> String {
    format!(
        "the plugin {} keeps files and has no directory for them; grant one by \
         data_dir = \"/var/lib/pintle/{name}\" in [backends.{name}]",
        plugin.info.name
    )
}

/// What an incarnation starts with.
pub(in crate::plugin) struct Prepared {
    pub(in crate::plugin) options: lifecycle::StartOptions,
    pub(in crate::plugin) scrubber: Arc<Scrubber>,
    pub(in crate::plugin) network: Network,
    pub(in crate::plugin) thread: PluginThread,
}

pub(super) fn refused(error: impl std::fmt::Display) -> StartFailure {
    StartFailure::Final(error.to_string())
}

pub(super) fn explain(failure: CallFailure, serving: &Serving, limits: &Limits) -> StartFailure {
    match failure {
        CallFailure::Plugin(error) => {
            let error = convert::error(error, &serving.scrubber, limits);
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
        CallFailure::Ended { reason, .. } => StartFailure::Passing(reason.to_string()),
        CallFailure::Busy { waiting, queued_max } => {
            StartFailure::Passing(Refusal::Busy { waiting, queued_max }.to_string())
        }
    }
}
