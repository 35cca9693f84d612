//! Everything a plugin author needs: a trait per capability, connections, sessions.
//!
//! A plugin is a type that implements [`Plugin`] and any of [`Config`], [`Registry`], [`Lock`] and
//! [`Tracing`], exported with [`export!`]. The SDK keeps the host's numbers, queues, deadlines and
//! cancellations; an author meets requests, outcomes, sinks and reporters.
#[doc(hidden)]
pub mod bindings;
pub mod config;
#[doc(hidden)]
pub mod glue;
pub mod lock;
pub mod registry;
pub mod settings;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod time;
pub mod tracing;

mod admit;
mod calls;
mod context;
mod error;
mod export;
mod handles;
mod host;
#[cfg(target_family = "wasm")]
mod log;
mod outbox;
mod plugin;
mod reporter;
mod runtime;
mod signal;
mod watch;

pub use config::Config;
pub use context::{Context, End};
pub use error::{Effect, Error};
pub use host::checkpoint;
pub use lock::{Lock, NoLease, Validity};
pub use plugin::{Description, Endpoint, Feature, Health, Plugin, Start};
pub use registry::Registry;
pub use runtime::{StopOnDrop, Task, spawn};
pub use settings::{NoSettings, Secret};
pub use tracing::Tracing;
