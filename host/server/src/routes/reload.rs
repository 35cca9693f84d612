//! What runs: restarting backends, and letting other files of plugins take over.

use std::sync::Arc;

use axum::{Json, Router, routing::post};
use pintle_api::{
    backend::Backend,
    plugin::{AcceptQuery, Plugin},
};

use super::{AppState, backend, plugin};
use crate::{
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

async fn restart(state: AppState, names: Names<String>) -> Answer<Json<Backend>> {
    state.pintle.restart_backend(&names.0)?;
    backend::one(state, names).await
}

async fn accept(
    axum::extract::State(state): AppState,
    Names(name): Names<String>,
    Parameters(which): Parameters<AcceptQuery>,
) -> Answer<Json<Plugin>> {
    let accepted = state.pintle.accept_plugin(&name, which.sha256.as_deref()).await;
    Ok(Json(host::plugin(accepted.map_err(|error| plugin::failure(&error))?)))
}
