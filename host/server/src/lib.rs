//! Pintle's HTTP API over a host.

mod access;
mod convert;
mod extract;
mod failure;
mod leases;
pub mod receive;
mod registrations;
mod routes;
mod serve;
mod state;
mod stream;
mod trace;

use axum::Router;
use pintle::Pintle;

pub use access::{AddressError, check_address};
pub use state::Api;

/// The API over a host, for a server of one's own or for a client in the same process.
///
/// Leases and registrations that are made through it are kept in it: use one per host.
pub fn router(pintle: Pintle) -> Router {
    Api::new(pintle).router()
}
