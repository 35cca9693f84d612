//! Event streams: heartbeats, positions to resume from, an end with a reason.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use pintle_api::{
    HEARTBEAT_MS,
    event::{self, Event},
    problem::code,
};

use crate::{
    access::Caller,
    failure::Failure,
    state::{State, Stopping},
};

/// One event and its position, if a stream can be resumed from it.
pub(crate) struct Positioned<E> {
    pub(crate) event: E,
    pub(crate) id: Option<String>,
}

/// What ends a stream whatever comes of its events: the end of the server, or of what the caller may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    stopping: Stopping,
    caller: Option<Caller>,
}

impl Ends {
    async fn ended(&self) -> Failure {
        let over = async {
            match &self.caller {
                Some(caller) => caller.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stopping.begun() => {
                Failure::of(code::SHUTTING_DOWN, "the server is stopping")
            }
            failure = over => failure,
        }
    }
}

impl FromRequestParts<Arc<State>> for Ends {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<Caller>().cloned();
        Ok(Self { stopping: state.stopping.clone(), caller })
    }
}

/// Answers with a stream of events. It ends after an error, or when the server stops, with a problem
/// as its last event.
///
/// Nothing is buffered here: while the client does not read, `events` is not asked for more.
pub(crate) fn respond<E>(
    events: impl Stream<Item = Result<Positioned<E>, Failure>> + Send + 'static,
    ends: Ends,
) -> Response
where
    E: Event + Send + 'static,
{
    let stopped = async move { Err(ends.ended().await) };
    let ending = Box::pin(stream::select(events, stream::once(stopped)));
    // Up to the first error, and including it.
    let until_error = stream::unfold(Some(ending), |events| async move {
        let mut events = events?;
        let next = events.next().await?;
        let going_on = next.is_ok().then_some(events);
        Some((Ok::<_, Infallible>(frame(next)), going_on))
    });
    let heartbeat =
        KeepAlive::new().interval(Duration::from_millis(HEARTBEAT_MS)).text("heartbeat");
    let mut response = Sse::new(until_error).keep_alive(heartbeat).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Where the client's last stream ended, if it says so.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(HeaderName::from_static("last-event-id"))?.to_str().ok()
}

fn frame<E: Event>(item: Result<Positioned<E>, Failure>) -> SseEvent {
    let failure = match item {
        Ok(positioned) => match positioned.event.encode() {
            Ok((name, data)) => {
                let frame = SseEvent::default().event(name).data(data);
                return match positioned.id {
                    Some(id) => frame.id(id),
                    None => frame,
                };
            }
            Err(error) => Failure::of(code::INTERNAL, error.to_string()),
        },
        Err(failure) => failure,
    };
    let data = serde_json::to_string(failure.problem()).unwrap_or_default();
    SseEvent::default().event(event::name::PROBLEM).data(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use pintle_api::event::{ConfigEvent, Resync};

    async fn text(
        items: Vec<Result<Positioned<ConfigEvent>, Failure>>,
        stopping: Stopping,
    ) -> String {
        let ends = Ends { stopping, caller: None };
        let response = respond(stream::iter(items).chain(stream::pending()), ends);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn positioned(
        event: ConfigEvent,
        id: Option<&str>,
    ) -> Result<Positioned<ConfigEvent>, Failure> {
        Ok(Positioned { event, id: id.map(str::to_owned) })
    }

    #[tokio::test]
    async fn events_have_names_data_and_positions_and_an_error_is_the_last() {
        let items = vec![
            positioned(ConfigEvent::SnapshotEnd, None),
            positioned(ConfigEvent::Resync(Resync { reason: "a\nb".into() }), Some("a.7")),
            Err(Failure::of("unavailable", "gone")),
            positioned(ConfigEvent::SnapshotBegin, None),
        ];
        let text = text(items, Stopping::default()).await;
        let frames: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(frames.len(), 3, "{text}");
        assert_eq!(frames[0], "event: snapshot-end\ndata: {}");
        assert_eq!(frames[1], "event: resync\ndata: {\"reason\":\"a\\nb\"}\nid: a.7");
        assert!(frames[2].starts_with("event: problem\ndata: {"), "{text}");
        assert!(frames[2].contains("urn:pintle:problem:unavailable"), "{text}");
    }

    #[tokio::test]
    async fn a_stopping_server_ends_its_streams_with_the_reason() {
        let stopping = Stopping::default();
        stopping.begin();
        let text = text(Vec::new(), stopping).await;
        assert!(text.contains("urn:pintle:problem:shutting-down"), "{text}");
    }
}
