//! Apache SkyWalking as a backend: traces.
//!
//! [`wire`] is pure: SkyWalking's messages, and how an OTLP span reads in them. [`assembly`] puts
//! spans together into segments and is pure as well: what comes in and what time it is are told to
//! it. [`reporter`] sends segments, over gRPC or HTTP, and [`instances`] tells of the processes that
//! they come from.

pub mod assembly;
pub mod wire;

mod instances;
mod reporter;
mod settings;
mod skywalking;
mod tracing;

pub use settings::{Protocol, Settings};
pub use skywalking::SkyWalking;

pintle_plugin_sdk::export!(SkyWalking: tracing);
