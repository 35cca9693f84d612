//! Pintle: configuration, registry, locks and tracing for clusters, on any backend.
//!
//! Each backend (etcd, ZooKeeper, the embedded `local` …) is a plugin in a sandbox, loaded from a
//! directory; `pintle.toml` names the backends. None of that shows here:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pintle::{Pintle, config::Put, lock::{AcquireOutcome, LockRequest}};
//!
//! let pintle = Pintle::from_file("pintle.toml").await?;
//! let config = pintle.config("main")?;
//! config.put(Put::new("app/greeting", "hello")).await?;
//!
//! if let AcquireOutcome::Held(lease) = pintle.lock("main")?.acquire(LockRequest::new("job")).await? {
//!     tokio::select! {
//!         reason = lease.lost() => eprintln!("stop: {reason}"),
//!         () = async { /* the work that must not overlap */ } => {}
//!     }
//!     lease.release().await?;
//! }
//! pintle.shutdown().await;
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod error;
pub mod leader;
pub mod lock;
pub mod registry;
pub mod secret;
pub mod settings;
pub mod tracing;

mod backlog;
mod clock;
mod host;
mod metrics;
mod mirror;
mod names;
mod plugin;

pub use config::Config;
pub use error::{Effect, Error};
pub use host::{BackendCheck, Builder, DEFAULT, Pintle, ShutdownReport, StartError};
pub use leader::Leader;
pub use lock::Lock;
#[doc(hidden)]
pub use plugin::direct;
pub use plugin::{
    BackendState, BackendStatus, Capability, CompilerProgram, Health, HealthState, Names,
    NetworkSnapshot, Pair, PluginDiff, PluginEntry, PluginFileError, PluginInfo, compile_plugin,
};
pub use registry::Registry;
pub use tracing::Tracing;
