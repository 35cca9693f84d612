//! Requests as parts of traces: what a caller's headers say goes on to the plugins, and where the
//! settings ask for it each request is a span of its own.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use pintle::{
    Pintle,
    tracing::{TraceHeaders, in_trace, propagation::extract},
};

/// Makes the calls of a request part of the trace that its headers tell of, in whatever convention.
pub(crate) async fn carry(State(pintle): State<Pintle>, request: Request, next: Next) -> Response {
    let headers = request.headers().iter();
    let texts = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    match extract(texts).trace_headers() {
        Some(headers) => in_trace(headers, observe(pintle, request, next)).await,
        None => observe(pintle, request, next).await,
    }
}

async fn observe(pintle: Pintle, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // What only looks after the host itself would drown the rest.
    let span = route
        .filter(|route| route.starts_with("/v1/") && !route.starts_with("/v1/tracing/"))
        .and_then(|route| {
            let mut span = pintle.request_span(&format!("{} {route}", request.method()))?;
            span.attribute("http.request.method", request.method().as_str());
            span.attribute("http.route", route);
            Some(span)
        });
    let Some(mut span) = span else { return next.run(request).await };
    let headers: TraceHeaders = span.headers();
    let response = in_trace(headers, next.run(request)).await;
    let status = response.status();
    span.attribute("http.response.status_code", status.as_str());
    if status.is_server_error() {
        span.fail(status.as_str());
    }
    response
}
