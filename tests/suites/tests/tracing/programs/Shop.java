import brave.Tracing;
import io.opentracing.Scope;
import io.opentracing.Span;
import io.opentracing.SpanContext;
import io.opentracing.Tracer;
import io.opentracing.propagation.Format;
import io.opentracing.propagation.TextMapAdapter;
import io.opentracing.tag.Tags;
import java.util.HashMap;
import java.util.Map;
import zipkin2.reporter.brave.AsyncZipkinSpanHandler;
import zipkin2.reporter.urlconnection.URLConnectionSender;

/** A program written for OpenTracing: two services, of which one calls the other. */
public class Shop {
  static Tracing tracing(String service, AsyncZipkinSpanHandler handler) {
    return Tracing.newBuilder()
        .localServiceName(service)
        .traceId128Bit(true)
        .supportsJoin(false)
        .addSpanHandler(handler)
        .build();
  }

  /** All that knows of OpenTracing only. */
  static void order(Tracer shop, Tracer bank) {
    Span order = shop.buildSpan("order").withTag(Tags.SPAN_KIND, Tags.SPAN_KIND_SERVER).start();
    try (Scope scope = shop.activateSpan(order)) {
      Span call = shop.buildSpan("call bank")
          .withTag(Tags.SPAN_KIND, Tags.SPAN_KIND_CLIENT)
          .withTag(Tags.PEER_SERVICE, "bank")
          .start();
      Map<String, String> headers = new HashMap<>();
      shop.inject(call.context(), Format.Builtin.HTTP_HEADERS, new TextMapAdapter(headers));
      pay(bank, headers);
      call.finish();
      order.log("paid");
    }
    order.finish();
    System.out.println(order.context().toTraceId());
  }

  static void pay(Tracer bank, Map<String, String> headers) {
    SpanContext caller = bank.extract(Format.Builtin.HTTP_HEADERS, new TextMapAdapter(headers));
    Span pay = bank.buildSpan("pay")
        .asChildOf(caller)
        .withTag(Tags.SPAN_KIND, Tags.SPAN_KIND_SERVER)
        .withTag("amount", 7)
        .start();
    Tags.ERROR.set(pay, true);
    pay.log("declined");
    pay.finish();
  }

  public static void main(String[] arguments) throws Exception {
    URLConnectionSender sender = URLConnectionSender.create(arguments[0]);
    AsyncZipkinSpanHandler handler = AsyncZipkinSpanHandler.create(sender);
    Tracing shop = tracing("shop", handler);
    Tracing bank = tracing("bank", handler);
    order(brave.opentracing.BraveTracer.create(shop), brave.opentracing.BraveTracer.create(bank));
    handler.flush();
    handler.close();
    sender.close();
    shop.close();
    bank.close();
  }
}
