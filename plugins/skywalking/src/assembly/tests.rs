use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::HashSet;

const TRACE: TraceId = [7; 16];

fn process(service: &str) -> Rc<Process> {
    Rc::new(Process { service: service.into(), instance: format!("{service}-1") })
}

fn id(number: u8) -> SpanId {
    [number; 8]
}

/// A span of `service`; parent 0 means none.
fn arrived(service: &str, number: u8, parent: u8, kind: SpanKind) -> Arrived {
    let span = Span {
        trace_id: TRACE.into(),
        span_id: id(number).into(),
        parent_span_id: if parent == 0 { vec![] } else { id(parent).into() },
        name: format!("{service} {number}"),
        kind: kind.into(),
        start_time_unix_nano: u64::from(number),
        ..Span::default()
    };
    Arrived { ticket: 1, process: process(service), scope: "".into(), span }
}

fn assembly(spans: impl IntoIterator<Item = Arrived>) -> Assembly {
    let mut assembly = Assembly::new(1_000);
    for span in spans {
        assert_eq!(assembly.add(span), Arrival::Held);
    }
    assembly
}

fn names(segment: &Segment) -> Vec<(&str, i32)> {
    let spans = segment.object.spans.iter();
    spans.map(|span| (span.operation_name.as_str(), span.parent_span_id)).collect()
}

#[test]
fn caller_and_callee_become_a_segment_each_and_the_second_refers_to_the_first() {
    // In the order in which they end, which is that of their arrival.
    let mut assembly = assembly([
        arrived("bank", 4, 3, SpanKind::Internal),
        arrived("bank", 3, 2, SpanKind::Server),
        arrived("shop", 2, 1, SpanKind::Client),
        arrived("shop", 1, 0, SpanKind::Server),
    ]);
    let segments = assembly.ready(TRACE);
    assert_eq!(segments.len(), 2);
    assert_eq!(names(&segments[0]), [("shop 1", -1), ("shop 2", 0)]);
    assert_eq!(names(&segments[1]), [("bank 3", -1), ("bank 4", 0)]);
    assert!(segments[0].object.spans[0].refs.is_empty());
    let reference = &segments[1].object.spans[0].refs[0];
    assert_eq!(reference.ref_type(), RefType::CrossProcess);
    assert_eq!(reference.parent_trace_segment_id, segments[0].object.trace_segment_id);
    assert_eq!(reference.parent_span_id, 1);
    assert_eq!(reference.parent_service, "shop");
    assert_eq!(reference.parent_service_instance, "shop-1");
    assert_eq!(reference.parent_endpoint, "shop 1");
    assert_eq!(reference.network_address_used_at_peer, segments[0].object.spans[1].peer);
    assert_eq!(assembly.held_count(), 0);
}

#[test]
fn spans_wait_for_the_first_of_their_process() {
    let mut assembly = assembly([arrived("shop", 2, 1, SpanKind::Internal)]);
    assert!(assembly.ready(TRACE).is_empty());
    assert_eq!(assembly.add(arrived("shop", 1, 0, SpanKind::Server)), Arrival::Held);
    assert_eq!(names(&assembly.ready(TRACE)[0]), [("shop 1", -1), ("shop 2", 0)]);
}

#[test]
fn a_request_waits_for_its_caller_and_goes_without_it_when_flushed() {
    let mut assembly = assembly([arrived("bank", 3, 2, SpanKind::Server)]);
    assert!(assembly.ready(TRACE).is_empty());
    let segments = assembly.flush(TRACE);
    assert_eq!(segments.len(), 1);
    assert!(segments[0].object.spans[0].refs.is_empty());
    assert_eq!(segments[0].object.trace_id, "07".repeat(16));
}

#[test]
fn a_span_that_comes_late_begins_a_segment_that_refers_to_the_first() {
    let mut assembly = assembly([arrived("shop", 1, 0, SpanKind::Server)]);
    let first = assembly.ready(TRACE).remove(0);
    assert_eq!(assembly.add(arrived("shop", 2, 1, SpanKind::Internal)), Arrival::Held);
    let late = assembly.ready(TRACE).remove(0);
    assert_ne!(late.object.trace_segment_id, first.object.trace_segment_id);
    let reference = &late.object.spans[0].refs[0];
    assert_eq!(reference.ref_type(), RefType::CrossThread);
    assert_eq!(reference.parent_trace_segment_id, first.object.trace_segment_id);
}

