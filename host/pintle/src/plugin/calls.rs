//! Calls on a plugin as methods of its backend, in the library's own types.

mod config;
mod lifecycle;
mod lock;
mod registry;
mod tracing;

pub(super) use config::WATCH as WATCH_CONFIG;
pub use lifecycle::{Health, HealthState};
pub(crate) use lock::Acquired;
