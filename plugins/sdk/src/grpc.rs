//! gRPC over [`crate::http2`], with `tonic`'s codecs and `prost`'s messages.
//!
//! ```no_run
//! # use pintle_plugin_sdk::{Endpoint, Error, connection::Connection, grpc, http2::Options};
//! # use std::time::Duration;
//! # async fn example(endpoint: Endpoint) -> Result<(), Error> {
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct StatusRequest {}
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct StatusResponse {
//!     #[prost(string, tag = "2")]
//!     version: String,
//! }
//!
//! let connection = Connection::open(&endpoint, Duration::from_secs(3)).await?;
//! let channel = grpc::Channel::open(connection, Options::default()).await?;
//! let path = "/etcdserverpb.Maintenance/Status";
//! let answer: StatusResponse = grpc::unary(&channel, path, StatusRequest {})
//!     .await
//!     .map_err(|status| grpc::error(&status, channel.peer()))?;
//! # Ok(())
//! # }
//! ```

mod message;

use crate::{Error, http2};
use ::http::uri::PathAndQuery;
use ::http::{HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use futures::Stream;
use prost::Message;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::{Code, IntoRequest, IntoStreamingRequest, Status, Streaming};
use tonic_prost::ProstCodec;

pub use {prost, tonic};

/// One connection on which gRPC is spoken. Clones share it.
pub type Channel = http2::Client;

/// Largest message that is taken from a server; a larger one is refused before it is read.
///
/// A server counts its limits in what a client sends, so that an answer of many values can be larger
/// than any of them, and larger than a sandbox. Ask for less when [`is_too_large`].
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Calls a method with one request and one answer.
///
/// # Errors
///
/// The server's status, or one that stands for a broken connection; see [`error`].
///
/// # Limits
///
/// An answer has at most [`MESSAGE_BYTES_MAX`] bytes.
///
/// # Cancellation
///
/// Dropping the future resets the stream; the server may have acted on the request.
pub async fn unary<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: impl IntoRequest<Q>,
) -> Result<A, Status>
where
    Q: Message,
    A: Message + Default,
{
    let (metadata, _, request) = request.into_request().into_parts();
    send(channel, path, metadata, message::frame(&request)?, None).await
}

/// As [`unary`], with the request compressed.
///
/// # Errors
///
/// As [`unary`].
#[cfg(feature = "gzip")]
pub async fn unary_gzip<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: impl IntoRequest<Q>,
) -> Result<A, Status>
where
    Q: Message,
    A: Message + Default,
{
    let (metadata, _, request) = request.into_request().into_parts();
    let gzip = HeaderValue::from_static("gzip");
    send(channel, path, metadata, message::frame_gzip(&request)?, Some(gzip)).await
}

async fn send<A: Message + Default>(
    channel: &Channel,
    path: &'static str,
    metadata: MetadataMap,
    body: Bytes,
    encoding: Option<HeaderValue>,
) -> Result<A, Status> {
    let mut head = ::http::Request::new(());
    *head.method_mut() = Method::POST;
    *head.uri_mut() = PathAndQuery::from_static(path).into();
    *head.headers_mut() = metadata.into_headers();
    head.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if let Some(encoding) = encoding {
        head.headers_mut().insert("grpc-encoding", encoding);
    }
    let answered = channel.exchange(head, body, async |answer| {
        let (head, mut body) = answer.into_parts();
        // A refusal may come without a body.
        if let Some(refused) = refusal(&head) {
            return Ok(Err(refused));
        }
        let read = http2::collect(&mut body, message::PREFIX_BYTES + MESSAGE_BYTES_MAX).await?;
        Ok(read.map_err(message::too_large))
    });
    let (answer, trailers) = answered.await.map_err(|failed| broken(channel, failed))??;
    match trailers.as_ref().and_then(Status::from_header_map) {
        Some(status) if status.code() == Code::Ok => message::unframe(answer),
        Some(status) => Err(status),
        None => Err(Status::unavailable("the answer ended without a status")),
    }
}

