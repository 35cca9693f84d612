//! Configuration.

use std::sync::Arc;

use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pintle::config as host;
use pintle_api::{
    config::{
        Committed, DeletePrefixQuery, Deleted, DeletedPrefix, EntriesPage, Format, GetMany,
        GetQuery, GotMany, HistoryPage, HistoryQuery, ListQuery, Mismatch, Stored, Txn, TxnOp,
        WatchQuery, WriteQuery,
    },
    etag::{self, Tags},
    event::ConfigEvent,
    problem::code,
};

use super::{AppState, page_limit};
use crate::{
    audit::Trail,
    convert::config as convert,
    extract::{Document, Names, Parameters, Raw},
    failure::{Answer, Failure},
    state::State,
    stream::{self, Ends, Positioned},
};

/// What a client sends that was not told what the body is.
const NO_TYPE: [&str; 2] = ["application/x-www-form-urlencoded", "application/octet-stream"];

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/backends/{backend}/config/keys", get(list).delete(delete_prefix))
        .route(
            "/v1/backends/{backend}/config/keys/{*key}",
            get(get_key).put(put_key).delete(delete_key),
        )
        .route("/v1/backends/{backend}/config/get", post(get_many))
        .route("/v1/backends/{backend}/config/watch", get(watch))
        .route("/v1/backends/{backend}/config/history", get(history))
        .route("/v1/backends/{backend}/config/txn", post(txn))
}