#[test]
fn a_process_that_calls_itself_has_a_segment_for_each_request() {
    let mut assembly = assembly([
        arrived("shop", 3, 2, SpanKind::Server),
        arrived("shop", 2, 1, SpanKind::Client),
        arrived("shop", 1, 0, SpanKind::Server),
    ]);
    let segments = assembly.ready(TRACE);
    assert_eq!(segments.len(), 2);
    assert_eq!(segments[1].object.spans[0].refs[0].ref_type(), RefType::CrossProcess);
}

#[test]
fn what_was_delivered_is_not_sent_again_and_what_failed_is() {
    let span = || arrived("shop", 1, 0, SpanKind::Server);
    let mut assembly = assembly([span()]);
    let segment = assembly.ready(TRACE).remove(0);
    assembly.failed(&segment.receipt);
    assert_eq!(assembly.add(span()), Arrival::Held);
    let segment = assembly.ready(TRACE).remove(0);
    assembly.delivered(&segment.receipt);
    assert_eq!(assembly.add(span()), Arrival::Delivered);
}

#[test]
fn what_comes_again_while_it_is_under_way_waits_for_the_same_answer() {
    let span = |ticket| Arrived { ticket, ..arrived("shop", 1, 0, SpanKind::Server) };
    let mut assembly = assembly([span(1)]);
    let segment = assembly.ready(TRACE).remove(0);
    assert_eq!(assembly.add(span(2)), Arrival::UnderWay);
    assert!(assembly.flush(TRACE).is_empty());
    assembly.failed(&segment.receipt);
    assert_eq!(assembly.take_tickets(&segment.receipt), [1, 2]);

    assert_eq!(assembly.add(span(3)), Arrival::Held);
    let segment = assembly.ready(TRACE).remove(0);
    assembly.delivered(&segment.receipt);
    assert_eq!(assembly.take_tickets(&segment.receipt), [3]);
    assert_eq!(assembly.add(span(4)), Arrival::Delivered);
}

#[test]
fn spans_that_are_withdrawn_leave_nothing() {
    let mut assembly = assembly([arrived("shop", 2, 1, SpanKind::Internal)]);
    assert_eq!(assembly.traces_of(1), [TRACE]);
    assembly.withdraw(1);
    assert_eq!((assembly.held_count(), assembly.traces_of(1).len()), (0, 0));
    assert!(assembly.flush(TRACE).is_empty());
}

#[test]
fn a_circle_of_parents_is_reported_all_the_same() {
    let mut assembly = assembly([
        arrived("shop", 1, 2, SpanKind::Internal),
        arrived("shop", 2, 1, SpanKind::Internal),
        arrived("bank", 3, 4, SpanKind::Server),
        arrived("bank", 4, 3, SpanKind::Server),
        arrived("bank", 5, 5, SpanKind::Internal),
    ]);
    assert!(assembly.ready(TRACE).is_empty());
    let segments = assembly.flush(TRACE);
    let spans: usize = segments.iter().map(|segment| segment.object.spans.len()).sum();
    assert_eq!((spans, assembly.held_count()), (5, 0));
}

#[test]
fn an_id_that_comes_twice_is_refused() {
    let mut assembly = assembly([arrived("shop", 2, 1, SpanKind::Internal)]);
    let twice = assembly.add(arrived("shop", 2, 1, SpanKind::Internal));
    assert!(matches!(twice, Arrival::Refused(_)));
    let no_id = Arrived { span: Span::default(), ..arrived("shop", 3, 1, SpanKind::Internal) };
    assert!(matches!(assembly.add(no_id), Arrival::Refused(_)));
}

#[test]
fn places_are_bounded() {
    let mut assembly = Assembly::new(10);
    for number in 1..=100 {
        assembly.add(arrived("shop", number, 0, SpanKind::Server));
        assembly.ready(TRACE);
    }
    assert!(assembly.known.places.len() <= 10 && assembly.known.order.len() <= 10);
}

#[test]
fn a_place_that_was_forgotten_and_came_again_is_remembered_for_its_time() {
    let mut assembly = Assembly::new(4);
    let span = |number| arrived("shop", number, 0, SpanKind::Server);
    assembly.add(span(1));
    let segment = assembly.ready(TRACE).remove(0);
    assembly.failed(&segment.receipt);
    // Its first turn is over with the fifth; its own has come again meanwhile.
    for number in [2, 1, 3, 4] {
        assembly.add(span(number));
        let segment = assembly.ready(TRACE).remove(0);
        assembly.delivered(&segment.receipt);
    }
    assert_eq!(assembly.add(span(1)), Arrival::Delivered);
}