/// Opens a stream in both directions; for one request and many answers, send a stream of one.
///
/// # Errors
///
/// As [`unary`].
pub async fn streaming<Q, A, S>(
    channel: &Channel,
    path: &'static str,
    requests: impl IntoStreamingRequest<Stream = S, Message = Q>,
) -> Result<Streaming<A>, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
    S: Stream<Item = Q> + Send + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, A>::default());
    Ok(client.streaming(requests.into_streaming_request(), path, codec).await?.into_inner())
}

const CONTENT_TYPE: &str = "application/grpc";

/// Why there is nothing behind the head of an answer, if there is not.
fn refusal(head: &::http::response::Parts) -> Option<Status> {
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() == Code::Ok => None,
        Some(status) => Some(status),
        None if head.status == StatusCode::OK => None,
        None => Some(without_status(head.status)),
    }
}

fn broken(channel: &Channel, failed: http2::Failed) -> Status {
    let reason = channel.ending().unwrap_or_else(|| failed.to_string());
    let mut status = Status::unavailable(reason);
    status.set_source(std::sync::Arc::new(failed));
    status
}

/// Whether the server has certainly done nothing of what was asked, because the request did not reach
/// it or was refused unread.
pub fn is_untouched(status: &Status) -> bool {
    let cause = std::error::Error::source(status);
    let failed = cause.and_then(|cause| cause.downcast_ref::<http2::Failed>());
    failed.is_some_and(http2::Failed::is_untouched)
}

/// What an answer means that did not come from a gRPC server
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn without_status(http: StatusCode) -> Status {
    let code = match http.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("answered with HTTP {http} instead of gRPC"))
}

/// How `tonic` begins its refusal of a message that is too large.
const TOO_LARGE: &str = "decoded message length too large";

/// Whether an answer was refused here because it has more than [`MESSAGE_BYTES_MAX`] bytes.
pub fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains(TOO_LARGE)
}

/// A status in the words of Pintle. The effect is `none` where the server refused, and `unknown`
/// where nobody knows whether it acted; say [`effect_none`](Error::effect_none) for reads. A request
/// that did not reach the server did nothing either.
///
/// A broken connection is told with its causes: the last of them mostly says what to do.
pub fn error(status: &Status, endpoint: &str) -> Error {
    let message = format!("{endpoint}: {}", with_causes(status));
    let made = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Error::invalid(message),
        Code::NotFound => Error::not_found(message),
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Error::conflict(message),
        Code::PermissionDenied => Error::denied(message),
        Code::Unauthenticated => Error::unauthenticated(message),
        Code::Unimplemented => Error::unsupported(message),
        Code::ResourceExhausted => Error::exhausted(message),
        Code::DeadlineExceeded => Error::timeout(message).effect_unknown(),
        Code::Cancelled => Error::cancelled(message).effect_unknown(),
        Code::Ok | Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss => {
            Error::unavailable(message).effect_unknown()
        }
    };
    let made = if is_untouched(status) { made.effect_none() } else { made };
    let made = match pushback(status) {
        Some(wait) => made.retry_after(wait),
        None => made,
    };
    made.detail("endpoint", endpoint).detail("status", format!("{:?}", status.code()))
}

/// What a status says, and behind it what its causes add to that.
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let added = error.to_string();
        if !text.contains(&added) {
            text = format!("{text}: {added}");
        }
        cause = error.source();
    }
    text
}

/// How long the server asks to wait before a retry, if it does.
fn pushback(status: &Status) -> Option<Duration> {
    let text = status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Effect;

    #[test]
    fn a_refusal_did_nothing_and_a_broken_connection_may_have() {
        let refused = error(&Status::permission_denied("no"), "etcd:2379");
        assert_eq!((refused.code(), refused.effect()), ("denied", Effect::None));
        let broken = error(&Status::unavailable("broken pipe"), "etcd:2379");
        assert_eq!((broken.code(), broken.effect()), ("unavailable", Effect::Unknown));
        assert_eq!(broken.message(), "etcd:2379: broken pipe");
    }

    #[test]
    fn a_broken_connection_is_told_with_its_causes_each_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error);

        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("connection error")
            }
        }

        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }

        let cause = std::io::Error::other("it requires a client certificate; set tls.cert");
        let status = Status::from_error(Box::new(Outer(cause)));
        assert_eq!(
            error(&status, "etcd:2379").message(),
            "etcd:2379: connection error: it requires a client certificate; set tls.cert"
        );
    }
}
