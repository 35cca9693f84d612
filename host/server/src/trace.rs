//! Requests as parts of traces: what a caller's headers say goes on to the plugins, and where the
//! settings ask for it each request is a span of its own.

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use pintle::{
    Pintle,
    tracing::{OwnSpan, in_trace, propagation::extract},
};
use pintle_otlp::text::hex;
use tracing::{Instrument, Span};

/// Makes the calls of a request part of the trace that its headers tell of, in whatever convention.
pub(crate) async fn carry(pintle: &Pintle, request: Request, next: Next) -> Response {
    let headers = request.headers().iter();
    let texts = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let carried = extract(texts);
    let trace_id = carried.span.map(|span| hex(&span.trace_id));
    let observed = observe(pintle, request, next, trace_id);
    match carried.trace_headers() {
        Some(headers) => in_trace(headers, observed).await,
        None => observed.await,
    }
}

async fn observe(
    pintle: &Pintle,
    request: Request,
    next: Next,
    trace_id: Option<String>,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // What only looks after the host itself would drown the rest.
    let span = route
        .filter(|route| route.starts_with("/v1/") && !route.starts_with("/v1/tracing/"))
        .and_then(|route| {
            let mut span = pintle.request_span(|| format!("{} {route}", request.method()))?;
            span.attribute("http.request.method", request.method().as_str());
            span.attribute("http.route", route);
            Some(span)
        });
    let trace_id = span.as_ref().map(OwnSpan::trace_id).or(trace_id);
    let answered = next.run(request).instrument(log_span(trace_id));
    let Some(mut span) = span else { return answered.await };
    let response = in_trace(span.headers(), answered).await;
    let status = response.status();
    span.attribute("http.response.status_code", status.as_str());
    if status.is_server_error() {
        span.fail(status.as_str());
    }
    response
}

/// Stands before what is logged meanwhile, so that lines of one trace are found in all processes.
fn log_span(trace_id: Option<String>) -> Span {
    match trace_id {
        // On wherever anything is logged at all.
        Some(trace_id) => tracing::error_span!("request", %trace_id),
        None => Span::none(),
    }
}
