//! Tracing: where spans go.
//!
//! [`Tracing`] hands one batch to one backend and tells what became of it. A [`Pipeline`] is what
//! applications report to: it takes spans without waiting, and sees to it that they get to all
//! backends that are chosen for tracing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    error::{Error, Refusal},
    plugin::Backend,
};

mod context;
mod own;
pub(crate) mod pipeline;
pub mod propagation;
mod sink;

pub use context::{TraceHeaders, in_trace};
pub use own::OwnSpan;
pub use pipeline::{NotTaken, Pipeline, PipelineStatus, SinkStatus, Taken, reason};

pub(crate) use context::current_headers;
pub(crate) use own::{OwnSpans, Role};
pub(crate) use sink::BackendSink;

/// The tracing capability of one backend. Cheap to clone.
#[derive(Clone)]
pub struct Tracing {
    backend: Arc<Backend>,
    timeout: Option<Duration>,
}

/// What became of the spans of a batch; the numbers add up to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportResult {
    /// Spans that the sink took.
    pub accepted: u64,
    /// Spans that it refused, by reason.
    pub rejected: Vec<Rejection>,
}

/// Spans that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What the sink said.
    pub reason: String,
    /// How many.
    pub spans: u64,
}

/// Which traces to read back (feature `tracing.query`).
#[derive(Debug, Clone, Default)]
pub struct TraceQuery {
    /// 32 lower-case hexadecimal digits.
    pub trace_id: Option<String>,
    /// Name of a service that takes part.
    pub service: Option<String>,
    /// Most traces, 1 to 1,000; 0 means 1,000.
    pub limit: u32,
}

impl Tracing {
    pub(crate) fn new(backend: Arc<Backend>) -> Self {
        Self { backend, timeout: None }
    }

    /// Name of the backend.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend.name
    }

    /// The same with another timeout for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Delivers one OTLP `ExportTraceServiceRequest` in protobuf.
    ///
    /// # Errors
    ///
    /// `invalid` for what is no such message; else as any write. Spans that the sink refuses are no
    /// error: they are counted in the result.
    pub async fn export(&self, batch: Bytes) -> Result<ExportResult, Error> {
        self.backend.tracing_export(self.timeout, batch).await
    }

    /// As [`export`](Self::export), on the host's own threads: for who has no runtime, or blocks the one
    /// that it has until this is done.
    ///
    /// # Errors
    ///
    /// As [`export`](Self::export).
    ///
    /// # Cancellation
    ///
    /// The export goes on in the background.
    pub async fn export_in_background(&self, batch: Bytes) -> Result<ExportResult, Error> {
        let tracing = self.clone();
        let runtime = self.backend.shared.engine.host_runtime();
        match runtime.spawn(async move { tracing.export(batch).await }).await {
            Ok(exported) => exported,
            // The host's runtime is gone, and every plugin with it.
            Err(_) => Err(Refusal::ShuttingDown.into()),
        }
    }

    /// The newest traces that match, each one OTLP `TracesData` in protobuf.
    ///
    /// # Errors
    ///
    /// `unsupported` for a sink that cannot be read back.
    pub async fn query(&self, query: TraceQuery) -> Result<Vec<Bytes>, Error> {
        self.backend.tracing_query(self.timeout, query).await
    }
}
