//! The server itself: whether it lives and can do its work, its metrics, its log, its description.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use pintle::BackendState;
use pintle_api::{
    backend::{Liveness, Readiness},
    problem::code,
    server::LogLevel,
};

use super::AppState;
use crate::{
    access::Caller,
    audit::Trail,
    extract::Document,
    failure::{Answer, Failure},
    openapi,
    state::{LogControl, State},
};

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/openapi.json", get(description))
        .route("/v1/server/log-level", get(log_level).put(set_log_level))
}

async fn healthz() -> Json<Liveness> {
    Json(Liveness {
        name: "pintle".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
    })
}

async fn readyz(
    axum::extract::State(state): AppState,
    Extension(caller): Extension<Caller>,
) -> (StatusCode, Json<Readiness>) {
    let waiting: Vec<_> = state
        .pintle
        .backends()
        .into_iter()
        .filter(|status| status.state != BackendState::Serving)
        .collect();
    let ready = waiting.is_empty() && !state.stopping.has_begun();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let told = caller.role().is_some();
    let waiting = waiting
        .into_iter()
        .filter(|status| told && caller.may_use(&status.name))
        .map(|status| (status.name, format!("{}: {}", status.state.as_str(), status.reason)))
        .collect();
    (status, Json(Readiness { ready, waiting }))
}

async fn metrics(axum::extract::State(state): AppState) -> Answer<Response> {
    let text = state.metrics.text(&state);
    let text = text.map_err(|error| Failure::of(code::INTERNAL, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, METRICS)], text).into_response())
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::text()).into_response()
}

async fn log_level(axum::extract::State(state): AppState) -> Answer<Json<LogLevel>> {
    Ok(Json(LogLevel { filter: log_control(&state)?.filter() }))
}

async fn set_log_level(
    axum::extract::State(state): AppState,
    trail: Trail,
    Document(level): Document<LogLevel>,
) -> Answer<Json<LogLevel>> {
    trail.about("", ["log-level"]);
    trail.detail(&level.filter);
    let control = log_control(&state)?;
    control
        .set_filter(&level.filter)
        .map_err(|reason| Failure::invalid(format!("filter: {reason}")))?;
    Ok(Json(LogLevel { filter: control.filter() }))
}

fn log_control(state: &State) -> Answer<&dyn LogControl> {
    state.log.as_deref().ok_or_else(|| {
        Failure::of(code::NOT_KEPT, "this server was given no log that could be set")
    })
}
