//! The audit trail.

use std::{io, sync::Arc};

use axum::{Json, Router, routing::get};
use pintle_api::{
    audit::{AuditPage, AuditQuery},
    problem::code,
};

use super::{AppState, page_limit};
use crate::{
    audit::read,
    extract::Parameters,
    failure::{Answer, Failure},
    state::State,
};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/v1/audit", get(list))
}

async fn list(
    axum::extract::State(state): AppState,
    Parameters(query): Parameters<AuditQuery>,
) -> Answer<Json<AuditPage>> {
    let limit = usize::try_from(page_limit(query.limit)?).unwrap_or(usize::MAX);
    let Some(folder) = state.audit.folder().map(ToOwned::to_owned) else {
        return Err(Failure::of(code::NOT_KEPT, "this API keeps no audit trail"));
    };
    let reading = tokio::task::spawn_blocking(move || read::page(&folder, &query, limit));
    match reading.await {
        Ok(Ok(page)) => Ok(Json(page)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(Failure::invalid(error.to_string()))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the audit trail cannot be read");
            let detail = "the audit trail cannot be read; the server's log says why";
            Err(Failure::of(code::SERVER_FAILED, detail))
        }
        Err(error) => Err(Failure::of(code::INTERNAL, error.to_string())),
    }
}
