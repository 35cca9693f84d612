//! The embedded backend: durable, single node, all four capabilities.
//!
//! [`store`] is the engine and knows nothing of plugins. Around it, [`engine`] gathers the changes
//! of concurrent calls into turns that become durable together, and one module per capability
//! translates between the engine and the SDK.

pub mod store;
pub mod wire;

mod config;
mod engine;
mod error;
mod local;
mod lock;
mod registry;
mod settings;
mod signal;
mod tracing;

pub use local::Local;
#[cfg(not(target_family = "wasm"))]
pub use local::set_native_storage;
pub use settings::Settings;

pintle_plugin_sdk::export!(Local: config, registry, lock, tracing);
