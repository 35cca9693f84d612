//! `pintle:tracing`: spans are held until their segments are whole or their time is over, and an
//! export is answered when the server has all of its spans.

use crate::assembly::{Arrival, Arrived, Assembly, Receipt, Segment, TraceId};
use crate::settings::Settings;
use crate::skywalking::{Counters, SkyWalking};
use crate::wire::span::Process;
use bytes::Bytes;
use futures::future::{Either, select};
use pintle_otlp::{ExportTraceServiceRequest, Resource, ScopeSpans};
use pintle_plugin_sdk::signal::Signal;
use pintle_plugin_sdk::time::sleep;
use pintle_plugin_sdk::tracing::{ExportResult, Rejection, Tracing};
use pintle_plugin_sdk::{Context, Error, spawn};
use prost::Message;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// So many exports may wait for the rest of their traces; the host has a bound of its own, and would
/// bring nothing more.
const WAITING_MAX: usize = 14;
/// So many bytes go together; a segment that is larger goes alone. A server takes each segment as it
/// comes, and what it took before one that is over its limit would be sent again. No server's limit is as
/// low as this.
const SHIPMENT_BYTES_MAX: usize = 1 << 20;

/// Exports that are not answered yet.
#[derive(Default)]
pub(crate) struct Tickets {
    state: RefCell<State>,
    changed: Signal,
}

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Ticket>,
}

/// One export.
#[derive(Default)]
struct Ticket {
    /// Spans that are not delivered yet.
    left: usize,
    failure: Option<Error>,
}

impl Tickets {
    fn open(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        let number = state.next;
        state.open.insert(number, Ticket::default());
        number
    }

    fn with<T>(&self, number: u64, act: impl FnOnce(&mut Ticket) -> T) -> Option<T> {
        self.state.borrow_mut().open.get_mut(&number).map(act)
    }
}

/// Closes a ticket however its export ends: also when its future is dropped.
struct Closing<'a> {
    plugin: &'a SkyWalking,
    ticket: u64,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.plugin.tickets.state.borrow_mut().open.remove(&self.ticket);
        self.plugin.assembly.borrow_mut().withdraw(self.ticket);
    }
}

impl Tracing for SkyWalking {
    async fn export(&self, cx: &Context, batch: Vec<u8>) -> Result<ExportResult, Error> {
        let request = ExportTraceServiceRequest::decode(Bytes::from(batch))
            .map_err(|error| Error::invalid(format!("no OTLP trace request: {error}")))?;
        let ticket = self.tickets.open();
        let _closing = Closing { plugin: self, ticket };
        let mut result = ExportResult { accepted: 0, rejected: Vec::new() };
        let (held, traces) = self.take(request, ticket, &mut result);
        self.tickets.with(ticket, |open| open.left = held);
        self.ship(traces.iter().flat_map(|id| self.assembly.borrow_mut().ready(*id)).collect());
        // Those that only wait for the server's answer are none of them.
        let waiting = self.assembly.borrow().waiting();
        if let Some(oldest) = waiting.first().filter(|_| waiting.len() >= WAITING_MAX) {
            self.flush(*oldest);
        }
        self.settled(cx, ticket).await?;
        result.accepted += u64::try_from(held).unwrap_or(u64::MAX);
        Counters::add(&self.counters.spans, held);
        Ok(result)
    }
}

impl SkyWalking {
    /// Puts the spans of a batch into the assembly; answers how many it holds, and their traces.
    fn take(
        &self,
        request: ExportTraceServiceRequest,
        ticket: u64,
        result: &mut ExportResult,
    ) -> (usize, BTreeSet<TraceId>) {
        let (mut held, mut traces) = (0, BTreeSet::new());
        for resource_spans in request.resource_spans {
            let resource = resource_spans.resource.unwrap_or_default();
            let process = Rc::new(Process::of(&resource));
            for scope_spans in resource_spans.scope_spans {
                held +=
                    self.take_scope(scope_spans, &process, &resource, ticket, result, &mut traces);
            }
        }
        (held, traces)
    }

