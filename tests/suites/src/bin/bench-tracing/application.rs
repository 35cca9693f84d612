//! What a span costs the thread of the application that makes it.

use anyhow::Result;
use opentelemetry::trace::{Span, SpanKind, Tracer, TracerProvider};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanExporter,
};
use pintle_opentelemetry::Exporter;
use pintle_test_bench::{Comparison, Row, Target as Wanted, thread_cpu_seconds};

use crate::{
    export::{BATCHES, Stage, native},
    receiver::Receiver,
    spans::{BATCH, attributes, resource},
};

/// Spans of a round.
const SPANS: u64 = BATCH * BATCHES;
/// Many: on a busy machine 20 left an interval of a fifth around a ratio below 1.
const ROUNDS: usize = 60;

/// P7-thread: CPU time of the application's thread for each span. Behind the SDK's batch processor both
/// are the same code there, and so is the target, but for what a measurement strays.
pub(crate) async fn ended() -> Result<Row> {
    let receiver = Receiver::start()?;
    let stage = Stage::new(&receiver).await?;
    let (ours, peer) = (provider(Exporter::new(&stage.pintle)), provider(native(&receiver)?));
    let ours = || measure(&receiver, &ours, async || stage.pintle.pipeline().flush().await);
    let peer = || measure(&receiver, &peer, async || {});
    let what = "a span of ten attributes on the application's thread; opentelemetry-otlp";
    let comparison = Comparison::new("P7-thread", what).rounds(ROUNDS);
    Ok(comparison.run_values("µs", Wanted::AtMost(1.03), ours, peer).await?)
}

/// Behind the SDK's batch processor, with room for a round: what is dropped costs less.
fn provider(exporter: impl SpanExporter + 'static) -> SdkTracerProvider {
    let room = usize::try_from(SPANS).unwrap_or(usize::MAX);
    let config = BatchConfigBuilder::default().with_max_queue_size(room).build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource()).build()
}

/// Makes a round of spans; answers microseconds of CPU time for each.
async fn measure(
    receiver: &Receiver,
    provider: &SdkTracerProvider,
    flush: impl AsyncFn(),
) -> Result<f64> {
    let before = receiver.count().await?;
    let tracer = provider.tracer("bench");
    let cpu = thread_cpu_seconds();
    // Without a wait: all of it is on this thread.
    for _ in 0..SPANS {
        let span = tracer.span_builder("GET /orders").with_kind(SpanKind::Server);
        tracer.build(span.with_attributes(attributes())).end();
    }
    let cpu = thread_cpu_seconds() - cpu;
    let flushed = provider.clone();
    tokio::task::spawn_blocking(move || flushed.force_flush()).await??;
    flush().await;
    receiver.has(before + SPANS).await?;
    Ok(cpu * 1e6 / SPANS as f64)
}
