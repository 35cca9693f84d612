//! Tracing: where spans go. (For a plugin's own log use the `tracing` crate.)
//!
//! The records are those of the WIT package `pintle:tracing`, whose documentation is the contract.

use crate::{Context, Error, Plugin};

pub use crate::bindings::wire::tracing::{ExportResult, QueryRequest, Rejection};

/// Offers `pintle:tracing`.
///
/// # Cancellation
///
/// The future of a method is dropped when the call is cancelled or its time is over.
#[allow(async_fn_in_trait, reason = "one thread, and the SDK is the only caller")]
pub trait Tracing: Plugin {
    /// Delivers one OTLP `ExportTraceServiceRequest` in protobuf; answers when the sink has taken
    /// the spans.
    ///
    /// # Errors
    ///
    /// `invalid` when the batch is no such message. Spans that the sink refuses are no error but
    /// counted in the result.
    async fn export(&self, cx: &Context, batch: Vec<u8>) -> Result<ExportResult, Error>;

    /// The newest traces that match, newest first, each one OTLP `TracesData` in protobuf. Feature
    /// `tracing.query`.
    async fn query(&self, cx: &Context, request: QueryRequest) -> Result<Vec<Vec<u8>>, Error> {
        let _ = (cx, request);
        Err(Error::unsupported("this plugin cannot read traces back"))
    }
}
