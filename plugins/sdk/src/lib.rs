//! Everything a plugin author needs: a trait per capability, connections, sessions.
//!
//! A plugin is a type that implements [`Plugin`] and any of [`Config`], [`Registry`], [`Lock`] and
//! [`Tracing`], exported with [`export!`]. The SDK keeps the host's numbers, queues, deadlines and
//! cancellations; an author meets requests, outcomes, sinks and reporters.
//!
//! ```
//! use pintle_plugin_sdk::config::*;
//! use pintle_plugin_sdk::{Context, Description, Error, Feature, Health, NoLease, Plugin, Start};
//! use std::cell::RefCell;
//! use std::collections::BTreeMap;
//! use std::rc::Rc;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     /// What a key that nobody wrote holds.
//!     default: String,
//! }
//!
//! struct Notes {
//!     default: String,
//!     entries: RefCell<BTreeMap<String, Entry>>,
//!     watches: RefCell<Vec<WatchSink>>,
//! }
//!
//! impl Plugin for Notes {
//!     type Settings = Settings;
//!
//!     fn description() -> Description {
//!         Description::new(env!("CARGO_PKG_VERSION"), "Notes in memory")
//!             .features([Feature::WatchEveryChange])
//!     }
//!
//!     async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
//!         let (entries, watches) = Default::default();
//!         Ok(Rc::new(Self { default: start.settings.default, entries, watches }))
//!     }
//!
//!     fn health(&self) -> Health {
//!         Health::serving("ready").detail("default", &self.default)
//!     }
//!
//!     async fn stop(&self, _: &Context) -> Result<(), Error> {
//!         Ok(())
//!     }
//! }
//!
//! impl Config for Notes {
//!     type Held = NoLease;
//!
//!     async fn get(&self, _: &Context, key: String, _: ReadOptions) -> Result<Option<Entry>, Error> {
//!         Ok(self.entries.borrow().get(&key).cloned())
//!     }
//!
//!     async fn put(&self, _: &Context, request: Put<NoLease>) -> Result<PutOutcome, Error> {
//!         let Put { key, value, content_type, .. } = request;
//!         let version = (self.entries.borrow().len() + 1).to_string();
//!         let entry =
//!             Entry { key, value, content_type, version: version.clone(), modified_ms: None };
//!         self.entries.borrow_mut().insert(entry.key.clone(), entry.clone());
//!         for sink in self.watches.borrow().iter() {
//!             sink.put(entry.clone(), None); // a sink never waits
//!         }
//!         Ok(PutOutcome::Stored(Stored { version, previous: None }))
//!     }
//!
//!     async fn watch(self: Rc<Self>, _: WatchRequest, sink: WatchSink) -> Result<(), Error> {
//!         self.watches.borrow_mut().push(sink.clone());
//!         loop {
//!             sink.snapshot_wanted().await;
//!             let mut snapshot = sink.snapshot(); // in the same turn as the view below
//!             let view: Vec<_> = self.entries.borrow().values().cloned().collect();
//!             for entry in view {
//!                 snapshot.put(entry).await; // waits while the reader is behind
//!             }
//!             snapshot.end(None);
//!         } // dropped when the host closes the watch
//!     }
//! #   async fn list(&self, _: &Context, _: ListRequest) -> Result<Page, Error> { Err(Error::unsupported("")) }
//! #   async fn delete(&self, _: &Context, _: Delete<NoLease>) -> Result<DeleteOutcome, Error> { Err(Error::unsupported("")) }
//! #   async fn delete_prefix(&self, _: &Context, _: String, _: Option<Rc<NoLease>>) -> Result<u64, Error> { Ok(0) }
//!     // … list, delete and delete_prefix
//! }
//!
//! pintle_plugin_sdk::export!(Notes: config);
//!
//! // Natively, a host for tests:
//! use pintle_plugin_sdk::testing::{Host, StartOptions, run};
//! run(async {
//!     let settings = serde_json::json!({ "default": "-" });
//!     let host = Host::<Notes>::start(StartOptions { settings, ..Default::default() }).await?;
//!     assert_eq!(host.health().await?.details, [("default".into(), "-".into())]);
//!     Ok::<(), Error>(())
//! })
//! .unwrap();
//! ```
//!
//! For the way to the server there are [`connection`], [`link`], [`endpoints`] and [`backoff`], and
//! with cargo features `http` (through the host), `http2` and `grpc` (on the plugin's own connection),
//! `gzip`;
//! [`coalesce`] asks small reads together, [`session`] keeps leases and registrations, [`follow`] makes
//! watches of listings, [`record`] is how instances are stored, and [`time`], [`random`], [`signal`] and
//! [`spawn`] replace what the sandbox lacks. Log with the `tracing` crate's macros: from `debug` on they
//! go to the host.
//!
//! A plugin with locks says `type Held = <its Lease>` and shows in `acquire` how a lease is kept
//! and given back; `tests/fixtures/memory` is a whole plugin with all three.
pub mod backoff;
#[doc(hidden)]
pub mod bindings;
pub mod coalesce;
pub mod config;
pub mod connection;
pub mod endpoints;
pub mod follow;
#[doc(hidden)]
pub mod glue;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "gzip")]
pub mod gzip;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http2")]
pub mod http2;
pub mod key;
pub mod link;
pub mod lock;
pub mod queue;
pub mod random;
pub mod record;
pub mod registry;
pub mod session;
pub mod settings;
pub mod signal;
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
mod watch;

pub use config::Config;
pub use context::{Context, End};
pub use error::{Effect, Error};
pub use host::checkpoint;
pub use lock::{Lock, NoLease, Validity};
pub use plugin::{Description, Endpoint, Feature, Health, Plugin, Start};
pub use registry::Registry;
pub use runtime::{StopOnDrop, Task, after_answer, spawn, yield_now};
pub use settings::{NoSettings, Secret};
pub use tracing::Tracing;
