//! Traces of a shop: each different, and the same in every run.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use pintle_otlp::{
    Event, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Link, Resource,
    ResourceSpans, ScopeSpans, Span, SpanKind, Status, StatusCode, Value, text::hex,
};
use prost::Message;

/// Callers and whom they call.
const CALLS: [(&str, &str); 4] =
    [("web", "shop"), ("shop", "bank"), ("shop", "stock"), ("bank", "ledger")];

/// A span and the service that reports it.
#[derive(Debug, Clone)]
pub(crate) struct Reported {
    pub(crate) service: &'static str,
    pub(crate) span: Span,
}

/// One trace; its spans in the order in which they end.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: String,
    pub(crate) spans: Vec<Reported>,
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

struct Maker {
    dice: Dice,
    trace_id: Vec<u8>,
    spans: Vec<Reported>,
}

/// So many traces; `seed` keeps those of two tests apart.
pub(crate) fn traces(count: u64, seed: u64) -> Vec<Trace> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let begin = u64::try_from(now.as_nanos()).unwrap() - 2_000_000_000;
    (0..count).map(|number| trace(seed * 1_000_003 + number, begin)).collect()
}

fn trace(seed: u64, begin: u64) -> Trace {
    let mut dice = Dice(seed);
    let trace_id = [dice.roll().to_be_bytes(), dice.roll().to_be_bytes()].concat();
    let mut maker = Maker { dice, trace_id, spans: Vec::new() };
    maker.request("web", None, begin, 0);
    Trace { id: hex(&maker.trace_id), spans: maker.spans }
}

impl Maker {
    /// A service takes a request, works, and calls others. Answers when it is done.
    fn request(
        &mut self,
        service: &'static str,
        caller: Option<&[u8]>,
        begin: u64,
        depth: u64,
    ) -> u64 {
        let mut span = self.span(caller, SpanKind::Server, format!("GET /{service}"), begin);
        span.attributes.push(KeyValue::text("http.request.method", "GET"));
        span.attributes.push(KeyValue::new("http.response.status_code", Value::Int(200)));
        let mut at = begin + 1_000_000;
        for _ in 0..self.dice.below(3) {
            at = self.work(service, &span.span_id, at);
        }
        let callees: Vec<_> = CALLS.iter().filter(|(caller, _)| *caller == service).collect();
        for (_, callee) in callees {
            // The first hop is always made, so that there is something to compare.
            if depth == 0 || !self.dice.one_in(3) {
                at = self.call(service, callee, &span.span_id, at, depth);
            }
        }
        at += 1_000_000;
        span.end_time_unix_nano = at;
        self.spans.push(Reported { service, span });
        at
    }

    fn call(
        &mut self,
        service: &'static str,
        callee: &'static str,
        parent: &[u8],
        begin: u64,
        depth: u64,
    ) -> u64 {
        let name = format!("call {callee}");
        let mut span = self.span(Some(parent), SpanKind::Client, name, begin);
        span.attributes.push(KeyValue::text("server.address", format!("{callee}.example")));
        span.attributes.push(KeyValue::new("server.port", Value::Int(8080)));
        span.attributes.push(KeyValue::text("http.request.method", "GET"));
        let id = span.span_id.clone();
        let end = self.request(callee, Some(&id), begin + 500_000, depth + 1) + 500_000;
        // The caller does not always wait for the answer.
        span.end_time_unix_nano = if self.dice.one_in(5) { begin + 600_000 } else { end };
        self.spans.push(Reported { service, span });
        end
    }

    fn work(&mut self, service: &'static str, parent: &[u8], begin: u64) -> u64 {
        let mut span = self.span(Some(parent), SpanKind::Internal, "Bücher prüfen".into(), begin);
        for number in 0..[0, 3, 10, 100][usize::try_from(self.dice.below(4)).unwrap()] {
            span.attributes
                .push(KeyValue::text(format!("attribute.{number:03}"), "日本語 ✓ \"x\"\n"));
        }
        if self.dice.one_in(20) {
            span.attributes.push(KeyValue::text("huge", "ü".repeat(10_000)));
        }
        span.attributes.push(KeyValue::new("count", Value::Int(-7)));
        span.attributes.push(KeyValue::new("ratio", Value::Double(0.25)));
        span.attributes.push(KeyValue::new("cached", Value::Bool(true)));
        if self.dice.one_in(3) {
            span.events.push(Event {
                time_unix_nano: begin + 200_000,
                name: "exception".into(),
                attributes: vec![
                    KeyValue::text("exception.type", "OutOfStock"),
                    KeyValue::text("exception.message", "none left"),
                ],
                dropped_attributes_count: 0,
            });
            span.status = Some(Status { message: "failed".into(), code: StatusCode::Error.into() });
        }
        if self.dice.one_in(4) {
            let event = Event {
                time_unix_nano: begin + 300_000,
                name: "retried".into(),
                ..Event::default()
            };
            span.events.push(event);
        }
        if self.dice.one_in(6) {
            let span_id = self.dice.roll().to_be_bytes().into();
            span.links.push(Link { trace_id: vec![9; 16], span_id, ..Link::default() });
        }
        span.end_time_unix_nano = begin + 400_000 + self.dice.below(300) * 1_000;
        let end = span.end_time_unix_nano;
        self.spans.push(Reported { service, span });
        end
    }

    fn span(&mut self, parent: Option<&[u8]>, kind: SpanKind, name: String, begin: u64) -> Span {
        let remote = if kind == SpanKind::Server && parent.is_some() { 0x300 } else { 0x100 };
        Span {
            trace_id: self.trace_id.clone(),
            span_id: (self.dice.roll() | 1).to_be_bytes().into(),
            parent_span_id: parent.map(Into::into).unwrap_or_default(),
            name,
            kind: kind.into(),
            start_time_unix_nano: begin,
            flags: remote | 1,
            ..Span::default()
        }
    }
}

/// As many traces are under way at the same time.
const CONCURRENT: usize = 20;

/// The requests in which the processes of these services report these traces: each process for
/// itself, in turns, at most so many spans at a time.
pub(crate) fn requests(traces: &[Trace], spans_each: usize) -> Vec<Bytes> {
    let mut requests = Vec::new();
    for together in traces.chunks(CONCURRENT) {
        let mut by_service: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
        for Reported { service, span } in together.iter().flat_map(|trace| &trace.spans) {
            by_service.entry(service).or_default().push(span.clone());
        }
        for (service, spans) in by_service {
            requests.extend(spans.chunks(spans_each).map(|chunk| request(service, chunk.to_vec())));
        }
    }
    requests
}

fn request(service: &str, spans: Vec<Span>) -> Bytes {
    let resource = Resource {
        attributes: vec![
            KeyValue::text("service.name", service),
            KeyValue::text("service.instance.id", format!("{service}-1")),
            KeyValue::text("telemetry.sdk.language", "rust"),
            KeyValue::text("host.name", "a1"),
        ],
        dropped_attributes_count: 0,
    };
    let scope =
        InstrumentationScope { name: "generated".into(), ..InstrumentationScope::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

pub(crate) fn span_count(traces: &[Trace]) -> u64 {
    u64::try_from(traces.iter().map(|trace| trace.spans.len()).sum::<usize>()).unwrap()
}
