//! What an exported span costs in all.

use anyhow::Result;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::trace::SpanExporter;
use pintle::Pintle;
use pintle_opentelemetry::Exporter;
use pintle_test_bench::{Comparison, Row, Target as Wanted, cpu_seconds};
use pintle_test_suites::Sandbox;

use crate::{
    receiver::Receiver,
    spans::{BATCH, batch, resource},
};

/// Batches of a round.
pub(crate) const BATCHES: u64 = 40;
const ROUNDS: usize = 12;

/// P7: spans exported for each second of CPU time, and none lost.
pub(crate) async fn exported() -> Result<Row> {
    let receiver = Receiver::start()?;
    let stage = Stage::new(&receiver).await?;
    let mut ours = Exporter::new(&stage.pintle);
    ours.set_resource(&resource());
    let peer = native(&receiver)?;

    let pipeline = stage.pintle.pipeline();
    let ours = || measure(&receiver, &ours, async || pipeline.flush().await);
    let peer = || measure(&receiver, &peer, async || {});
    let what = "spans of ten attributes over gRPC; opentelemetry-otlp";
    let comparison = Comparison::new("P7", what).rounds(ROUNDS);
    Ok(comparison.run_values("spans/CPU s", Wanted::AtLeast(1.0), ours, peer).await?)
}

/// A host whose only sink is the receiver, with room for a whole round.
pub(crate) struct Stage {
    pub(crate) pintle: Pintle,
    _sandbox: Sandbox,
}

impl Stage {
    pub(crate) async fn new(receiver: &Receiver) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/otlp"])?;
        let text = settings(receiver, BATCH * BATCHES, "");
        let pintle = sandbox.start(&text).await?;
        Ok(Self { pintle, _sandbox: sandbox })
    }
}

/// Settings of a host whose only sink is the receiver, with room for so many spans.
pub(crate) fn settings(receiver: &Receiver, queue_spans: u64, tracing: &str) -> String {
    format!(
        "[defaults]\ntracing = \"otel\"\n\
         [tracing]\nqueue_spans = {queue_spans}\nqueue_bytes = \"512MiB\"\n{tracing}\n\
         [backends.otel]\nplugin = \"otlp\"\nendpoints = [\"{}\"]\n\
         settings = {{ protocol = \"grpc\", compression = \"none\" }}\n",
        receiver.address
    )
}

/// The exporter of others, to this address.
pub(crate) fn native_to(address: std::net::SocketAddr) -> Result<opentelemetry_otlp::SpanExporter> {
    let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
    let mut exporter = builder.with_endpoint(format!("http://{address}")).build()?;
    exporter.set_resource(&resource());
    Ok(exporter)
}

pub(crate) fn native(receiver: &Receiver) -> Result<opentelemetry_otlp::SpanExporter> {
    native_to(receiver.address)
}

/// Exports a round of spans and waits until they are there; answers spans per CPU second.
async fn measure<E: SpanExporter>(
    receiver: &Receiver,
    exporter: &E,
    flush: impl AsyncFn(),
) -> Result<f64> {
    let batches: Vec<_> = (0..BATCHES).map(batch).collect();
    let before = receiver.count().await?;
    let cpu = cpu_seconds();
    for batch in batches {
        exporter.export(batch).await?;
    }
    flush().await;
    let cpu = cpu_seconds() - cpu;
    receiver.has(before + BATCH * BATCHES).await?;
    Ok((BATCH * BATCHES) as f64 / cpu)
}
