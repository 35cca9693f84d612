//! Whether the server lives, and whether it can do its work.

use std::sync::Arc;

use axum::{Json, Router, http::StatusCode, routing::get};
use pintle::BackendState;
use pintle_api::backend::{Liveness, Readiness};

use super::AppState;
use crate::state::State;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

async fn healthz() -> Json<Liveness> {
    Json(Liveness {
        name: "pintle".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
    })
}

async fn readyz(axum::extract::State(state): AppState) -> (StatusCode, Json<Readiness>) {
    let waiting = state
        .pintle
        .backends()
        .into_iter()
        .filter(|status| status.state != BackendState::Serving)
        .map(|status| (status.name, format!("{}: {}", status.state.as_str(), status.reason)))
        .collect::<std::collections::BTreeMap<_, _>>();
    let ready = waiting.is_empty() && !state.stopping.has_begun();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, waiting }))
}
