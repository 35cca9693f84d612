//! Zipkin as a backend: traces.
//!
//! [`wire`] is pure: OTLP spans in, Zipkin's version 2 JSON out. [`Zipkin`] sends it.

pub mod wire;

mod settings;
mod tracing;
mod zipkin;

pub use settings::Settings;
pub use zipkin::Zipkin;

pintle_plugin_sdk::export!(Zipkin: tracing);
