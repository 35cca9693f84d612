//! Elections: the locks below `leader/`, under their own name.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    response::Response,
    routing::{get, post},
};
use futures::StreamExt;
use pintle_api::{
    leader::{Election, lock_name},
    lock::{Acquire, Lease, LeaseQuery, Released},
};

use super::{
    AppState,
    lock::{LOSS_WAIT_MAX, acquire_as, lease_name, release_as},
};
use crate::{
    audit::Trail,
    convert::lock as convert,
    extract::{Document, Names, Parameters},
    failure::{Answer, Failure},
    state::State,
    stream::{self, Ends, Positioned},
};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/backends/{backend}/leaders/{election}", get(show))
        .route("/v1/backends/{backend}/leaders/{election}/watch", get(watch))
        .route(
            "/v1/backends/{backend}/leaders/{election}/leases/{term}",
            get(term).put(campaign).delete(resign),
        )
        .route("/v1/backends/{backend}/leaders/{election}/leases/{term}/keepalive", post(keepalive))
}

async fn show(
    axum::extract::State(state): AppState,
    Names((backend, election)): Names<(String, String)>,
) -> Answer<Json<Election>> {
    let found = state.pintle.lock(&backend)?.inspect(&lock_name(&election)).await?;
    let mut holders = found.holders.iter().map(convert::claim);
    Ok(Json(Election {
        name: election,
        leader: holders.next(),
        candidates: found.waiters.iter().map(convert::claim).collect(),
    }))
}

async fn watch(
    axum::extract::State(state): AppState,
    Names((backend, election)): Names<(String, String)>,
    ends: Ends,
) -> Answer<Response> {
    let watch = state.pintle.lock(&backend)?.watch(&lock_name(&election)).await?;
    let events = watch.map(|item| {
        let event = convert::state(&item.map_err(Failure::from)?);
        Ok(Positioned { event, id: None })
    });
    Ok(stream::respond(events, ends))
}

async fn campaign(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    trail: Trail,
    Document(acquire): Document<Acquire>,
) -> Answer<Json<Lease>> {
    acquire_as(&state, of_lock(names), &trail, acquire).await
}

async fn keepalive(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
) -> Answer<Json<Lease>> {
    let name = lease_name(&state, of_lock(names))?;
    state.leases.keepalive(&name).map(Json)
}

async fn term(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    Parameters(query): Parameters<LeaseQuery>,
) -> Answer<Json<Lease>> {
    let name = lease_name(&state, of_lock(names))?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or_default()).min(LOSS_WAIT_MAX);
    state.leases.read(&name, wait).await.map(Json)
}

async fn resign(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    trail: Trail,
) -> Answer<Json<Released>> {
    release_as(&state, of_lock(names), &trail).await
}

fn of_lock((backend, election, id): (String, String, String)) -> (String, String, String) {
    (backend, lock_name(&election), id)
}
