//! The HTTP API over a host with a plugin in memory, as clients see it.

mod access;
mod audit;
mod client;
mod config;
mod connection;
mod host;
mod leader;
mod lock;
mod malformed;
mod metrics;
mod openapi;
mod registry;
mod served;
mod tls;
