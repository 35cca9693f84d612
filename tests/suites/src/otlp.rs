//! A receiver of OTLP that does with spans what it is told.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE},
    routing::post,
};
use bytes::{Buf, Bytes};
use futures::{future::BoxFuture, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use pintle_otlp::{ExportTraceServiceRequest, GRPC_PATH};
use prost::Message;

/// What is done with a request before it is answered.
type Take = Arc<dyn Fn(ExportTraceServiceRequest) -> BoxFuture<'static, ()> + Send + Sync>;

/// A message without compression: whether it is, and its length.
const PREFIX_BYTES: usize = 5;

/// Takes requests over gRPC and, at `/v1/traces`, over HTTP, not compressed; `take` gets each before it
/// is answered.
pub fn router(
    take: impl Fn(ExportTraceServiceRequest) -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route(GRPC_PATH, post(take_grpc))
        .route("/v1/traces", post(take_http))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(take) as Take)
}

/// How many spans a request has.
#[must_use]
pub fn span_count(request: &ExportTraceServiceRequest) -> u64 {
    let scopes = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

async fn take_http(State(take): State<Take>, body: Bytes) -> StatusCode {
    match ExportTraceServiceRequest::decode(body) {
        Ok(request) => {
            take(request).await;
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

async fn take_grpc(
    State(take): State<Take>,
    mut body: Bytes,
) -> Result<Response<Body>, StatusCode> {
    if body.len() < PREFIX_BYTES {
        return Err(StatusCode::BAD_REQUEST);
    }
    body.advance(PREFIX_BYTES);
    let request = ExportTraceServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    take(request).await;
    let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    let frames = [
        Frame::data(Bytes::from_static(&[0; PREFIX_BYTES])),
        Frame::trailers(HeaderMap::from_iter([status])),
    ];
    let frames = stream::iter(frames.map(Ok::<_, Infallible>));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
