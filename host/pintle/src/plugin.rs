//! Plugins: loaded from a directory, each incarnation in a store of its own, supervised.
//!
//! Nothing outside this folder knows that plugins are WebAssembly.

mod accepted;
mod actor;
mod audit;
mod backend;
mod bindings;
mod cache;
mod calls;
mod check;
mod convert;
mod data_dir;
mod diff;
pub mod direct;
mod engine;
mod feed;
mod file;
pub(crate) mod grants;
mod guest;
mod http;
pub(crate) mod limits;
mod loader;
mod made;
mod network;
mod output;
mod pump;
mod reload;
mod routes;
mod shape;
mod sockets;
mod supervisor;
mod tail;
mod thread;
mod throttle;
mod tls;

pub(crate) use accepted::Accepted;
pub(crate) use backend::{Backend, Shared};
pub use backend::{BackendState, BackendStatus};
pub(crate) use cache::CompiledCache;
pub(crate) use calls::Acquired;
pub use calls::{Health, HealthState};
pub(crate) use check::{Found, check_backends};
pub use diff::{Names, Pair, PluginDiff};
pub(crate) use engine::Engine;
pub(crate) use feed::{ConfigWatched, FeedUser, InstanceWatched, join};
pub use file::{Capability, PluginEntry, PluginFileError, PluginInfo};
pub(crate) use limits::Limits;
pub(crate) use loader::Loader;
pub(crate) use made::Made;
pub use network::NetworkSnapshot;
pub(crate) use reload::{follow, take_over};
pub(crate) use routes::LockWatchRoute;
pub(crate) use supervisor::supervise;
pub(crate) use tail::TailUser;
