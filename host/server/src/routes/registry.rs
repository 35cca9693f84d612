//! Services and their instances.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post, put},
};
use futures::StreamExt;
use pintle::registry::{AddOutcome, RemoveOutcome};
use pintle_api::{
    problem::code,
    registry::{
        InstancesPage, ListQuery, Override, OwnerQuery, Register, Registration, RegistrationStatus,
        Removed, Service, ServicesPage, WatchQuery,
    },
};

use super::{AppState, page_limit};
use crate::{
    audit::Trail,
    convert::{config::consistency, registry as convert},
    extract::{Document, Names, Parameters},
    failure::{Answer, Failure},
    registrations::{RegistrationName, taken},
    state::State,
    stream::{self, Ends, Positioned},
};

pub(super) fn routes() -> Router<Arc<State>> {
    const INSTANCE: &str = "/v1/backends/{backend}/registry/services/{service}/instances/{id}";
    Router::new()
        .route("/v1/backends/{backend}/registry/services", get(services))
        .route("/v1/backends/{backend}/registry/services/{service}/instances", get(instances))
        .route(INSTANCE, put(register).delete(remove))
        .route(&format!("{INSTANCE}/keepalive"), post(keepalive))
        .route(&format!("{INSTANCE}/override"), put(set_override).delete(clear_override))
        .route("/v1/backends/{backend}/registry/watch", get(watch))
}

async fn services(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<ListQuery>,
) -> Answer<Json<ServicesPage>> {
    if query.consistency.is_some() {
        return Err(Failure::invalid("query: services have no `consistency`, instances do"));
    }
    let registry = state.pintle.registry(&backend)?;
    let page = registry.services(query.page, page_limit(query.limit)?).await?;
    let services = page.services.into_iter();
    Ok(Json(ServicesPage {
        services: services.map(|s| Service { name: s.name, instances: s.instances }).collect(),
        next: page.next,
    }))
}

async fn instances(
    axum::extract::State(state): AppState,
    Names((backend, service)): Names<(String, String)>,
    Parameters(query): Parameters<ListQuery>,
) -> Answer<Json<InstancesPage>> {
    let registry = state.pintle.registry(&backend)?;
    let limit = page_limit(query.limit)?;
    let consistency = query.consistency.map(consistency);
    let page = registry.instances(&service, query.page, limit, consistency).await?;
    let instances = page.instances.iter().map(convert::state).collect();
    Ok(Json(InstancesPage { instances, next: page.next }))
}

async fn register(
    axum::extract::State(state): AppState,
    Names((backend, service, id)): Names<(String, String, String)>,
    trail: Trail,
    Document(register): Document<Register>,
) -> Answer<Json<Registration>> {
    let key = format!("{service}/{id}");
    trail.about(state.pintle.registry(&backend)?.backend(), [&key]);
    let answer = register_or_store(&state, &backend, (service, id), &trail, register).await;
    if let Err(failure) = &answer {
        let present = failure.problem().instance.as_ref();
        let version = present.map(|instance| instance.version.clone());
        trail.versions(&key, version.filter(|version| !version.is_empty()), None);
    }
    answer
}

async fn register_or_store(
    state: &State,
    backend: &str,
    (service, id): (String, String),
    trail: &Trail,
    register: Register,
) -> Answer<Json<Registration>> {
    let registry = state.pintle.registry(backend)?;
    let instance = convert::instance(service, id, register.instance);
    if !register.persistent {
        if register.replace {
            return Err(Failure::invalid("body: `replace` goes with `persistent`"));
        }
        let ttl = Duration::from_millis(register.ttl_ms);
        let put = state.registrations.put(&registry, instance, register.owner, ttl).await?;
        if put.renewed_only {
            trail.changed_nothing();
        }
        return Ok(Json(put.registration));
    }
    match registry.add(instance, register.replace).await? {
        AddOutcome::Stored => {
            let status = RegistrationStatus::Registered;
            Ok(Json(Registration { status, reason: None, valid_for_ms: None }))
        }
        AddOutcome::Taken(present) => Err(taken(&present)),
    }
}

async fn keepalive(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    Parameters(query): Parameters<OwnerQuery>,
) -> Answer<Json<Registration>> {
    let name = registration_name(&state, names)?;
    state.registrations.keepalive(&name, &query.owner).map(Json)
}

async fn remove(
    axum::extract::State(state): AppState,
    Names(names): Names<(String, String, String)>,
    Parameters(query): Parameters<OwnerQuery>,
    trail: Trail,
) -> Answer<Json<Removed>> {
    let name = registration_name(&state, names)?;
    trail.about(&name.backend, [format!("{}/{}", name.service, name.id)]);
    if state.registrations.remove(&name, &query.owner).await? {
        return Ok(Json(Removed { removed: true }));
    }
    let registry = state.pintle.registry(&name.backend)?;
    match registry.remove(&name.service, &name.id).await? {
        RemoveOutcome::Removed => Ok(Json(Removed { removed: true })),
        RemoveOutcome::Absent => Ok(Json(Removed { removed: false })),
        RemoveOutcome::Ephemeral => {
            let detail = format!("{}/{} is kept by a live owner", name.service, name.id);
            Err(Failure::of(code::TAKEN, detail).advice("stop its owner, or disable it"))
        }
    }
}

async fn set_override(
    axum::extract::State(state): AppState,
    Names((backend, service, id)): Names<(String, String, String)>,
    trail: Trail,
    Document(operator): Document<Override>,
) -> Answer<StatusCode> {
    let registry = state.pintle.registry(&backend)?;
    trail.about(registry.backend(), [format!("{service}/{id}")]);
    trail.detail(described(&operator));
    registry.set_override(&service, &id, Some(convert::operator(operator))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn clear_override(
    axum::extract::State(state): AppState,
    Names((backend, service, id)): Names<(String, String, String)>,
    trail: Trail,
) -> Answer<StatusCode> {
    let registry = state.pintle.registry(&backend)?;
    trail.about(registry.backend(), [format!("{service}/{id}")]);
    registry.set_override(&service, &id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn watch(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<WatchQuery>,
    headers: HeaderMap,
    ends: Ends,
) -> Answer<Response> {
    let registry = state.pintle.registry(&backend)?;
    let watch = match stream::last_event_id(&headers).and_then(|text| text.parse().ok()) {
        Some(last) => registry.watch_resuming(query.service, last).await?,
        None => registry.watch(query.service).await?,
    };
    let events = futures::stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        let positioned = item.map_err(Failure::from).map(|event| Positioned {
            event: convert::event(event),
            id: watch.last_event_id().map(|id| id.to_string()),
        });
        Some((positioned, watch))
    });
    Ok(stream::respond(events, ends))
}

/// An operator's word, for the audit trail.
fn described(operator: &Override) -> String {
    let mut parts = Vec::new();
    parts.extend(operator.enabled.map(|enabled| format!("enabled {enabled}")));
    parts.extend(operator.weight.map(|weight| format!("weight {weight}")));
    if !operator.note.is_empty() {
        parts.push(operator.note.clone());
    }
    parts.join(", ")
}

fn registration_name(state: &State, names: (String, String, String)) -> Answer<RegistrationName> {
    let (backend, service, id) = names;
    let backend = state.pintle.registry(&backend)?.backend().to_owned();
    Ok(RegistrationName { backend, service, id })
}
