//! Receivers of OTLP as a backend: traces, over gRPC or HTTP.
//!
//! [`wire`] is pure: requests and answers. [`Otlp`] sends them: over connections of its own
//! ([`grpc`]) or through the host's HTTP client ([`http`]).

pub mod wire;

mod error;
mod grpc;
mod http;
mod otlp;
mod settings;
mod tracing;

pub use otlp::Otlp;
pub use settings::{Compression, Protocol, Settings};

pintle_plugin_sdk::export!(Otlp: tracing);
