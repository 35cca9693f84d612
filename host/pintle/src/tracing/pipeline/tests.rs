//! The pipeline against sinks that do what a test says.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use pintle_otlp::{
    ExportTraceServiceRequest, KeyValue, ResourceSpans, ScopeSpans, Span, parts::take_apart,
};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::tracing::Rejection;

mod away;

/// What a sink does with the next batch.
#[derive(Debug, Clone)]
enum Move {
    Take,
    /// Refuses this many, and takes the others.
    Refuse(u64),
    /// Says of too few, or of too many, what became of them.
    Miscount(u64, u64),
    Fail(Remedy),
    /// Never answers.
    Hang,
}

#[derive(Default)]
struct Script {
    moves: Mutex<VecDeque<Move>>,
    batches: Mutex<Vec<usize>>,
    /// The largest batch, in bytes.
    largest: AtomicUsize,
    taken: Mutex<Vec<Span>>,
    /// Once the moves are over: hang instead of taking.
    hangs: AtomicBool,
    under_way: AtomicUsize,
}

impl Sink for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn deliver(&self, batch: Bytes) -> BoxFuture<'_, Result<ExportResult, Failure>> {
        Box::pin(async move {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            self.largest.fetch_max(batch.len(), Ordering::SeqCst);
            let spans = spans_of(batch);
            let count = to_u64(spans.len());
            self.batches.lock().unwrap().push(spans.len());
            let next = self.moves.lock().unwrap().pop_front();
            let next = match next {
                None if self.hangs.load(Ordering::SeqCst) => Move::Hang,
                None => Move::Take,
                Some(next) => next,
            };
            let answer = |accepted, refused| {
                let rejected =
                    vec![Rejection { reason: "the sink's words".into(), spans: refused }];
                Ok(ExportResult { accepted, rejected })
            };
            match next {
                Move::Take => {
                    self.taken.lock().unwrap().extend(spans);
                    answer(count, 0)
                }
                Move::Refuse(refused) => answer(count - refused.min(count), refused.min(count)),
                Move::Miscount(accepted, refused) => answer(accepted, refused),
                Move::Fail(remedy) => Err(Failure { remedy, message: "the script says so".into() }),
                Move::Hang => std::future::pending().await,
            }
        })
    }
}

fn spans_of(batch: Bytes) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(batch).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn span(number: u64) -> Span {
    let number = number + 1;
    Span {
        trace_id: [number.to_be_bytes(), number.to_be_bytes()].concat(),
        span_id: number.to_be_bytes().into(),
        name: format!("span {number}"),
        attributes: vec![KeyValue::text("user.password", "hunter2")],
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> Bytes {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn spans(numbers: std::ops::Range<u64>) -> Bytes {
    request(numbers.map(span).collect())
}

fn settings() -> TracingSettings {
    TracingSettings { batch_delay: Duration::from_millis(5), ..TracingSettings::default() }
}

fn start(settings: &TracingSettings, scripts: &[Arc<Script>]) -> Pipeline {
    serve(settings, scripts.iter().map(|script| Arc::clone(script) as Arc<dyn Sink>).collect())
}

/// A pipeline that hardly waits before it tries again.
fn serve(settings: &TracingSettings, sinks: Vec<Arc<dyn Sink>>) -> Pipeline {
    let ways = Ways { pause_first: Duration::from_millis(1), ..Ways::of(settings) };
    Pipeline::start_in(ways, settings, sinks, &tokio::runtime::Handle::current())
}

fn script(moves: impl IntoIterator<Item = Move>) -> Arc<Script> {
    Arc::new(Script { moves: Mutex::new(moves.into_iter().collect()), ..Script::default() })
}

/// Runs a test, and fails it when it takes longer than anything here may.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await })
        .expect("the test ends in time");
}

const FOREVER: Duration = Duration::from_secs(20);

#[test]
fn what_comes_in_is_delivered_to_every_sink_in_batches() {
    run(async {
        let sinks = [script([]), script([])];
        let settings = TracingSettings { batch_spans: 100, ..settings() };
        let pipeline = start(&settings, &sinks);
        pipeline.offer(spans(0..250)).unwrap();
        pipeline.flush().await;
        let status = pipeline.status();
        assert!(status.adds_up(), "{status:?}");
        for (sink, status) in sinks.iter().zip(&status.sinks) {
            assert_eq!((status.delivered, status.pending), (250, 0));
            assert!(sink.batches.lock().unwrap().iter().all(|batch| *batch <= 100));
            let mut names: Vec<_> =
                sink.taken.lock().unwrap().iter().map(|span| span.name.clone()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), 250);
        }
    });
}

#[test]
fn a_batch_that_is_not_full_goes_when_its_time_has_come() {
    run(async {
        let sink = script([]);
        let pipeline = start(&settings(), &[Arc::clone(&sink)]);
        pipeline.offer(spans(0..3)).unwrap();
        while pipeline.status().sinks[0].pending > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*sink.batches.lock().unwrap(), [3]);
    });
}

