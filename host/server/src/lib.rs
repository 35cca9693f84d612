//! Pintle's HTTP API over a host.

mod access;
mod audit;
mod calls;
mod convert;
mod extract;
mod failure;
mod leases;
mod metrics;
mod openapi;
mod operations;
mod owner;
pub mod receive;
mod registrations;
mod routes;
mod serve;
mod state;
mod stream;
mod tls;
mod trace;

use axum::Router;
use pintle::Pintle;

pub use access::{AddressError, TokensError, check_address};
pub use audit::AuditError;
pub use openapi::{ExampleRequest, examples};
pub use serve::Listen;
pub use state::{Api, LogControl, OpenError, has_tokens};
pub use tls::{Tls, TlsError};

/// The API over a host, for a server of one's own or for a client in the same process; for whoever
/// reaches it.
///
/// Leases and registrations that are made through it are kept in it: use one per host.
pub fn router(pintle: Pintle) -> Router {
    Api::new(pintle).router()
}