async fn get_key(
    axum::extract::State(state): AppState,
    Names((backend, key)): Names<(String, String)>,
    Parameters(query): Parameters<GetQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let config = state.pintle.config(&backend)?;
    let options = convert::read_options(query.consistency, query.at);
    let found = config.get_with(&key, options).await?;
    let Some(entry) = found else {
        let failure = Failure::of(code::NOT_FOUND, format!("there is no value under {key:?}"));
        return Err(failure.with(|problem| problem.backend = Some(config.backend().into())));
    };
    let tag = etag::format(entry.version.as_str());
    let tag =
        HeaderValue::from_str(&tag).map_err(|e| Failure::of(code::INTERNAL, e.to_string()))?;
    if matches(&headers, &entry.version)? {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let format = query.format.unwrap_or_else(|| accepted(&headers));
    let mut response = match format {
        Format::Json => Json(convert::entry(&entry)).into_response(),
        Format::Raw => raw(entry),
    };
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

async fn put_key(
    axum::extract::State(state): AppState,
    Names((backend, key)): Names<(String, String)>,
    Parameters(query): Parameters<WriteQuery>,
    headers: HeaderMap,
    trail: Trail,
    Raw(value): Raw,
) -> Answer<Response> {
    let config = state.pintle.config(&backend)?;
    trail.about(config.backend(), [&key]);
    let put = host::Put {
        key: key.clone(),
        value,
        content_type: content_type(&headers),
        expect: expectation(&headers)?,
        held: held(&state, &config, query.held.as_deref())?,
        // The audit trail tells which version it was.
        previous: query.previous || state.audit.is_kept(),
        selectors: host::Selectors::new(),
    };
    match config.put(put).await? {
        host::PutOutcome::Stored { version, previous } => {
            trail.versions(&key, version_of(previous.as_ref()), Some(version.to_string()));
            let stored = Stored {
                version: version.to_string(),
                previous: previous.as_ref().filter(|_| query.previous).map(convert::entry),
            };
            let tag = [(header::ETAG, etag::format(version.as_str()))];
            Ok((tag, Json(stored)).into_response())
        }
        host::PutOutcome::Stale(current) => {
            trail.versions(&key, version_of(current.as_ref()), None);
            Err(stale(&key, current.as_ref()))
        }
        host::PutOutcome::Fenced => Err(fenced()),
    }
}

async fn delete_key(
    axum::extract::State(state): AppState,
    Names((backend, key)): Names<(String, String)>,
    Parameters(query): Parameters<WriteQuery>,
    headers: HeaderMap,
    trail: Trail,
) -> Answer<Json<Deleted>> {
    let config = state.pintle.config(&backend)?;
    trail.about(config.backend(), [&key]);
    let delete = host::Delete {
        key: key.clone(),
        expect: expectation(&headers)?,
        held: held(&state, &config, query.held.as_deref())?,
        previous: query.previous || state.audit.is_kept(),
        selectors: host::Selectors::new(),
    };
    match config.delete(delete).await? {
        host::DeleteOutcome::Deleted(previous) => {
            trail.versions(&key, version_of(previous.as_ref()), None);
            let previous = previous.as_ref().filter(|_| query.previous).map(convert::entry);
            Ok(Json(Deleted { deleted: true, previous }))
        }
        host::DeleteOutcome::Absent => Ok(Json(Deleted { deleted: false, previous: None })),
        host::DeleteOutcome::Stale(current) => {
            trail.versions(&key, version_of(current.as_ref()), None);
            Err(stale(&key, current.as_ref()))
        }
        host::DeleteOutcome::Fenced => Err(fenced()),
    }
}

async fn list(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<ListQuery>,
) -> Answer<Json<EntriesPage>> {
    let config = state.pintle.config(&backend)?;
    let request = host::ListRequest {
        prefix: query.prefix,
        page: query.page,
        limit: page_limit(query.limit)?,
        keys_only: query.keys_only,
        options: convert::read_options(query.consistency, query.at),
    };
    let page = config.list(request).await?;
    Ok(Json(convert::page(&page, query.keys_only)))
}

async fn delete_prefix(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<DeletePrefixQuery>,
    trail: Trail,
) -> Answer<Json<DeletedPrefix>> {
    let config = state.pintle.config(&backend)?;
    trail.about(config.backend(), [&query.prefix]);
    let held = held(&state, &config, query.held.as_deref())?;
    let deleted = config.delete_prefix(&query.prefix, held).await?;
    trail.detail(format!("{deleted} keys below it"));
    Ok(Json(DeletedPrefix { deleted }))
}

async fn history(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<HistoryQuery>,
) -> Answer<Json<HistoryPage>> {
    let config = state.pintle.config(&backend)?;
    let request =
        host::HistoryRequest { key: query.key, limit: page_limit(query.limit)?, page: query.page };
    Ok(Json(convert::history(&config.history(request).await?)))
}

async fn txn(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    trail: Trail,
    Document(txn): Document<Txn>,
) -> Answer<Json<Committed>> {
    let config = state.pintle.config(&backend)?;
    let changed = txn.ops.iter().map(changed_key).collect::<Vec<_>>();
    trail.about(config.backend(), changed.iter().copied().flatten());
    let keys: Vec<Option<String>> = changed.iter().map(|key| key.map(str::to_owned)).collect();
    let conditions: Vec<(String, host::Expect)> =
        txn.conditions.into_iter().map(|c| (c.key, convert::expect(c.expect))).collect();
    let references = txn.held.iter().map(|id| state.leases.reference(config.backend(), id));
    let request = host::Txn {
        conditions: conditions.clone(),
        held: references.collect::<Result<_, _>>()?,
        ops: txn.ops.into_iter().map(convert::op).collect::<Result<_, _>>()?,
    };
    match config.txn(request).await? {
        host::TxnOutcome::Committed(results) => {
            for (key, result) in keys.iter().zip(&results) {
                let Some(key) = key else { continue };
                let before = version_expected(&conditions, key);
                match result {
                    host::TxnResult::Stored(version) => {
                        trail.versions(key, before, Some(version.to_string()));
                    }
                    host::TxnResult::Deleted(true) => trail.versions(key, before, None),
                    host::TxnResult::Deleted(false) | host::TxnResult::Got(_) => {}
                }
            }
            Ok(Json(Committed { results: results.into_iter().map(convert::result).collect() }))
        }
        host::TxnOutcome::Fenced => Err(fenced()),
        host::TxnOutcome::Stale(mismatches) => {
            for (index, current) in &mismatches {
                if let Some((key, _)) = conditions.get(*index) {
                    trail.versions(key, version_of(current.as_ref()), None);
                }
            }
            let failure = Failure::of(code::STALE, "conditions do not hold; nothing was done");
            Err(failure.with(|problem| {
                problem.mismatches = mismatches
                    .iter()
                    .map(|(index, current)| Mismatch {
                        index: *index,
                        current: current.as_ref().map(convert::entry),
                    })
                    .collect();
            }))
        }
    }
}

async fn get_many(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Document(request): Document<GetMany>,
) -> Answer<Json<GotMany>> {
    let config = state.pintle.config(&backend)?;
    let options = convert::read_options(request.consistency, request.at);
    let found = config.get_many(&request.keys, options).await?;
    let entries = found.iter().map(|entry| entry.as_ref().map(convert::entry)).collect();
    Ok(Json(GotMany { entries }))
}

async fn watch(
    axum::extract::State(state): AppState,
    Names(backend): Names<String>,
    Parameters(query): Parameters<WatchQuery>,
    headers: HeaderMap,
    ends: Ends,
) -> Answer<Response> {
    let config = state.pintle.config(&backend)?;
    let target = match (query.key, query.prefix) {
        (Some(key), None) => host::Target::Key(key),
        (None, Some(prefix)) => host::Target::Prefix(prefix),
        _ => return Err(Failure::invalid("query: give either `key` or `prefix`")),
    };
    let last = stream::last_event_id(&headers);
    if let Some(version) = query.from_version {
        // Without it the watch would begin where it began, and repeat what was delivered.
        let unreadable = || Failure::invalid("Last-Event-ID: not one of a watch from a version");
        let position: host::ChangePosition = match headers.get("last-event-id") {
            Some(_) => last.and_then(|text| text.parse().ok()).ok_or_else(unreadable)?,
            None => host::Version::from(version).into(),
        };
        let changes = config.watch_from(target, position).await?;
        return Ok(stream::respond(positioned_changes(changes), ends));
    }
    // As good as none here too: it begins with a snapshot.
    let watch = match last.and_then(|text| text.parse().ok()) {
        Some(last) => config.watch_resuming(target, last).await?,
        None => config.watch(target).await?,
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

fn positioned_changes(
    changes: host::Changes,
) -> impl Stream<Item = Result<Positioned<ConfigEvent>, Failure>> {
    futures::stream::unfold(changes, |mut changes| async move {
        let item = changes.next().await?;
        let id = Some(changes.position().to_string());
        let positioned = item
            .map_err(Failure::from)
            .map(|event| Positioned { event: convert::event(event), id });
        Some((positioned, changes))
    })
}

fn raw(entry: host::Entry) -> Response {
    let content_type = entry
        .content_type
        .and_then(|text| HeaderValue::from_str(&text).ok())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // A stored page must not run with the rights of this origin.
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")),
    ];
    (headers, entry.value).into_response()
}

fn accepted(headers: &HeaderMap) -> Format {
    let accepts_json = headers.get_all(header::ACCEPT).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|range| range.trim().starts_with("application/json"))
    });
    if accepts_json { Format::Json } else { Format::Raw }
}

