"""A program that uses OpenTelemetry's SDK and nothing of Pintle: where spans go is told by the
standard environment variables."""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("shop")
before = trace.SpanContext(9, 9, is_remote=True, trace_flags=trace.TraceFlags.get_default())
links = [trace.Link(before)]
with tracer.start_as_current_span("order", kind=trace.SpanKind.SERVER, links=links) as order:
    for number in range(20):
        attributes = {"é": "日本", "n": number}
        with tracer.start_as_current_span(f"step {number}", attributes=attributes) as step:
            step.add_event("done", {"n": number})
    order.record_exception(RuntimeError("sold out"))
    order.set_status(trace.StatusCode.ERROR, "failed")
provider.shutdown()
print(format(order.get_span_context().trace_id, "032x"))