#[test]
fn a_batch_is_bounded_in_bytes_too() {
    run(async {
        let sink = script([]);
        let settings = TracingSettings {
            batch_bytes: crate::settings::ByteSize::from_bytes(1 << 10),
            ..settings()
        };
        let pipeline = start(&settings, &[Arc::clone(&sink)]);
        pipeline.offer(spans(0..40)).unwrap();
        pipeline.flush().await;
        assert!(sink.batches.lock().unwrap().iter().all(|batch| *batch < 10), "of about 170 bytes");
        assert_eq!(pipeline.status().sinks[0].delivered, 40);
    });
}

#[test]
fn where_spans_come_from_counts_in_queues_and_batches() {
    run(async {
        let sink = script([]);
        let settings = TracingSettings {
            batch_bytes: crate::settings::ByteSize::from_bytes(10 << 10),
            batch_delay: FOREVER,
            ..settings()
        };
        let pipeline = start(&settings, &[Arc::clone(&sink)]);
        let resource_spans = (0..40).map(|number| ResourceSpans {
            scope_spans: vec![ScopeSpans { spans: vec![span(number)], ..ScopeSpans::default() }],
            schema_url: format!("{number:01000}"),
            ..ResourceSpans::default()
        });
        let request = ExportTraceServiceRequest { resource_spans: resource_spans.collect() };
        pipeline.offer(request.encode_to_vec().into()).unwrap();
        assert!(pipeline.status().sinks[0].pending_bytes > 40_000);
        pipeline.flush().await;
        let status = pipeline.status().sinks.remove(0);
        assert_eq!((status.delivered, status.pending_bytes), (40, 0));
        let largest = sink.largest.load(Ordering::SeqCst);
        assert!(largest < 10 << 10, "{largest}");

        // The same for all is counted once.
        pipeline.offer(spans(0..50)).unwrap();
        let without = pipeline.status().sinks[0].pending_bytes;
        pipeline.flush().await;
        let scope_spans =
            ScopeSpans { spans: (0..50).map(span).collect(), ..ScopeSpans::default() };
        let resource_spans = vec![ResourceSpans {
            scope_spans: vec![scope_spans],
            schema_url: "x".repeat(1_000),
            ..ResourceSpans::default()
        }];
        let request = ExportTraceServiceRequest { resource_spans };
        pipeline.offer(request.encode_to_vec().into()).unwrap();
        let with = pipeline.status().sinks[0].pending_bytes;
        assert!((1_000..1_010).contains(&(with - without)), "{with} {without}");
    });
}

#[test]
fn a_slow_sink_costs_the_other_nothing() {
    run(async {
        let (slow, quick) = (script([]), script([]));
        slow.hangs.store(true, Ordering::SeqCst);
        let settings = TracingSettings { queue_spans: 100, batch_spans: 10, ..settings() };
        let pipeline = start(&settings, &[Arc::clone(&slow), quick]);
        for number in 0..50 {
            pipeline.offer(spans(number * 10..number * 10 + 10)).unwrap();
            while pipeline.status().sinks[1].pending > 0 {
                tokio::task::yield_now().await;
            }
        }
        let status = pipeline.status();
        assert!(status.adds_up(), "{status:?}");
        assert_eq!(status.sinks[1].delivered, 500);
        assert_eq!(status.sinks[0].pending, 100, "the queue's bound holds what is under way too");
        assert_eq!(status.sinks[0].dropped[reason::QUEUE_FULL], 400);
    });
}

