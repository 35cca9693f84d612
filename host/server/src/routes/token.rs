//! Access tokens, and what the caller may do.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    routing::{delete, get},
};
use pintle_api::{
    access::{Access, CreateToken, CreatedToken, Revoked, Tokens},
    problem::code,
};

use super::AppState;
use crate::{
    access::{Caller, CreateError},
    audit::Trail,
    extract::{Document, Names},
    failure::{Answer, Failure},
    state::State,
};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/access", get(access))
        .route("/v1/tokens", get(list).post(create))
        .route("/v1/tokens/{token}", delete(revoke))
}

async fn access(
    axum::extract::State(state): AppState,
    Extension(caller): Extension<Caller>,
) -> Json<Access> {
    Json(state.gate.describe(&caller))
}

async fn list(axum::extract::State(state): AppState) -> Json<Tokens> {
    Json(Tokens { tokens: state.gate.tokens.list() })
}

async fn create(
    axum::extract::State(state): AppState,
    Extension(caller): Extension<Caller>,
    trail: Trail,
    Document(request): Document<CreateToken>,
) -> Answer<Json<CreatedToken>> {
    trail.about("", [&request.name]);
    for name in &request.backends {
        state.pintle.backend(name)?;
    }
    let created_by = caller.name().to_owned();
    let (token, secret) =
        on_disk(&state, move |state| state.gate.tokens.create(request, &created_by)).await??;
    trail.detail(format!("role {}", token.role));
    trail.versions(&token.name.clone(), None, Some(token.id.clone()));
    Ok(Json(CreatedToken { token, secret }))
}

async fn revoke(
    axum::extract::State(state): AppState,
    Names(token): Names<String>,
    trail: Trail,
) -> Answer<Json<Revoked>> {
    trail.about("", [&token]);
    let wanted = token.clone();
    let revoked = on_disk(&state, move |state| state.gate.tokens.revoke(&wanted)).await??;
    let Some(revoked) = revoked else {
        let detail = format!("there is no token {token:?}");
        return Err(Failure::of(code::UNKNOWN_TOKEN, detail));
    };
    trail.versions(&token, Some(revoked.id.clone()), None);
    Ok(Json(Revoked { token: revoked }))
}

/// Does what writes to the disk where it holds nobody up.
async fn on_disk<T: Send + 'static>(
    state: &Arc<State>,
    work: impl FnOnce(&State) -> T + Send + 'static,
) -> Answer<T> {
    let state = Arc::clone(state);
    tokio::task::spawn_blocking(move || work(&state))
        .await
        .map_err(|error| Failure::of(code::INTERNAL, error.to_string()))
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let code = match &error {
            CreateError::Invalid(_) => code::INVALID,
            CreateError::Exists(_) => code::TOKEN_EXISTS,
            CreateError::Exhausted => code::EXHAUSTED,
            CreateError::NotKept => code::NOT_KEPT,
            CreateError::Unwritten(error) => {
                tracing::error!(%error, "access tokens are as they were");
                let detail = "the access tokens could not be written; the server's log says why";
                return Self::of(code::SERVER_FAILED, detail);
            }
        };
        Self::of(code, error.to_string())
    }
}
