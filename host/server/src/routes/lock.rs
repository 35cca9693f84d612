//! Locks and the leases on them.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    response::Response,
    routing::{delete, get, post},
};
use futures::StreamExt;
use pintle_api::lock::{
    Acquire, Lease, LeaseQuery, ListQuery, LockState, LocksPage, Released, Token,
};

use super::{AppState, page_limit};
use crate::{
    audit::Trail,
    convert::lock as convert,
    extract::{Document, Names, Parameters},
    failure::{Answer, Failure},
    leases::{Ended, LeaseName},
    state::State,
    stream::{self, Ends, Positioned},
};

/// Longest wait of one request for the loss of a lease.
pub(super) const LOSS_WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/backends/{backend}/locks", get(list))
        .route("/v1/backends/{backend}/locks/{name}", get(inspect))
        .route("/v1/backends/{backend}/locks/{name}/watch", get(watch))
        .route("/v1/backends/{backend}/locks/{name}/claims/{claim}", delete(force_release))
        .route(
            "/v1/backends/{backend}/locks/{name}/leases/{id}",
            get(read).put(acquire).delete(release),
        )
        .route("/v1/backends/{backend}/locks/{name}/leases/{id}/keepalive", post(keepalive))
}

async fn list(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<ListQuery>,
) -> Answer<Json<LocksPage>> {
    let lock = state.pintle.lock(&backend)?;
    let page = lock.list(&query.prefix, query.page, page_limit(query.limit)?).await?;
    Ok(Json(LocksPage { names: page.names, next: page.next }))
}

async fn inspect(
    axum::extract::State(state): AppState,
    Names((backend, name)): Names<(String, String)>,
) -> Answer<Json<LockState>> {
    let found = state.pintle.lock(&backend)?.inspect(&name).await?;
    Ok(Json(convert::state(&found)))
}

async fn watch(
    axum::extract::State(state): AppState,
    Names((backend, name)): Names<(String, String)>,
    ends: Ends,
) -> Answer<Response> {
    let watch = state.pintle.lock(&backend)?.watch(&name).await?;
    let events = watch.map(|item| {
        let event = convert::state(&item.map_err(Failure::from)?);
        Ok(Positioned { event, id: None })
    });
    Ok(stream::respond(events, ends))
}

async fn force_release(
    axum::extract::State(state): AppState,
    Names((backend, name, claim)): Names<(String, String, String)>,
    trail: Trail,
) -> Answer<Json<Released>> {
    let lock = state.pintle.lock(&backend)?;
    trail.about(lock.backend(), [&name]);
    trail.detail(format!("claim {claim}"));
    let released = lock.force_release(&name, &claim).await?;
    if !released {
        trail.detail(format!("claim {claim}, which was gone"));
    }
    Ok(Json(Released { released }))
}

async fn acquire(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    trail: Trail,
    Document(acquire): Document<Acquire>,
) -> Answer<Json<Lease>> {
    acquire_as(&state, names, &trail, acquire).await
}

/// Acquires the lock of that name.
pub(super) async fn acquire_as(
    state: &State,
    names: (String, String, String),
    trail: &Trail,
    acquire: Acquire,
) -> Answer<Json<Lease>> {
    let lock = state.pintle.lock(&names.0)?;
    trail.about(lock.backend(), [&names.1]);
    let name = LeaseName { backend: lock.backend().to_owned(), lock: names.1, id: names.2 };
    let key = name.lock.clone();
    let answer = state.leases.acquire(lock, name, acquire).await;
    let text = |token: &Token| token.value.to_string();
    match &answer {
        Ok(lease) => trail.versions(&key, None, lease.token.as_ref().map(text)),
        Err(failure) => {
            let mut holders = failure.problem().holders.iter();
            trail.versions(&key, holders.find_map(|claim| claim.token.as_ref().map(text)), None);
        }
    }
    answer.map(Json)
}

async fn keepalive(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
) -> Answer<Json<Lease>> {
    let name = lease_name(&state, names)?;
    state.leases.keepalive(&name).map(Json)
}

async fn read(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    Parameters(query): Parameters<LeaseQuery>,
) -> Answer<Json<Lease>> {
    let name = lease_name(&state, names)?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or_default()).min(LOSS_WAIT_MAX);
    state.leases.read(&name, wait).await.map(Json)
}

async fn release(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    trail: Trail,
) -> Answer<Json<Released>> {
    release_as(&state, names, &trail).await
}

/// Releases the lease of that name.
pub(super) async fn release_as(
    state: &State,
    names: (String, String, String),
    trail: &Trail,
) -> Answer<Json<Released>> {
    let name = lease_name(state, names)?;
    trail.about(&name.backend, [&name.lock]);
    let Ended { released, token } = state.leases.release(&name).await?;
    trail.versions(&name.lock, token.map(|token| token.to_string()), None);
    Ok(Json(Released { released }))
}

pub(super) fn lease_name(state: &State, names: (String, String, String)) -> Answer<LeaseName> {
    let (backend, lock, id) = names;
    let backend = state.pintle.lock(&backend)?.backend().to_owned();
    Ok(LeaseName { backend, lock, id })
}
