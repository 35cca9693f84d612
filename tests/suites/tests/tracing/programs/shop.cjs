// A program that uses OpenTelemetry's SDK and nothing of Pintle: where spans go is told by the
// standard environment variables.
const { trace, SpanKind, SpanStatusCode, TraceFlags } = require("@opentelemetry/api");
const { NodeSDK } = require("@opentelemetry/sdk-node");

const sdk = new NodeSDK();
sdk.start();
const tracer = trace.getTracer("shop");
const before = {
  traceId: "9".padStart(32, "0"),
  spanId: "9".padStart(16, "0"),
  traceFlags: TraceFlags.SAMPLED,
};
const options = { kind: SpanKind.SERVER, links: [{ context: before }] };
const id = tracer.startActiveSpan("order", options, (order) => {
  for (let number = 0; number < 20; number += 1) {
    const step = tracer.startSpan(`step ${number}`, { attributes: { é: "日本", n: number } });
    step.addEvent("done", { n: number });
    step.end();
  }
  order.recordException(new Error("sold out"));
  order.setStatus({ code: SpanStatusCode.ERROR, message: "failed" });
  order.end();
  return order.spanContext().traceId;
});
sdk.shutdown().then(() => console.log(id));