    fn take_scope(
        &self,
        scope_spans: ScopeSpans,
        process: &Rc<Process>,
        resource: &Resource,
        ticket: u64,
        result: &mut ExportResult,
        traces: &mut BTreeSet<TraceId>,
    ) -> usize {
        let scope: Rc<str> = scope_spans.scope.unwrap_or_default().name.into();
        let mut held = 0;
        for span in scope_spans.spans {
            let trace_id = TraceId::try_from(span.trace_id.as_slice()).unwrap_or_default();
            let (process, scope) = (Rc::clone(process), Rc::clone(&scope));
            let arrived = Arrived { ticket, process, scope, span };
            match self.assembly.borrow_mut().add(arrived) {
                Arrival::Held => {
                    held += 1;
                    traces.insert(trace_id);
                }
                Arrival::UnderWay => held += 1,
                Arrival::Delivered => result.accepted += 1,
                Arrival::Refused(reason) => {
                    Counters::add(&self.counters.rejected, 1);
                    reject(result, reason);
                }
            }
        }
        if held > 0 {
            self.instances.saw(process, resource);
        }
        held
    }

    /// Waits until all spans of an export are delivered; once they have waited long enough, they go
    /// as they are.
    async fn settled(&self, cx: &Context, ticket: u64) -> Result<(), Error> {
        let outcome = || {
            let state = self.tickets.with(ticket, |open| match open.failure.take() {
                Some(error) => Some(Err(error)),
                None => (open.left == 0).then_some(Ok(())),
            });
            state.flatten()
        };
        let patience = self.patience(cx.remaining());
        {
            let settled = pin!(self.tickets.changed.wait(outcome));
            if let Either::Left((outcome, _)) = select(settled, pin!(sleep(patience))).await {
                return outcome;
            }
        }
        self.flush(ticket);
        self.tickets.changed.wait(outcome).await
    }

    fn patience(&self, remaining: Duration) -> Duration {
        let patience = self.settings.patience(remaining);
        if patience < self.settings.wait() && !self.is_cut.replace(true) {
            let Settings { wait_ms, timeout_ms, .. } = &self.settings;
            tracing::warn!(
                "spans wait {} ms for the rest of their trace, not `wait_ms`: set `limits.call` of \
                 the backend to more than `wait_ms` ({wait_ms}) and `timeout_ms` ({timeout_ms}) \
                 together",
                patience.as_millis(),
            );
        }
        patience
    }

    /// Sends all that waits of the traces of an export.
    fn flush(&self, ticket: u64) {
        let traces = self.assembly.borrow().traces_of(ticket);
        let flush = |id: &TraceId| self.assembly.borrow_mut().flush(*id);
        let segments: Vec<_> = traces.iter().flat_map(flush).collect();
        Counters::add(&self.counters.flushes, segments.len());
        self.ship(segments);
    }

    /// Sends segments in the background: they hold spans of several exports, each of which may be
    /// given up meanwhile.
    fn ship(&self, segments: Vec<Segment>) {
        for together in by_size(segments) {
            let (objects, receipts) =
                together.into_iter().map(|Segment { object, receipt }| (object, receipt)).unzip();
            let shipment = Shipment {
                assembly: Rc::clone(&self.assembly),
                tickets: Rc::clone(&self.tickets),
                counters: Rc::clone(&self.counters),
                receipts,
            };
            let reporter = Rc::clone(&self.reporter);
            spawn(async move {
                let sent = reporter.collect(objects).await;
                shipment.settle(sent);
            })
            .detach();
        }
    }
}

/// What goes together, by [`SHIPMENT_BYTES_MAX`].
fn by_size(segments: Vec<Segment>) -> Vec<Vec<Segment>> {
    let mut shipments: Vec<Vec<Segment>> = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        let more = segment.object.encoded_len();
        bytes += more;
        match shipments.last_mut() {
            Some(last) if bytes <= SHIPMENT_BYTES_MAX => last.push(segment),
            _ => {
                bytes = more;
                shipments.push(vec![segment]);
            }
        }
    }
    shipments
}

struct Shipment {
    assembly: Rc<RefCell<Assembly>>,
    tickets: Rc<Tickets>,
    counters: Rc<Counters>,
    receipts: Vec<Receipt>,
}

