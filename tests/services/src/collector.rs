//! The OpenTelemetry Collector: OTLP over gRPC in, batches, OTLP over gRPC out.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use crate::{Artifact, Error, Port, Result, Single, single};

/// A Collector; stopped when dropped.
#[derive(Debug)]
pub struct Collector {
    /// The process.
    pub server: Single,
    port: Port,
    _ready: Port,
}

impl Collector {
    /// Starts one that brings spans to `target`, and waits until it serves. Fetches it first where it is
    /// missing, which takes some minutes.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not ready in time; the error shows its log.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let program = Artifact::Collector165.fetch_in_background().await?.join("bin/otelcol");
        let (port, ready) = (Port::free()?, Port::free()?);
        let folder = single::folder("collector")?;
        let file = folder.path().join("collector.yaml");
        let settings = format!(
            "extensions: {{health_check: {{endpoint: '{ready}'}}}}\n\
             receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '{port}'}}}}}}}}\n\
             processors: {{batch: {{}}}}\n\
             exporters: {{otlp: {{endpoint: '{target}', compression: none, tls: {{insecure: true}}}}}}\n\
             service:\n  \
               extensions: [health_check]\n  \
               telemetry: {{metrics: {{level: none}}}}\n  \
               pipelines: {{traces: {{receivers: [otlp], processors: [batch], exporters: [otlp]}}}}\n",
            ready = ready.address(),
            port = port.address(),
        );
        fs::write(&file, settings).map_err(Error::file("write", &file))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&file);
        let server = Single::start("collector", command, (ready.address(), "/"), folder).await?;
        Ok(Self { server, port, _ready: ready })
    }

    /// Where OTLP is taken over gRPC.
    pub fn otlp_grpc(&self) -> SocketAddr {
        self.port.address()
    }
}
