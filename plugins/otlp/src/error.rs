//! What a receiver's status means: whether the same may succeed later.
//!
//! By the table of <https://opentelemetry.io/docs/specs/otlp/#failures>.

use bytes::Bytes;
use pintle_otlp::status::retry_delay;
use pintle_plugin_sdk::grpc::{self, tonic};
use pintle_plugin_sdk::http::{Response, StatusCode, error_of};
use pintle_plugin_sdk::{Endpoint, Error};
use tonic::{Code, Status};

/// A status over gRPC.
pub(crate) fn of_status(status: &Status, endpoint: &str) -> Error {
    let wait = retry_delay(status.details());
    let text = status.message();
    let message = || format!("{endpoint}: {text}");
    let told = match status.code() {
        // In the words of the libraries of Go, and of C++ and Java.
        Code::ResourceExhausted
            if text.contains("larger than max") || text.contains("exceeds max") =>
        {
            Error::too_large(message()).detail("limit", "bytes of a message")
        }
        // Only a receiver that says when may do better then.
        Code::ResourceExhausted if wait.is_none() => Error::new("quota", message()),
        Code::Aborted | Code::OutOfRange | Code::DataLoss | Code::Cancelled => {
            Error::unavailable(message()).effect_unknown()
        }
        // Not retried: the receiver would fail again.
        Code::Internal | Code::Unknown if !is_broken_connection(status) => {
            Error::internal(message()).effect_unknown()
        }
        _ => grpc::error(status, endpoint),
    };
    match wait {
        Some(wait) => told.retry_after(wait),
        None => told,
    }
}

/// Whether the status was made here, because no answer came.
fn is_broken_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// An answer over HTTP.
pub(crate) fn of_response(response: &Response<Bytes>, endpoint: &Endpoint) -> Error {
    let told = error_of(response, endpoint);
    let passes = matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if passes || told.code() != "unavailable" {
        return told;
    }
    Error::internal(told.message()).effect_unknown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_specification_calls_retryable_is_passing_and_nothing_else() {
        let code = |code| of_status(&Status::new(code, "no"), "a:1").code().to_owned();
        for passing in
            [Code::Aborted, Code::OutOfRange, Code::DataLoss, Code::Cancelled, Code::Unavailable]
        {
            assert_eq!(code(passing), "unavailable", "{passing:?}");
        }
        assert_eq!(code(Code::DeadlineExceeded), "timeout");
        for (lasting, wanted) in [
            (Code::InvalidArgument, "invalid"),
            (Code::PermissionDenied, "denied"),
            (Code::Unauthenticated, "unauthenticated"),
            (Code::Unimplemented, "unsupported"),
            (Code::Internal, "internal"),
            (Code::ResourceExhausted, "quota"),
        ] {
            assert_eq!(code(lasting), wanted, "{lasting:?}");
        }
    }

    #[test]
    fn a_message_that_is_too_large_can_be_halved() {
        let text = "grpc: received message larger than max (5 vs. 4)";
        let error = of_status(&Status::new(Code::ResourceExhausted, text), "a:1");
        assert_eq!(error.code(), "too-large");
    }

    #[test]
    fn over_http_too_only_four_statuses_pass() {
        let endpoint = Endpoint { host: "a".into(), port: 1, tls: false };
        let code = |status: u16| {
            let response = Response::builder().status(status).body(Bytes::new()).unwrap();
            of_response(&response, &endpoint).code().to_owned()
        };
        for (status, wanted) in [
            (429, "exhausted"),
            (502, "unavailable"),
            (503, "unavailable"),
            (504, "unavailable"),
            (500, "internal"),
            (501, "unsupported"),
            (400, "invalid"),
            (413, "too-large"),
        ] {
            assert_eq!(code(status), wanted, "{status}");
        }
    }
}
