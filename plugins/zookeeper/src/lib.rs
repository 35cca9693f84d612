//! ZooKeeper as a backend: configuration, registry and locks.
//!
//! [`wire`] is the protocol, pure. Around it, `session` keeps sessions over connections, servers and
//! expiry, and one module per capability translates between nodes and the SDK.

pub mod wire;

mod config;
#[cfg(test)]
mod ensemble;
mod error;
mod legacy;
mod limits;
mod lock;
mod path;
mod registry;
mod session;
mod settings;
mod watching;
mod zookeeper;

pub use settings::{ExclusiveClaims, Settings};
pub use zookeeper::ZooKeeper;

pintle_plugin_sdk::export!(ZooKeeper: config, registry, lock);
