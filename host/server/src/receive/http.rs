//! OTLP over HTTP, in protobuf and in JSON.

use axum::{Router, extract::Request, response::Response, routing::post};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pintle::{
    Pintle,
    tracing::{NotTaken, Pipeline, Taken},
};
use pintle_otlp::{
    ExportTracePartialSuccess, ExportTraceServiceResponse, HTTP_PATH, json::read_request,
    status::RichStatus,
};
use prost::Message;
use serde_json::json;

use super::{
    body::{Packed, Unreadable},
    refused, retry_after,
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
const INVALID_ARGUMENT: i32 = 3;
const FAILED_PRECONDITION: i32 = 9;
const UNAVAILABLE: i32 = 14;

pub(super) fn routes(pintle: Pintle) -> Router {
    let export = move |request: Request| {
        let pipeline = pintle.pipeline().clone();
        async move { export(&pipeline, request).await }
    };
    Router::new().route(HTTP_PATH, post(export))
}

async fn export(pipeline: &Pipeline, request: Request) -> Response {
    let packed = match Packed::of(request).await {
        Ok(packed) => packed,
        Err(Unreadable { status, reason }) => {
            return failure(status, INVALID_ARGUMENT, &reason, false, None);
        }
    };
    let in_json = packed.is(JSON);
    if !in_json && !packed.is(PROTOBUF) {
        let reason = format!("the body has to be {PROTOBUF} or {JSON}");
        return failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_ARGUMENT, &reason, false, None);
    }
    let read = move |body: Bytes| {
        if !in_json {
            return Ok(body);
        }
        let request = read_request(&body).map_err(|error| error.to_string())?;
        Ok(request.encode_to_vec().into())
    };
    let request = match packed.read(read).await {
        Ok(request) => request,
        Err(Unreadable { status, reason }) => {
            return failure(status, INVALID_ARGUMENT, &reason, in_json, None);
        }
    };
    match pipeline.try_offer(request) {
        Ok(taken) => success(&taken, in_json),
        Err(refusal) => {
            let (status, code) = match refusal {
                NotTaken::Malformed(_) => (StatusCode::BAD_REQUEST, INVALID_ARGUMENT),
                NotTaken::NoSink => (StatusCode::NOT_FOUND, FAILED_PRECONDITION),
                NotTaken::Full { .. } | NotTaken::Closed => {
                    (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE)
                }
            };
            let wait = retry_after(&refusal);
            failure(status, code, &refusal.to_string(), in_json, wait)
        }
    }
}

fn success(taken: &Taken, in_json: bool) -> Response {
    let refused = refused(taken);
    if in_json {
        let body = match refused {
            Some((spans, message)) => json!({
                "partialSuccess": { "rejectedSpans": spans.to_string(), "errorMessage": message }
            }),
            None => json!({}),
        };
        return answer(StatusCode::OK, JSON, body.to_string().into());
    }
    let partial_success = refused.map(|(rejected_spans, error_message)| {
        ExportTracePartialSuccess { rejected_spans, error_message }
    });
    let body = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    answer(StatusCode::OK, PROTOBUF, body.into())
}

/// A `google.rpc.Status` in the form of the request.
fn failure(
    status: StatusCode,
    code: i32,
    message: &str,
    in_json: bool,
    wait: Option<std::time::Duration>,
) -> Response {
    let mut response = if in_json {
        let body = json!({ "code": code, "message": message }).to_string();
        answer(status, JSON, body.into())
    } else {
        answer(status, PROTOBUF, RichStatus::new(code, message, wait).encode_to_vec().into())
    };
    if let Some(wait) = wait {
        response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
    }
    response
}

fn answer(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
