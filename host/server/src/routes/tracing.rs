//! Spans on their way, and headers of traces.

use std::sync::Arc;

use axum::{
    Json, Router,
    routing::{get, post},
};
use pintle::tracing::{
    PipelineStatus, SinkStatus,
    propagation::{self, Format, SpanContext},
};
use pintle_api::tracing::{Carried, Headers, Inject, Sink, Status};
use pintle_otlp::text::{from_hex, hex};

use super::AppState;
use crate::{
    extract::Document,
    failure::{Answer, Failure},
    state::State,
};

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/tracing/status", get(status))
        .route("/v1/tracing/extract", post(extract))
        .route("/v1/tracing/inject", post(inject))
}

async fn status(axum::extract::State(state): AppState) -> Json<Status> {
    let PipelineStatus { received, turned_away, rejected, sampled_out, passed, sinks } =
        state.pintle.pipeline().status();
    let sinks = sinks.into_iter().map(sink).collect();
    Json(Status { received, turned_away, rejected, sampled_out, passed, sinks })
}

fn sink(of: SinkStatus) -> Sink {
    Sink {
        backend: of.backend,
        delivered: of.delivered,
        rejected: of.rejected,
        dropped: of.dropped,
        pending: of.pending,
        pending_bytes: of.pending_bytes,
        batches: of.batches,
        retries: of.retries,
        last_error: of.last_error,
    }
}

async fn extract(Document(Headers { headers }): Document<Headers>) -> Json<Carried> {
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let carried = propagation::extract(pairs);
    let span = carried.span;
    Json(Carried {
        trace_id: span.map(|span| hex(&span.trace_id)),
        span_id: span.map(|span| hex(&span.span_id)),
        parent_id: span.and_then(|span| span.parent_id).map(|id| hex(&id)),
        sampled: carried.decision(),
        debug: span.is_some_and(|span| span.debug),
        state: carried.state,
        baggage: carried.baggage.into_iter().collect(),
    })
}

async fn inject(Document(Inject { format, carried }): Document<Inject>) -> Answer<Json<Headers>> {
    let format: Format =
        format.parse().map_err(|error| Failure::invalid(format!("format: {error}")))?;
    let carried = propagation::Carried {
        span: span(&carried)?,
        sampled: carried.sampled,
        state: carried.state,
        baggage: carried.baggage.into_iter().collect(),
        skywalking: None,
    };
    let headers = propagation::inject(&carried, format).into_iter().collect();
    Ok(Json(Headers { headers }))
}

fn span(carried: &Carried) -> Result<Option<SpanContext>, Failure> {
    let (trace_id, span_id) = match (&carried.trace_id, &carried.span_id) {
        (None, None) => return Ok(None),
        (Some(trace_id), Some(span_id)) => (trace_id, span_id),
        _ => return Err(Failure::invalid("trace_id and span_id: one is not there; name both")),
    };
    let refuse = |name: &str, digits: u32| {
        Failure::invalid(format!("{name}: it takes {digits} hexadecimal digits, not all zero"))
    };
    let trace = from_hex(trace_id).ok_or_else(|| refuse("trace_id", 32))?;
    let id = from_hex(span_id).ok_or_else(|| refuse("span_id", 16))?;
    let span = SpanContext::new(trace, id, carried.sampled)
        .ok_or_else(|| refuse("trace_id and span_id", 16))?;
    let parent_id = match &carried.parent_id {
        Some(text) => Some(from_hex(text).ok_or_else(|| refuse("parent_id", 16))?),
        None => None,
    };
    Ok(Some(SpanContext { parent_id, debug: carried.debug, ..span }))
}
