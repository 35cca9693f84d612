//! HTTP through the host: `wasi:http`, with the host's pooled client, TLS and rules behind it.
//!
//! Natively there is no network: a test says what is answered, with [`testing::answer_http`].
//!
//! [`testing::answer_http`]: crate::testing::answer_http

mod servers;

pub use servers::{Servers, error_of};

use crate::Error;
use crate::time::timeout;
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

pub use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};

/// How long an exchange may take, and how much may come back.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From sending the request to the last byte of the answer. For a long poll, longer than the
    /// server holds it.
    pub timeout: Duration,
    /// Most bytes of the answer's body.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), body_bytes_max: 4 << 20 }
    }
}

/// An exchange failed. An answer with an error status is no failure here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    authority: String,
    reason: &'static str,
    detail: Option<String>,
}

impl HttpError {
    /// A failure at `authority` with a reason in kebab case.
    pub fn new(authority: &str, reason: &'static str, detail: Option<String>) -> Self {
        Self { authority: authority.to_owned(), reason, detail }
    }

    /// A name in kebab case, where WASI has one as WASI has it: `connection-refused`, `timeout`,
    /// `http-request-denied` …
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The server, as it was addressed.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    fn is_denied(&self) -> bool {
        matches!(self.reason, "http-request-denied" | "destination-ip-prohibited")
    }

    /// Whether the request certainly did not reach a server.
    pub fn came_too_early(&self) -> bool {
        self.is_denied()
            || matches!(
                self.reason,
                "connection-refused"
                    | "connection-timeout"
                    | "destination-not-found"
                    | "destination-unavailable"
                    | "dns-error"
                    | "dns-timeout"
                    | "tls-certificate-error"
                    | "invalid-request"
            )
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no HTTP answer from {}: {}", self.authority, self.reason.replace('-', " "))?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if self.is_denied() {
            f.write_str("; it has to stand in `endpoints` or `allow` of this backend")?;
        }
        Ok(())
    }
}

impl std::error::Error for HttpError {}

/// The effect is `unknown` unless the request certainly did not reach a server; say
/// [`effect_none`](Error::effect_none) for a request that only reads.
impl From<HttpError> for Error {
    fn from(error: HttpError) -> Self {
        let message = error.to_string();
        let made = match error.reason {
            _ if error.is_denied() => Self::denied(message),
            "timeout" => Self::timeout(message),
            "body-too-large" => Self::too_large(message).detail("limit", "body-bytes-max"),
            _ => Self::unavailable(message),
        };
        let made = if error.came_too_early() { made } else { made.effect_unknown() };
        made.detail("endpoint", error.authority).detail("http-error", error.reason)
    }
}

/// Sends a request with an absolute address and waits for the whole answer.
///
/// # Errors
///
/// When no answer came, or more than the limits allow.
///
/// # Cancellation
///
/// Dropping the future ends the exchange; the server may have acted on it.
pub async fn send(request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let exchange = platform::exchange(&authority, request, limits.body_bytes_max);
    timeout(limits.timeout, exchange).await.unwrap_or_else(|_| {
        let detail = format!("nothing within {} ms", limits.timeout.as_millis());
        Err(HttpError::new(&authority, "timeout", Some(detail)))
    })
}

#[cfg(target_family = "wasm")]
mod platform {
    use super::{Bytes, HttpError, Request, Response};
    use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
    use wasip3::http::{client, types::ErrorCode};
    use wasip3::http_compat::{http_from_wasi_response, http_into_wasi_request};

