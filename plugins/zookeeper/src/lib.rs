//! ZooKeeper as a backend: configuration, registry and locks.
pub mod wire;

mod error;
mod path;
mod session;
mod settings;