#[test]
fn a_reporter_that_can_wait_is_turned_away_when_all_queues_are_full() {
    run(async {
        let sink = script([]);
        sink.hangs.store(true, Ordering::SeqCst);
        let settings = TracingSettings { queue_spans: 10, ..settings() };
        let pipeline = start(&settings, &[sink]);
        pipeline.try_offer(spans(0..10)).unwrap();
        let refused = pipeline.try_offer(spans(10..12)).unwrap_err();
        assert!(matches!(refused, NotTaken::Full { .. }), "{refused:?}");
        let status = pipeline.status();
        assert_eq!((status.received, status.turned_away), (10, 2));
        assert!(status.adds_up());
    });
}

#[test]
fn a_request_that_never_fits_is_taken_as_far_as_there_is_room() {
    run(async {
        let settings = TracingSettings { queue_spans: 10, ..settings() };
        let pipeline = start(&settings, &[script([])]);
        pipeline.try_offer(spans(0..30)).unwrap();
        pipeline.flush().await;
        let status = pipeline.status();
        assert_eq!(status.sinks[0].delivered, 10);
        assert_eq!(status.sinks[0].dropped[reason::QUEUE_FULL], 20);
    });
}

#[test]
fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
    run(async {
        let later = || Move::Fail(Remedy::Later(Some(Duration::from_millis(1))));
        let sink = script([later(), later(), Move::Take]);
        let pipeline = start(&settings(), &[sink]);
        pipeline.offer(spans(0..5)).unwrap();
        pipeline.flush().await;
        let status = pipeline.status().sinks.remove(0);
        assert_eq!((status.delivered, status.retries, status.last_error), (5, 2, None));

        let sink = script([Move::Fail(Remedy::None("denied".into()))]);
        let pipeline = start(&settings(), &[sink]);
        pipeline.offer(spans(0..5)).unwrap();
        pipeline.flush().await;
        let status = pipeline.status().sinks.remove(0);
        assert_eq!((status.rejected["denied"], status.retries), (5, 0));
        assert_eq!(status.last_error.unwrap(), "the script says so");
    });
}

#[test]
fn a_batch_is_not_tried_for_ever() {
    run(async {
        let later = Move::Fail(Remedy::Later(Some(Duration::from_millis(20))));
        let sink = script(std::iter::repeat_n(later, 1_000));
        let settings = TracingSettings { retry_for: Duration::from_millis(50), ..settings() };
        let pipeline = start(&settings, &[sink]);
        pipeline.offer(spans(0..5)).unwrap();
        pipeline.flush().await;
        assert_eq!(pipeline.status().sinks[0].dropped[reason::RETRIES], 5);
    });
}

#[test]
fn spans_over_which_a_plugin_ends_do_not_end_it_for_ever() {
    run(async {
        let sink = script(std::iter::repeat_n(Move::Fail(Remedy::Cautiously), 2));
        let pipeline = start(&settings(), &[sink]);
        pipeline.offer(spans(0..5)).unwrap();
        pipeline.flush().await;
        pipeline.offer(spans(5..9)).unwrap();
        pipeline.flush().await;
        let status = pipeline.status().sinks.remove(0);
        assert_eq!((status.dropped[reason::PLUGIN_ENDED], status.delivered), (5, 4));
    });
}

/// A plugin that ends over the first span, and with it every export that is under way.
#[derive(Default)]
struct Fragile {
    ends: tokio::sync::watch::Sender<u32>,
    under_way: AtomicUsize,
    /// Most exports under way at a time, after the first end.
    most: AtomicUsize,
}

impl Sink for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn deliver(&self, batch: Bytes) -> BoxFuture<'_, Result<ExportResult, Failure>> {
        let spans = spans_of(batch);
        Box::pin(async move {
            let mut ends = self.ends.subscribe();
            let ended = || {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                Err(Failure { remedy: Remedy::Cautiously, message: "the plugin ended".into() })
            };
            let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            if *ends.borrow_and_update() == 0 {
                // All that can be under way are, when it ends for the first time.
                if under_way == EXPORTS_MAX {
                    self.ends.send_modify(|ends| *ends += 1);
                }
                ends.changed().await.unwrap();
                return ended();
            }
            self.most.fetch_max(under_way, Ordering::SeqCst);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            if spans.iter().any(|span| span.name == "span 1") {
                self.ends.send_modify(|ends| *ends += 1);
            }
            if ends.has_changed().unwrap() {
                return ended();
            }
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(ExportResult { accepted: to_u64(spans.len()), rejected: vec![] })
        })
    }
}