    pub(super) async fn exchange(
        authority: &str,
        request: Request<Bytes>,
        body_bytes_max: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let failed = |code| error(authority, code);
        let request = http_into_wasi_request(request.map(Full::new)).map_err(|code| {
            HttpError::new(authority, "invalid-request", Some(format!("{code:?}")))
        })?;
        let response = client::send(request).await.map_err(failed)?;
        let (head, body) = http_from_wasi_response(response).map_err(failed)?.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await;
        let body = body.map_err(|cause| {
            if cause.is::<LengthLimitError>() {
                let detail = format!("more than {body_bytes_max} bytes");
                return HttpError::new(authority, "body-too-large", Some(detail));
            }
            match cause.downcast::<ErrorCode>() {
                Ok(code) => failed(*code),
                Err(other) => HttpError::new(authority, "other", Some(other.to_string())),
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    fn error(authority: &str, code: ErrorCode) -> HttpError {
        let (reason, detail) = match code {
            ErrorCode::DnsTimeout => ("dns-timeout", None),
            ErrorCode::DnsError(payload) => ("dns-error", payload.rcode),
            ErrorCode::DestinationNotFound => ("destination-not-found", None),
            ErrorCode::DestinationUnavailable => ("destination-unavailable", None),
            ErrorCode::DestinationIpProhibited => ("destination-ip-prohibited", None),
            ErrorCode::ConnectionRefused => ("connection-refused", None),
            ErrorCode::ConnectionTerminated => ("connection-terminated", None),
            ErrorCode::ConnectionTimeout => ("connection-timeout", None),
            ErrorCode::ConnectionReadTimeout => ("connection-read-timeout", None),
            ErrorCode::ConnectionWriteTimeout => ("connection-write-timeout", None),
            ErrorCode::ConnectionLimitReached => ("connection-limit-reached", None),
            ErrorCode::TlsProtocolError => ("tls-protocol-error", None),
            ErrorCode::TlsCertificateError => ("tls-certificate-error", None),
            ErrorCode::TlsAlertReceived(alert) => ("tls-alert-received", alert.alert_message),
            ErrorCode::HttpRequestDenied => ("http-request-denied", None),
            ErrorCode::HttpResponseIncomplete => ("http-response-incomplete", None),
            ErrorCode::HttpResponseTimeout => ("http-response-timeout", None),
            ErrorCode::HttpProtocolError => ("http-protocol-error", None),
            ErrorCode::InternalError(detail) => ("internal-error", detail),
            other => ("other", Some(format!("{other:?}"))),
        };
        HttpError::new(authority, reason, detail)
    }
}

#[cfg(not(target_family = "wasm"))]
mod platform {
    use super::{Bytes, HttpError, Request, Response};

    pub(super) async fn exchange(
        authority: &str,
        request: Request<Bytes>,
        body_bytes_max: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let Some(answer) = crate::testing::http_answer(request) else {
            return Err(HttpError::new(authority, "connection-refused", None));
        };
        let response = answer.await?;
        if response.body().len() > body_bytes_max {
            let detail = format!("more than {body_bytes_max} bytes");
            return Err(HttpError::new(authority, "body-too-large", Some(detail)));
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Effect;
    use crate::testing::{answer_http, run};
    use crate::time::sleep;

    fn request(path: &str) -> Request<Bytes> {
        Request::get(format!("http://apollo:8080{path}")).body(Bytes::new()).unwrap()
    }

    #[test]
    fn an_answer_comes_whole() {
        run(async {
            answer_http(|request| async move {
                Ok(Response::new(Bytes::from(request.uri().path().to_owned())))
            });
            let response = send(request("/configs"), Limits::default()).await.unwrap();
            assert_eq!(response.body(), "/configs");
        });
    }

    #[test]
    fn an_answer_that_does_not_come_is_a_timeout_with_unknown_effect() {
        run(async {
            answer_http(|_| async {
                sleep(Duration::from_secs(60)).await;
                Ok(Response::new(Bytes::new()))
            });
            let error = send(request("/"), Limits::default()).await.unwrap_err();
            assert_eq!(error.reason(), "timeout");
            let error = Error::from(error);
            assert_eq!((error.code(), error.effect()), ("timeout", Effect::Unknown));
        });
    }

    #[test]
    fn an_answer_beyond_the_limit_is_refused() {
        run(async {
            answer_http(|_| async { Ok(Response::new(Bytes::from(vec![0; 11]))) });
            let limits = Limits { body_bytes_max: 10, ..Limits::default() };
            let error = send(request("/"), limits).await.unwrap_err();
            assert_eq!(Error::from(error).code(), "too-large");
        });
    }

    #[test]
    fn a_server_that_cannot_be_reached_did_nothing() {
        run(async {
            let error = Error::from(send(request("/"), Limits::default()).await.unwrap_err());
            assert_eq!((error.code(), error.effect()), ("unavailable", Effect::None));
            assert!(error.message().contains("apollo:8080"), "{error}");
        });
    }
}
