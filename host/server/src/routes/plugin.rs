//! Plugins.

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use pintle::PluginFileError;
use pintle_api::{
    plugin::{Plugin, PluginFile, Plugins},
    problem::code,
};

use super::AppState;
use crate::{
    convert::host,
    extract::Names,
    failure::{Answer, Failure},
    state::State,
};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/v1/plugins", get(list)).route("/v1/plugins/{plugin}", get(one))
}

async fn list(axum::extract::State(state): AppState) -> Answer<Json<Plugins>> {
    let entries = state.pintle.plugins().await.map_err(|error| failure(&error))?;
    let plugins = entries
        .into_iter()
        .map(|entry| match entry.plugin {
            Ok(info) => {
                PluginFile { name: entry.name, plugin: Some(host::plugin(info)), problem: None }
            }
            Err(error) => {
                PluginFile { name: entry.name, plugin: None, problem: Some(error.to_string()) }
            }
        })
        .collect();
    Ok(Json(Plugins { plugins }))
}

async fn one(
    axum::extract::State(state): AppState,
    Names(name): Names<String>,
) -> Answer<Json<Plugin>> {
    let info = state.pintle.plugin(&name).await.map_err(|error| failure(&error))?;
    Ok(Json(host::plugin(info)))
}

pub(super) fn failure(error: &PluginFileError) -> Failure {
    let code = match error {
        PluginFileError::Missing { .. } => code::UNKNOWN_PLUGIN,
        PluginFileError::Directory { .. } => code::PLUGINS_UNREADABLE,
        _ => code::BROKEN_PLUGIN,
    };
    Failure::of(code, error.to_string())
}