/// Whether `If-None-Match` names the version.
fn matches(headers: &HeaderMap, version: &host::Version) -> Result<bool, Failure> {
    Ok(match tags(headers, &header::IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::Versions(versions)) => versions.iter().any(|tag| tag == version.as_str()),
    })
}

/// What `If-Match` and `If-None-Match` expect of a write.
fn expectation(headers: &HeaderMap) -> Result<host::Expect, Failure> {
    let if_match = tags(headers, &header::IF_MATCH)?;
    let if_none_match = tags(headers, &header::IF_NONE_MATCH)?;
    match (if_match, if_none_match) {
        (None, None) => Ok(host::Expect::Anything),
        (Some(Tags::Any), None) => Ok(host::Expect::Exists),
        (None, Some(Tags::Any)) => Ok(host::Expect::Absent),
        (Some(Tags::Versions(mut versions)), None) if versions.len() == 1 => Ok(versions
            .pop()
            .map_or(host::Expect::Exists, |text| host::Expect::Version(text.into()))),
        (Some(_), None) => Err(Failure::invalid("If-Match: give one version")),
        (None, Some(_)) => Err(Failure::invalid("If-None-Match: a write takes `*` only")),
        (Some(_), Some(_)) => Err(Failure::invalid("give If-Match or If-None-Match, not both")),
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Failure::invalid(format!("{name}: not ASCII")))?;
    etag::parse(text).map(Some).map_err(|error| Failure::invalid(format!("{name}: {error}")))
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    (!NO_TYPE.contains(&text)).then(|| text.to_owned())
}

