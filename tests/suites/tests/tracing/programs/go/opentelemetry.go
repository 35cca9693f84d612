// A program that uses OpenTelemetry's SDK and nothing of Pintle: where spans go is told by the
// standard environment variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// exporter of the protocol that the environment names: for each there is a package.
func exporter(ctx context.Context) (*otlptrace.Exporter, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc" {
		return otlptracegrpc.New(ctx)
	}
	return otlptracehttp.New(ctx)
}

func main() {
	ctx := context.Background()
	exporter, err := exporter(ctx)
	if err != nil {
		log.Fatal(err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter))
	tracer := provider.Tracer("shop")
	before := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{15: 9},
		SpanID:  trace.SpanID{7: 9},
	})
	within, order := tracer.Start(ctx, "order",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithLinks(trace.Link{SpanContext: before}))
	for number := range 20 {
		_, step := tracer.Start(within, fmt.Sprintf("step %d", number),
			trace.WithAttributes(attribute.String("é", "日本"), attribute.Int("n", number)))
		step.AddEvent("done", trace.WithAttributes(attribute.Int("n", number)))
		step.End()
	}
	order.RecordError(errors.New("sold out"))
	order.SetStatus(codes.Error, "failed")
	order.End()
	if err := provider.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(order.SpanContext().TraceID())
}