/// Spans of one trace and kind, numbered from 1, with their parents.
fn many(kind: SpanKind, parents: impl Iterator<Item = u32>) -> Assembly {
    let mut assembly = Assembly::new(1_000_000);
    let id = |number: u32| u64::from(number).to_be_bytes();
    for (number, parent) in (1..).zip(parents) {
        let mut arrived = arrived("shop", 1, 0, kind);
        arrived.span.span_id = id(number).into();
        arrived.span.parent_span_id = id(parent).into();
        assert_eq!(assembly.add(arrived), Arrival::Held);
    }
    assembly
}

thread_local! {
    /// How often it was looked for how a span hangs on others: what the work on a trace consists of.
    pub(super) static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// The plugin may compute for a second at a time: it has to look at each span a few times, not once
/// for each other one.
#[test]
fn a_busy_trace_is_flushed_with_work_that_grows_with_its_spans() {
    const COUNT: u32 = 4_000;
    let orphans = (1..=COUNT).map(|_| COUNT + 1);
    let circles = (1..=COUNT).map(|number| if number % 2 == 1 { number + 1 } else { number - 1 });
    let chain = 2..=COUNT + 1;
    for mut assembly in [
        many(SpanKind::Server, orphans),
        many(SpanKind::Server, circles),
        many(SpanKind::Server, chain.clone()),
        many(SpanKind::Internal, chain),
    ] {
        LOOKS.set(0);
        let segments = assembly.flush(TRACE);
        let spans: usize = segments.iter().map(|segment| segment.receipt.members.len()).sum();
        assert_eq!((spans, assembly.held_count()), (4_000, 0));
        let looks = LOOKS.get();
        assert!((4_000..=3 * 4_000).contains(&looks), "{looks} looks at 4,000 spans");
    }
}

fn kind(number: u8) -> SpanKind {
    [SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer]
        [usize::from(number % 5)]
}

proptest! {
    /// In whatever order spans come, and wherever they hang: each is reported exactly once, in a
    /// segment of its process, numbered from 0, behind its parent, and refers only to what was
    /// reported before.
    #[test]
    fn every_span_is_reported_once_in_a_proper_segment(
        spans in prop::collection::vec((0..4_u8, 0..40_u8, any::<u8>(), 0..3_u64), 1..40),
        order in any::<u64>(),
        flush_at in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut all: Vec<_> = spans.iter().enumerate().map(|(index, (service, parent, kind_of, ticket))| {
            let number = u8::try_from(index + 1).unwrap();
            let mut span = arrived(&format!("s{service}"), number, *parent, kind(*kind_of));
            span.ticket = *ticket;
            span
        }).collect();
        let mut seed = order;
        for last in (1..all.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            all.swap(last, usize::try_from(seed >> 33).unwrap() % (last + 1));
        }
        let count = all.len();
        let mut assembly = Assembly::new(1_000);
        let mut segments = Vec::new();
        for (span, flush) in all.into_iter().zip(flush_at) {
            prop_assert_eq!(assembly.add(span), Arrival::Held);
            segments.extend(if flush { assembly.flush(TRACE) } else { assembly.ready(TRACE) });
        }
        segments.extend(assembly.flush(TRACE));
        prop_assert_eq!(assembly.held_count(), 0);

        let mut reported = HashSet::new();
        let mut sizes: HashMap<String, i32> = HashMap::new();
        for segment in &segments {
            let object = &segment.object;
            prop_assert_eq!(object.spans.len(), segment.receipt.members.len());
            for (index, span) in object.spans.iter().enumerate() {
                let index = i32::try_from(index).unwrap();
                prop_assert_eq!(span.span_id, index);
                prop_assert!(span.parent_span_id < index);
                prop_assert_eq!(span.parent_span_id == -1, index == 0);
                prop_assert!(span.operation_name.starts_with(&object.service));
                prop_assert!(index == 0 || span.refs.is_empty());
                prop_assert!(index == 0 || span.span_type() != SpanType::Entry);
                prop_assert!(span.span_type() != SpanType::Exit || !span.peer.is_empty());
                for reference in &span.refs {
                    let size = sizes.get(&reference.parent_trace_segment_id);
                    prop_assert!(size.is_some_and(|size| reference.parent_span_id < *size));
                }
            }
            for (span_id, _) in &segment.receipt.members {
                prop_assert!(reported.insert(*span_id));
            }
            let size = i32::try_from(object.spans.len()).unwrap();
            prop_assert!(sizes.insert(object.trace_segment_id.clone(), size).is_none());
        }
        prop_assert_eq!(reported.len(), count);
    }
}
