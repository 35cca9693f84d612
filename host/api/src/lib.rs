//! Types of Pintle's HTTP API: requests, answers, events and problem documents.
//!
//! Server and clients share this module, and nothing else: none of these types is used inside the
//! host, so that either side may change without the other.

pub mod access;
pub mod address;
pub mod audit;
pub mod backend;
pub mod bytes;
pub mod config;
pub mod etag;
pub mod event;
pub mod leader;
pub mod lock;
pub mod plugin;
pub mod problem;
pub mod registry;
pub mod server;
pub mod settings;
pub mod tracing;

pub use problem::{Effect, Problem};

/// Media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Name that stands for the default backend of a capability, wherever a backend is named.
pub const DEFAULT_BACKEND: &str = "default";

/// Bytes between heartbeats never stop for longer than this many milliseconds on an event stream.
pub const HEARTBEAT_MS: u64 = 15_000;