fn held(
    state: &State,
    config: &host::Config,
    id: Option<&str>,
) -> Result<Option<pintle::lock::LeaseRef>, Failure> {
    id.map(|id| state.leases.reference(config.backend(), id)).transpose()
}

fn version_of(entry: Option<&host::Entry>) -> Option<String> {
    entry.map(|entry| entry.version.to_string())
}

/// The version that a transaction expected of a key: what it was, once the transaction has happened.
/// The outcome itself does not tell it.
fn version_expected(conditions: &[(String, host::Expect)], key: &str) -> Option<String> {
    conditions.iter().find_map(|(about, expect)| match expect {
        host::Expect::Version(version) if about == key => Some(version.to_string()),
        _ => None,
    })
}

/// The key that an operation would change.
fn changed_key(op: &TxnOp) -> Option<&str> {
    match op {
        TxnOp::Get { .. } => None,
        TxnOp::Put { key, .. } | TxnOp::Delete { key } => Some(key),
    }
}

fn stale(key: &str, current: Option<&host::Entry>) -> Failure {
    let detail = match current {
        Some(entry) => format!("{key} is at version {}", entry.version),
        None => format!("there is no value under {key:?}"),
    };
    Failure::of(code::STALE, detail)
        .with(|problem| problem.current = current.map(|entry| Box::new(convert::entry(entry))))
}

fn fenced() -> Failure {
    Failure::of(code::FENCED, "the lease is not held any more; nothing was done")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn preconditions_become_expectations() {
        let of = |pairs: &[_]| expectation(&headers(pairs));
        assert_eq!(of(&[]).unwrap(), host::Expect::Anything);
        assert_eq!(of(&[(header::IF_MATCH, "*")]).unwrap(), host::Expect::Exists);
        assert_eq!(of(&[(header::IF_NONE_MATCH, "*")]).unwrap(), host::Expect::Absent);
        assert_eq!(of(&[(header::IF_MATCH, "\"7\"")]).unwrap(), host::Expect::Version("7".into()));
        for refused in [
            &[(header::IF_MATCH, "\"7\", \"8\"")][..],
            &[(header::IF_NONE_MATCH, "\"7\"")],
            &[(header::IF_MATCH, "7")],
            &[(header::IF_MATCH, "*"), (header::IF_NONE_MATCH, "*")],
        ] {
            assert_eq!(of(refused).unwrap_err().problem().status, 400, "{refused:?}");
        }
    }

    #[test]
    fn a_client_that_was_told_no_media_type_stores_none() {
        let of = |value| content_type(&headers(&[(header::CONTENT_TYPE, value)]));
        assert_eq!(of("application/x-www-form-urlencoded"), None);
        assert_eq!(of("text/yaml"), Some("text/yaml".into()));
        assert_eq!(content_type(&HeaderMap::new()), None);
    }

    #[test]
    fn json_is_given_to_whom_asks_for_it() {
        let of = |value| accepted(&headers(&[(header::ACCEPT, value)]));
        assert_eq!(of("application/json"), Format::Json);
        assert_eq!(of("text/plain, application/json;q=0.5"), Format::Json);
        assert_eq!(of("*/*"), Format::Raw);
    }
}
