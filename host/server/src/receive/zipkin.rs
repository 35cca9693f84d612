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
    body::{Packed, Unreadable},
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
    let request = match read(request).await {
        Ok(request) => request,
        Err(Unreadable { status, reason }) => return answer(status, &reason),
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

async fn read(request: Request) -> Result<Bytes, Unreadable> {
    let packed = Packed::of(request).await?;
    if packed.is("application/x-protobuf") || packed.is("application/x-thrift") {
        let reason = "spans are taken in JSON only".to_owned();
        return Err(Unreadable { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, reason });
    }
    packed.read(|body| Ok(model::read(&body)?.encode_to_vec().into())).await
}

fn answer(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(text.to_owned().into());
    *response.status_mut() = status;
    response
}
