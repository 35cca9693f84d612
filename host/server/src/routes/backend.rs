//! Backends.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    routing::{get, post},
};
use pintle::{Capability, Pintle};
use pintle_api::{
    DEFAULT_BACKEND,
    backend::{Backend, Backends, Check},
};

use super::AppState;
use crate::{access::Caller, convert::host, extract::Names, failure::Answer, state::State};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/backends", get(list))
        .route("/v1/backends/{backend}", get(one))
        .route("/v1/backends/{backend}/check", post(check))
}

async fn list(
    axum::extract::State(state): AppState,
    Extension(caller): Extension<Caller>,
) -> Json<Backends> {
    let statuses = state.pintle.backends();
    let backends = statuses
        .into_iter()
        .filter(|status| caller.may_use(&status.name))
        .map(|status| {
            let default_for = default_for(&state.pintle, &status.name);
            host::backend(status, default_for)
        })
        .collect();
    Json(Backends { backends })
}

pub(super) async fn one(
    axum::extract::State(state): AppState,
    Names(name): Names<String>,
) -> Answer<Json<Backend>> {
    let status = state.pintle.backend(&name)?;
    let default_for = default_for(&state.pintle, &status.name);
    Ok(Json(host::backend(status, default_for)))
}

async fn check(
    axum::extract::State(state): AppState,
    Names(name): Names<String>,
) -> Answer<Json<Check>> {
    let check = state.pintle.check_backend(&name).await?;
    let default_for = default_for(&state.pintle, &check.status.name);
    Ok(Json(host::check(check, default_for)))
}

/// The capabilities for which a backend is what `default` means.
fn default_for(pintle: &Pintle, name: &str) -> Vec<String> {
    let is_default = |capability: &Capability| match capability {
        Capability::Config => pintle.config(DEFAULT_BACKEND).is_ok_and(|c| c.backend() == name),
        Capability::Registry => pintle.registry(DEFAULT_BACKEND).is_ok_and(|r| r.backend() == name),
        Capability::Lock => pintle.lock(DEFAULT_BACKEND).is_ok_and(|l| l.backend() == name),
        Capability::Tracing => pintle.tracing(DEFAULT_BACKEND).is_ok_and(|t| t.backend() == name),
    };
    let defaults = Capability::ALL.into_iter().filter(is_default);
    defaults.map(|capability| capability.to_string()).collect()
}
