// A program written for OpenTracing: two services, of which one calls the other. Only `tracer` and
// `main` know that spans go to Zipkin's API, whose address is the argument.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/ext"
	entries "github.com/opentracing/opentracing-go/log"
	bridge "github.com/openzipkin-contrib/zipkin-go-opentracing"
	"github.com/openzipkin/zipkin-go"
	"github.com/openzipkin/zipkin-go/reporter"
	reporting "github.com/openzipkin/zipkin-go/reporter/http"
)

func order(shop, bank opentracing.Tracer) {
	order := shop.StartSpan("order", ext.SpanKindRPCServer)
	// This tracer hears of the other side only when a span begins.
	peer := opentracing.Tag{Key: string(ext.PeerService), Value: "bank"}
	call := shop.StartSpan("call bank",
		opentracing.ChildOf(order.Context()), ext.SpanKindRPCClient, peer)
	headers := opentracing.HTTPHeadersCarrier(http.Header{})
	if err := shop.Inject(call.Context(), opentracing.HTTPHeaders, headers); err != nil {
		log.Fatal(err)
	}
	pay(bank, headers)
	call.Finish()
	order.LogFields(entries.String("event", "paid"))
	order.Finish()
	// As the headers name it: OpenTracing itself has no word for it.
	fmt.Println(http.Header(headers).Get("X-B3-TraceId"))
}

func pay(bank opentracing.Tracer, headers opentracing.HTTPHeadersCarrier) {
	caller, err := bank.Extract(opentracing.HTTPHeaders, headers)
	if err != nil {
		log.Fatal(err)
	}
	pay := bank.StartSpan("pay", opentracing.ChildOf(caller), ext.SpanKindRPCServer)
	pay.SetTag("amount", 7)
	ext.Error.Set(pay, true)
	pay.Finish()
}

func tracer(service string, reporter reporter.Reporter) opentracing.Tracer {
	endpoint, err := zipkin.NewEndpoint(service, "")
	if err != nil {
		log.Fatal(err)
	}
	tracer, err := zipkin.NewTracer(reporter, zipkin.WithLocalEndpoint(endpoint))
	if err != nil {
		log.Fatal(err)
	}
	return bridge.Wrap(tracer)
}

func main() {
	reporter := reporting.NewReporter(os.Args[1])
	shop, bank := tracer("shop", reporter), tracer("bank", reporter)
	order(shop, bank)
	if err := reporter.Close(); err != nil {
		log.Fatal(err)
	}
}
