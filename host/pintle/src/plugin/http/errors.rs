//! Failures of requests in the words of `wasi:http`.
//!
//! Its codes carry no text for TLS failures, which only a sentence explains; these become
//! `internal-error`, the one code that carries it to the guest and so to the caller.

use std::error::Error as StdError;
use std::io;

use hyper_util::client::legacy;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;

use super::connector::ConnectError;
use crate::plugin::sockets::DialError;

pub(super) fn from_dial(error: &DialError) -> Error {
    match error {
        DialError::Denied(_) => Error::HttpRequestDenied,
        DialError::Unresolvable { .. } => {
            Error::DnsError { rcode: Some(error.to_string()), info_code: None }
        }
        DialError::Unreachable { source, .. } => match source.kind() {
            io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
            io::ErrorKind::TimedOut => Error::ConnectionTimeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Error::DestinationIpUnroutable
            }
            _ => Error::DestinationUnavailable,
        },
        DialError::Timeout { .. } => Error::ConnectionTimeout,
        DialError::Limit { .. } => Error::ConnectionLimitReached,
        DialError::Tls(_) | DialError::Stopping { .. } => {
            Error::InternalError(Some(error.to_string()))
        }
    }
}

pub(super) fn from_client(error: legacy::Error) -> Error {
    if let Some(connect) = cause::<ConnectError>(&error) {
        return match connect {
            ConnectError::Dial(dial) => from_dial(dial),
            other => Error::InternalError(Some(other.to_string())),
        };
    }
    if let Some(guest) = cause::<Error>(&error) {
        // The guest's own body failed; which way is in its own hands already.
        return Error::InternalError(Some(guest.to_string()));
    }
    match cause::<hyper::Error>(&error) {
        Some(hyper) => Error::from(code_of(hyper)),
        None => Error::InternalError(Some(error.to_string())),
    }
}

/// The code for what hyper met on a connection.
pub(super) fn code_of(error: &hyper::Error) -> ErrorCode {
    if error.is_parse_too_large() {
        return ErrorCode::HttpResponseHeaderSectionSize(None);
    }
    if error.is_incomplete_message() {
        return ErrorCode::HttpResponseIncomplete;
    }
    if error.is_timeout() {
        return ErrorCode::ConnectionTimeout;
    }
    match cause::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::UnexpectedEof) => ErrorCode::HttpResponseIncomplete,
        Some(io::ErrorKind::TimedOut) => ErrorCode::ConnectionTimeout,
        Some(_) => ErrorCode::ConnectionTerminated,
        None if error.is_closed() || error.is_canceled() => ErrorCode::ConnectionTerminated,
        None => ErrorCode::HttpProtocolError,
    }
}

fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