#[test]
fn spans_over_which_a_plugin_ends_take_no_others_with_them() {
    run(async {
        let sink = Arc::new(Fragile::default());
        let settings = TracingSettings { batch_spans: 1, ..settings() };
        let pipeline = serve(&settings, vec![Arc::clone(&sink) as Arc<dyn Sink>]);
        pipeline.offer(spans(0..to_u64(EXPORTS_MAX))).unwrap();
        pipeline.flush().await;
        let status = pipeline.status().sinks.remove(0);
        assert_eq!((status.dropped[reason::PLUGIN_ENDED], status.delivered), (1, 15));
        assert_eq!(*sink.ends.borrow(), 2, "one that it was in company, and one that it was alone");
        assert_eq!(sink.most.load(Ordering::SeqCst), 1, "under way at a time");
    });
}

#[test]
fn flushing_waits_for_what_came_before_and_for_nothing_else() {
    run(async {
        let sink = script([Move::Take]);
        sink.hangs.store(true, Ordering::SeqCst);
        let settings = TracingSettings { batch_spans: 1, ..settings() };
        let pipeline = start(&settings, &[sink]);
        pipeline.flush().await;
        pipeline.offer(spans(0..1)).unwrap();
        let mut flush = std::pin::pin!(pipeline.flush());
        assert!(futures::poll!(&mut flush).is_pending());
        pipeline.offer(spans(1..5)).unwrap();
        flush.await;
        let status = pipeline.status().sinks.remove(0);
        assert_eq!((status.delivered, status.pending), (1, 4));
        // What is under way came before.
        assert!(futures::poll!(std::pin::pin!(pipeline.flush())).is_pending());
    });
}

#[test]
fn a_batch_that_is_too_large_is_halved_until_the_span_is_found() {
    run(async {
        // Only a single span is taken at a time, and never number 3.
        struct Narrow(Mutex<Vec<String>>);

        impl Sink for Narrow {
            fn name(&self) -> &'static str {
                "narrow"
            }

            fn deliver(&self, batch: Bytes) -> BoxFuture<'_, Result<ExportResult, Failure>> {
                let spans = spans_of(batch);
                Box::pin(async move {
                    if spans.len() > 1 || spans[0].name == "span 3" {
                        return Err(Failure { remedy: Remedy::Less, message: "too much".into() });
                    }
                    self.0.lock().unwrap().push(spans[0].name.clone());
                    Ok(ExportResult { accepted: 1, rejected: vec![] })
                })
            }
        }

        let sink: Arc<dyn Sink> = Arc::new(Narrow(Mutex::default()));
        let pipeline = serve(&settings(), vec![sink]);
        pipeline.offer(spans(0..7)).unwrap();
        pipeline.flush().await;
        let status = pipeline.status();
        assert!(status.adds_up(), "{status:?}");
        assert_eq!(status.sinks[0].delivered, 6);
        assert_eq!(status.sinks[0].dropped[reason::TOO_LARGE], 1);
    });
}

#[test]
fn the_numbers_add_up_whatever_a_sink_says() {
    run(async {
        for (accepted, refused) in [(0, 0), (3, 0), (900, 900), (2, 900), (u64::MAX, u64::MAX)] {
            let pipeline = start(&settings(), &[script([Move::Miscount(accepted, refused)])]);
            pipeline.offer(spans(0..5)).unwrap();
            pipeline.flush().await;
            let status = pipeline.status();
            assert!(status.adds_up() && status.sinks[0].pending == 0, "{status:?}");
        }
    });
}

#[test]
fn values_that_are_redacted_never_reach_a_sink() {
    run(async {
        let sink = script([]);
        let settings = TracingSettings { redact: vec!["*.password".into()], ..settings() };
        let pipeline = start(&settings, &[Arc::clone(&sink)]);
        pipeline.offer(spans(0..3)).unwrap();
        pipeline.flush().await;
        let taken = format!("{:?}", sink.taken.lock().unwrap());
        assert!(taken.contains("[redacted]") && !taken.contains("hunter2"), "{taken}");
    });
}

