//! Calls on a plugin as methods of its backend, in the library's own types.

mod config;
mod lifecycle;
mod lock;
mod registry;
mod tracing;

pub use lifecycle::{Health, HealthState};
pub(crate) use lock::Acquired;
