//! etcd as a backend: configuration, registry and locks.
//!
//! [`wire`] is pure: messages and the layout of what is stored. [`client`] sends requests, over
//! connections of [`server`] and with the token of [`auth`]; [`watches`] and [`lease`] keep what lives
//! longer than a call. On them stands one module per capability.

pub mod wire;

mod auth;
mod client;
mod config;
mod error;
mod etcd;
mod lease;
mod lock;
mod reader;
mod registry;
mod server;
mod settings;
mod watches;

pub use etcd::Etcd;
pub use lock::Lease;
pub use registry::Registration;
pub use settings::Settings;

pintle_plugin_sdk::export!(Etcd: config, registry, lock);