impl Shipment {
    fn settle(self, sent: Result<(), Error>) {
        let mut assembly = self.assembly.borrow_mut();
        for receipt in &self.receipts {
            match &sent {
                Ok(()) => assembly.delivered(receipt),
                Err(_) => assembly.failed(receipt),
            }
            for ticket in assembly.take_tickets(receipt) {
                self.tickets.with(ticket, |open| match &sent {
                    Ok(()) => open.left = open.left.saturating_sub(1),
                    Err(error) => open.failure = Some(error.clone()),
                });
            }
        }
        drop(assembly);
        match sent {
            Ok(()) => Counters::add(&self.counters.segments, self.receipts.len()),
            Err(_) => Counters::add(&self.counters.errors, 1),
        }
        self.tickets.changed.notify();
    }
}

fn reject(result: &mut ExportResult, reason: &str) {
    match result.rejected.iter_mut().find(|rejection| rejection.reason == reason) {
        Some(rejection) => rejection.spans += 1,
        None => result.rejected.push(Rejection { reason: reason.to_owned(), spans: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::SegmentObject;
    use pintle_otlp::{KeyValue, ResourceSpans, Span, SpanKind};
    use pintle_plugin_sdk::http::Response;
    use pintle_plugin_sdk::testing::{Host, StartOptions, answer_http, run};
    use pintle_plugin_sdk::{Endpoint, gzip, time::Instant};
    use std::cell::Cell;

    fn batch(service: &str, spans: Vec<Span>) -> Vec<u8> {
        let attributes = vec![KeyValue::text("service.name", service)];
        let resource_spans = vec![ResourceSpans {
            resource: Some(Resource { attributes, dropped_attributes_count: 0 }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            schema_url: String::new(),
        }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    fn span(number: u8, parent: u8, kind: SpanKind) -> Span {
        Span {
            trace_id: vec![1; 16],
            span_id: vec![number; 8],
            parent_span_id: if parent == 0 { vec![] } else { vec![parent; 8] },
            name: format!("span {number}"),
            kind: kind.into(),
            ..Span::default()
        }
    }

    fn options() -> StartOptions {
        StartOptions {
            settings: serde_json::json!({ "protocol": "http" }),
            endpoints: vec![Endpoint { host: "oap".into(), port: 12800, tls: false }],
            ..StartOptions::default()
        }
    }

    /// Answers every request with this status, and counts those with segments.
    fn server(status: Rc<Cell<u16>>) -> Rc<Cell<usize>> {
        let segments = Rc::new(Cell::new(0));
        let counting = Rc::clone(&segments);
        answer_http(move |request| {
            if request.uri().path() == "/v3/segments" {
                counting.set(counting.get() + 1);
            }
            let status = status.get();
            async move { Ok(Response::builder().status(status).body(Bytes::new()).unwrap()) }
        });
        segments
    }

    #[test]
    fn an_export_is_answered_when_the_server_has_its_spans() {
        run(async {
            let requests = server(Rc::new(Cell::new(200)));
            let host = Host::<SkyWalking>::start(options()).await.unwrap();
            let begun = Instant::now();
            let spans = vec![span(2, 1, SpanKind::Client), span(1, 0, SpanKind::Server)];
            let result = host.tracing().export(batch("shop", spans)).await.unwrap();
            assert_eq!((result.accepted, result.rejected.len(), requests.get()), (2, 0, 1));
            assert!(begun.elapsed() < Duration::from_millis(10), "nothing was waited for");
        });
    }

    #[test]
    fn a_span_without_its_parent_goes_when_it_has_waited() {
        run(async {
            server(Rc::new(Cell::new(200)));
            let host = Host::<SkyWalking>::start(options()).await.unwrap();
            let begun = Instant::now();
            let spans = vec![span(2, 1, SpanKind::Internal)];
            let result = host.tracing().export(batch("shop", spans)).await.unwrap();
            assert_eq!(result.accepted, 1);
            let waited = begun.elapsed();
            assert!(waited >= Duration::from_millis(1_500) && waited < Duration::from_secs(2));
        });
    }

    #[test]
    fn a_failure_is_told_and_the_same_batch_is_sent_again() {
        run(async {
            let status = Rc::new(Cell::new(503));
            let requests = server(Rc::clone(&status));
            let host = Host::<SkyWalking>::start(options()).await.unwrap();
            let spans = || batch("shop", vec![span(1, 0, SpanKind::Server)]);
            let error = host.tracing().export(spans()).await.unwrap_err();
            assert_eq!(error.code(), "unavailable");
            status.set(200);
            assert_eq!(host.tracing().export(spans()).await.unwrap().accepted, 1);
            assert_eq!(requests.get(), 2);
            // Once it is there it is not sent a third time.
            assert_eq!(host.tracing().export(spans()).await.unwrap().accepted, 1);
            assert_eq!(requests.get(), 2);
        });
    }

    #[test]
    fn what_is_still_under_way_when_its_export_fails_is_not_sent_twice() {
        run(async {
            let requests = Rc::new(Cell::new(0));
            let counting = Rc::clone(&requests);
            answer_http(move |request| {
                let is_segment = request.uri().path() == "/v3/segments";
                let number = counting.get() + usize::from(is_segment);
                counting.set(number);
                async move {
                    // The first takes its time, and the second fails meanwhile.
                    let (seconds, status) = match number {
                        1 if is_segment => (5, 200),
                        2 if is_segment => (0, 503),
                        _ => (0, 200),
                    };
                    sleep(Duration::from_secs(seconds)).await;
                    Ok(Response::builder().status(status).body(Bytes::new()).unwrap())
                }
            });
            let settings = serde_json::json!({ "protocol": "http", "timeout_ms": 10_000 });
            let options = StartOptions { settings, ..options() };
            let host = Host::<SkyWalking>::start(options).await.unwrap();
            host.set_timeout(Duration::from_secs(30));
            // One goes at once, and one waits for its parent.
            let orphan = Span { trace_id: vec![2; 16], ..span(2, 1, SpanKind::Internal) };
            let spans = || batch("shop", vec![span(1, 0, SpanKind::Server), orphan.clone()]);
            let error = host.tracing().export(spans()).await.unwrap_err();
            assert_eq!((error.code(), requests.get()), ("unavailable", 2));
            assert_eq!(host.tracing().export(spans()).await.unwrap().accepted, 2);
            assert_eq!(requests.get(), 3, "the one that had failed");
        });
    }

    #[test]
    fn a_segment_that_is_too_large_for_the_server_fails_no_other() {
        run(async {
            let requests = Rc::new(Cell::new(0));
            let counting = Rc::clone(&requests);
            answer_http(move |request| {
                let body = gzip::decompress(request.body(), 8 << 20).unwrap();
                counting.set(counting.get() + usize::from(request.uri().path() == "/v3/segments"));
                let status = if body.len() > 1 << 20 { 413 } else { 200 };
                async move { Ok(Response::builder().status(status).body(Bytes::new()).unwrap()) }
            });
            let host = Host::<SkyWalking>::start(options()).await.unwrap();
            let small = || span(1, 0, SpanKind::Server);
            let attributes = vec![KeyValue::text("text", "x".repeat(2 << 20))];
            let large = Span { span_id: vec![2; 8], attributes, ..small() };
            let spans = vec![small(), large, span(3, 0, SpanKind::Server)];
            let error = host.tracing().export(batch("shop", spans)).await.unwrap_err();
            assert_eq!((error.code(), requests.get()), ("too-large", 3));
            // The host sends the others in another batch.
            let spans = vec![small(), span(3, 0, SpanKind::Server)];
            assert_eq!(host.tracing().export(batch("shop", spans)).await.unwrap().accepted, 2);
            assert_eq!(requests.get(), 3, "they had arrived");
        });
    }

    #[test]
    fn spans_without_ids_are_refused_by_reason_and_the_others_pass() {
        run(async {
            server(Rc::new(Cell::new(200)));
            let host = Host::<SkyWalking>::start(options()).await.unwrap();
            let spans = vec![Span::default(), span(1, 0, SpanKind::Server)];
            let result = host.tracing().export(batch("shop", spans)).await.unwrap();
            assert_eq!((result.accepted, result.rejected[0].spans), (1, 1));
            let error = host.tracing().export(vec![0xff]).await.unwrap_err();
            assert_eq!(error.code(), "invalid");
        });
    }

    #[test]
    fn what_is_sent_is_what_the_messages_say() {
        let segment = SegmentObject { service: "shop".into(), ..SegmentObject::default() };
        let json = crate::wire::json::segments(&[segment]);
        assert_eq!(json[0]["service"], "shop");
    }
}