#[test]
fn spans_that_are_none_are_refused_and_the_others_pass() {
    run(async {
        let pipeline = start(&settings(), &[script([])]);
        let broken = Span { span_id: vec![], ..span(1) };
        let taken = pipeline.offer(request(vec![span(0), broken, span(2)])).unwrap();
        assert_eq!((taken.received, taken.rejected.len()), (3, 1));
        pipeline.flush().await;
        let status = pipeline.status();
        assert!(status.adds_up(), "{status:?}");
        assert_eq!((status.sinks[0].delivered, status.passed), (2, 2));
        assert!(matches!(pipeline.offer(vec![0xff].into()), Err(NotTaken::Malformed(_))));
    });
}

#[test]
fn closing_delivers_what_can_be_delivered_and_counts_the_rest() {
    run(async {
        let (quick, stuck) = (script([]), script([]));
        stuck.hangs.store(true, Ordering::SeqCst);
        let settings = TracingSettings { batch_spans: 1, batch_delay: FOREVER, ..settings() };
        let pipeline = start(&settings, &[quick, Arc::clone(&stuck)]);
        pipeline.offer(spans(0..50)).unwrap();
        pipeline.close(Duration::from_millis(100)).await;
        let status = pipeline.status();
        assert!(status.adds_up(), "{status:?}");
        assert_eq!(status.sinks[0].delivered, 50);
        assert_eq!(status.sinks[1].dropped[reason::SHUTDOWN], 50);
        assert_eq!(pipeline.offer(spans(0..1)), Err(NotTaken::Closed));
        assert!(stuck.under_way.load(Ordering::SeqCst) >= 1);
    });
}

#[test]
fn a_few_spans_do_not_keep_the_request_that_they_came_in() {
    let request = spans(0..1_000);
    let length = request.len();
    let mut pieces = take_apart(request.clone()).unwrap().pieces;
    pieces.truncate(3);
    let before = pieces.clone();
    queue::release_unused(&mut pieces, length);
    assert_eq!(pieces, before);
    let range = request.as_ptr_range();
    assert!(pieces.iter().all(|piece| !range.contains(&piece.bytes.as_ptr())));
}

fn any_move() -> impl Strategy<Value = Move> {
    let soon = || Some(Duration::from_micros(10));
    prop_oneof![
        4 => Just(Move::Take),
        2 => (0..20_u64).prop_map(Move::Refuse),
        1 => (0..20_u64, 0..20_u64).prop_map(|(a, b)| Move::Miscount(a, b)),
        2 => Just(Move::Fail(Remedy::Later(soon()))),
        1 => Just(Move::Fail(Remedy::Less)),
        1 => Just(Move::Fail(Remedy::Cautiously)),
        1 => Just(Move::Fail(Remedy::None("denied".into()))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in, whatever the sinks do, and whenever one looks: every span is in exactly
    /// one place.
    #[test]
    fn every_span_is_in_exactly_one_place(
        requests in prop::collection::vec((0..30_u64, 0..3_usize), 1..12),
        moves in prop::collection::vec(prop::collection::vec(any_move(), 0..20), 1..3),
        queue_spans in 1..60_u32,
        batch_spans in 1..20_u32,
        ratio in 0.0..1.0_f64,
        sampled in any::<bool>(),
    ) {
        run(async {
            let scripts: Vec<_> = moves.into_iter().map(script).collect();
            let sampling = if sampled { Sampling::Ratio } else { Sampling::Always };
            let settings = TracingSettings { queue_spans, batch_spans, ratio, sampling, ..settings() };
            let pipeline = start(&settings, &scripts);
            let mut sent = 0;
            for (good, broken) in requests {
                let mut all: Vec<_> = (sent..sent + good).map(span).collect();
                all.extend((0..broken).map(|_| Span::default()));
                sent += to_u64(all.len());
                pipeline.offer(request(all)).unwrap();
                let status = pipeline.status();
                assert!(status.adds_up(), "{status:?}");
                assert!(status.sinks.iter().all(|sink| sink.pending <= u64::from(queue_spans)));
                tokio::task::yield_now().await;
            }
            pipeline.close(FOREVER).await;
            let status = pipeline.status();
            assert!(status.adds_up(), "{status:?}");
            assert_eq!(status.received, sent);
            for (script, sink) in scripts.iter().zip(&status.sinks) {
                assert_eq!(sink.pending, 0);
                assert!(sink.delivered >= to_u64(script.taken.lock().unwrap().len()));
            }
        });
    }
}
