import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.TraceFlags;
import io.opentelemetry.api.trace.TraceState;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.context.Scope;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.autoconfigure.AutoConfiguredOpenTelemetrySdk;

/**
 * A program that uses OpenTelemetry's SDK and nothing of Pintle: where spans go is told by the
 * standard environment variables.
 */
public class Order {
  public static void main(String[] arguments) {
    OpenTelemetrySdk sdk =
        AutoConfiguredOpenTelemetrySdk.builder().disableShutdownHook().build().getOpenTelemetrySdk();
    Tracer tracer = sdk.getTracer("shop");
    SpanContext before = SpanContext.create(
        "0".repeat(31) + "9", "0".repeat(15) + "9", TraceFlags.getSampled(), TraceState.getDefault());
    Span order = tracer.spanBuilder("order").setSpanKind(SpanKind.SERVER).addLink(before).startSpan();
    AttributeKey<Long> n = AttributeKey.longKey("n");
    try (Scope scope = order.makeCurrent()) {
      for (long number = 0; number < 20; number++) {
        Span step = tracer.spanBuilder("step " + number)
            .setAttribute("é", "日本")
            .setAttribute(n, number)
            .startSpan();
        step.addEvent("done", Attributes.of(n, number));
        step.end();
      }
      order.recordException(new IllegalStateException("sold out"));
      order.setStatus(StatusCode.ERROR, "failed");
    }
    order.end();
    sdk.close();
    System.out.println(order.getSpanContext().getTraceId());
  }
}
