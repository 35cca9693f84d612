//! What runs: restarting backends, and letting other files of plugins take over.

use std::sync::Arc;

use axum::{Json, Router, routing::post};
use pintle_api::{
    backend::Backend,
    plugin::{AcceptQuery, Plugin},
};

use super::{AppState, backend, plugin};
use crate::{
    audit::Trail,
    convert::host,
    extract::{Names, Parameters},
    failure::Answer,
    state::State,
};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/backends/{backend}/restart", post(restart))
        .route("/v1/plugins/{plugin}/accept", post(accept))
}

async fn restart(
    state: AppState,
    Names(name): Names<String>,
    trail: Trail,
) -> Answer<Json<Backend>> {
    trail.about(&name, [&name]);
    state.pintle.restart_backend(&name)?;
    backend::one(state, Names(name)).await
}

async fn accept(
    axum::extract::State(state): AppState,
    Names(name): Names<String>,
    Parameters(which): Parameters<AcceptQuery>,
    trail: Trail,
) -> Answer<Json<Plugin>> {
    trail.about("", [&name]);
    let accepted = state.pintle.accept_plugin(&name, which.sha256.as_deref()).await;
    let plugin = host::plugin(accepted.map_err(|error| plugin::failure(&error))?);
    trail.versions(&name, None, Some(plugin.sha256.clone()));
    Ok(Json(plugin))
}
