//! The exporter for OpenTelemetry's SDK for Rust.

use anyhow::{Context as _, Result};
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use pintle_opentelemetry::Exporter;

use crate::receive::Host;

/// One span within another; answers their trace's id.
fn work(provider: &SdkTracerProvider) -> String {
    let tracer = provider.tracer("shop");
    let order = tracer.span_builder("order").with_kind(SpanKind::Server).start(&tracer);
    let within = Context::current_with_span(order);
    let mut step = tracer.start_with_context("step", &within);
    step.set_attribute(KeyValue::new("n", 7));
    step.end();
    within.span().end();
    within.span().span_context().trace_id().to_string()
}

/// Exports batches from a thread of the SDK's, or each span where it ends.
fn provider(exporter: Exporter, in_batches: bool) -> SdkTracerProvider {
    let builder = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("shop").build());
    match in_batches {
        true => builder.with_batch_exporter(exporter),
        false => builder.with_simple_exporter(exporter),
    }
    .build()
}

async fn arrived(host: &Host, trace_id: &str) -> Result<()> {
    let found = host.trace(trace_id).await?;
    let of = found.first().context("the trace")?;
    assert_eq!(of.resource.as_ref().map(pintle_otlp::Resource::service_name), Some("shop"));
    let spans: Vec<_> =
        found.iter().flat_map(|of| &of.scope_spans).flat_map(|it| &it.spans).collect();
    let named = |name: &str| spans.iter().find(|span| span.name == name).context(name.to_owned());
    let (order, step) = (named("order")?, named("step")?);
    assert_eq!(step.parent_span_id, order.span_id);
    assert_eq!(order.kind(), pintle_otlp::SpanKind::Server);
    assert_eq!(step.attributes[0], pintle_otlp::KeyValue::new("n", pintle_otlp::Value::Int(7)));
    Ok(())
}

#[tokio::test]
async fn spans_of_the_sdk_reach_the_backends_through_the_pipeline() -> Result<()> {
    let host = Host::start("").await?;
    let provider = provider(Exporter::new(&host.pintle), true);
    let trace_id = work(&provider);
    provider.shutdown()?;
    arrived(&host, &trace_id).await?;
    assert_eq!(host.pintle.pipeline().status().received, 2);
    Ok(())
}

/// The SDK blocks the only thread that the test has, as it does in any program of one thread.
#[tokio::test]
async fn spans_of_the_sdk_reach_one_backend_past_the_pipeline() -> Result<()> {
    let host = Host::start("").await?;
    for in_batches in [true, false] {
        let provider = provider(Exporter::to_backend(host.pintle.tracing("near")?), in_batches);
        let trace_id = work(&provider);
        provider.shutdown()?;
        arrived(&host, &trace_id).await?;
    }
    assert_eq!(host.pintle.pipeline().status().received, 0);
    Ok(())
}
