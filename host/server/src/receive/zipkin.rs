//! Zipkin's API, version 2 in JSON: what its reporters and OpenTracing's bridges speak.

use axum::{Router, extract::Request, response::Response, routing::get, routing::post};
use bytes::Bytes;
use http::{StatusCode, header};
use pintle::{
    Pintle,
    tracing::{NotTaken, Pipeline},
};
use prost::Message;

use super::{
    body::{Unpacked, Unreadable},
    refused, retry_after,
};

mod model;

pub(super) fn routes(pintle: Pintle) -> Router {
    let take = move |request: Request| {
        let pipeline = pintle.pipeline().clone();
        async move { take(&pipeline, request).await }
    };
    // Some reporters look first.
    Router::new()
        .route("/api/v2/spans", post(take))
        .route("/health", get(|| async { "{\"status\":\"UP\"}" }))
}

async fn take(pipeline: &Pipeline, request: Request) -> Response {
    let unpacked = match Unpacked::of(request).await {
        Ok(unpacked) => unpacked,
        Err(Unreadable { status, reason }) => return answer(status, &reason),
    };
    if unpacked.is("application/x-protobuf") || unpacked.is("application/x-thrift") {
        return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, "spans are taken in JSON only");
    }
    let request = match model::read(&unpacked.body) {
        Ok(request) => Bytes::from(request.encode_to_vec()),
        Err(reason) => return answer(StatusCode::BAD_REQUEST, &reason),
    };
    let refusal = match pipeline.try_offer(request) {
        Ok(taken) => {
            return match refused(&taken) {
                None => answer(StatusCode::ACCEPTED, ""),
                Some((_, reasons)) => answer(StatusCode::ACCEPTED, &reasons),
            };
        }
        Err(refusal) => refusal,
    };
    let status = match refusal {
        NotTaken::Malformed(_) => StatusCode::BAD_REQUEST,
        NotTaken::NoSink => StatusCode::NOT_FOUND,
        NotTaken::Full { .. } | NotTaken::Closed => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = answer(status, &refusal.to_string());
    if let Some(wait) = retry_after(&refusal) {
        response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
    }
    response
}

fn answer(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(text.to_owned().into());
    *response.status_mut() = status;
    response
}
