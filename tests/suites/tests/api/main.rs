//! The HTTP API over a host with a plugin in memory, as clients see it.

mod config;
mod host;
mod lock;
mod registry;
mod served;
