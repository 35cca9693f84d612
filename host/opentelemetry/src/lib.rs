//! Spans of OpenTelemetry's SDK for Rust to Pintle's tracing backends.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
//! use pintle_opentelemetry::Exporter;
//!
//! let pintle = pintle::Pintle::from_file("pintle.toml").await?;
//! let provider = SdkTracerProvider::builder()
//!     .with_batch_exporter(Exporter::new(&pintle))
//!     .with_resource(Resource::builder().with_service_name("shop").build())
//!     .build();
//! opentelemetry::global::set_tracer_provider(provider.clone());
//! // … spans, also those of `tracing` through `tracing-opentelemetry` …
//! provider.shutdown()?;      // hands over what it has
//! pintle.shutdown().await;   // delivers it
//! # Ok(())
//! # }
//! ```

mod convert;

use std::{fmt, time::Duration};

use bytes::Bytes;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SpanData, SpanExporter},
};
use pintle::{
    Pintle, Tracing,
    tracing::{NotTaken, Pipeline},
};
use pintle_otlp::{Piece, put_together};

/// Hands the SDK's spans to Pintle.
pub struct Exporter {
    target: Target,
    /// What the SDK says of its spans' origin, in bytes.
    resource: Bytes,
}

enum Target {
    /// It takes spans at once, and sees to it that they are delivered.
    Pipeline(Pipeline),
    /// One backend; the SDK learns what became of a batch.
    Backend(Tracing),
}

impl Exporter {
    /// To the host's pipeline: every backend that is chosen for tracing, with queues, sampling,
    /// redaction and retries. The SDK's processor never waits for a backend.
    #[must_use]
    pub fn new(pintle: &Pintle) -> Self {
        Self::to(Target::Pipeline(pintle.pipeline().clone()))
    }

    /// To one backend, past the pipeline. The SDK drops what fails, as it does with any exporter.
    #[must_use]
    pub fn to_backend(tracing: Tracing) -> Self {
        Self::to(Target::Backend(tracing))
    }

    fn to(target: Target) -> Self {
        Self { target, resource: Bytes::new() }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match &self.target {
            Target::Pipeline(_) => "the pipeline",
            Target::Backend(tracing) => tracing.backend(),
        };
        f.debug_struct("Exporter").field("to", &target).finish()
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let parts = convert::parts(&batch, &self.resource);
        match &self.target {
            Target::Pipeline(pipeline) => match pipeline.offer_parts(parts) {
                Ok(_) => Ok(()),
                Err(NotTaken::Closed) => Err(OTelSdkError::AlreadyShutdown),
                Err(refusal) => Err(OTelSdkError::InternalFailure(refusal.to_string())),
            },
            Target::Backend(tracing) => {
                let request = put_together(parts.pieces.iter().map(Piece::part));
                // The SDK's own thread has no runtime, and waits for this.
                match tracing.export_in_background(request).await {
                    Ok(result) if result.rejected.is_empty() => Ok(()),
                    Ok(result) => {
                        let refused = result.rejected.iter().map(|rejection| {
                            format!("{} spans: {}", rejection.spans, rejection.reason)
                        });
                        let refused: Vec<_> = refused.collect();
                        Err(OTelSdkError::InternalFailure(refused.join("; ")))
                    }
                    Err(error) if error.code() == "shutting-down" => {
                        Err(OTelSdkError::AlreadyShutdown)
                    }
                    Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
                }
            }
        }
    }

    /// What the pipeline took is delivered when the host is shut down.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = convert::resource(resource);
    }
}
