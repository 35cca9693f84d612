//! `cargo xtask chaos tracing`: what becomes of spans while the receiver is away, slow or killed.
//! With `--smoke` the loads are small.
//!
//! The receiver counts for itself what it took, so that the host's numbers are checked against what
//! happened, not against themselves.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use pintle::{
    Pintle,
    tracing::{PipelineStatus, reason},
};
use pintle_otlp::{
    ExportTraceServiceRequest, KeyValue, Resource, ResourceSpans, ScopeSpans, Span, SpanKind,
};
use pintle_test_bench::{ChaosRow, Report, resident_bytes};
use pintle_test_proxy::{Fault, Proxy};
use pintle_test_suites::{
    Sandbox,
    chaos::{Size, row},
    otlp::router,
};
use prost::Message;

/// Spans of one request of the load.
const REQUEST_SPANS: u64 = 200;
/// What the queue may take at most, and what else the host may grow by meanwhile.
const QUEUE_MIB: u64 = 32;
const OTHER_GROWTH_MIB: u64 = 96;
/// As long as spans may wait that were sent on a connection which is silent. The plugin gives a request
/// up after a second, and what stands behind that takes longer: PINGs ten seconds, the limit of the call
/// a minute.
const NOTICED_WITHIN: Duration = Duration::from_secs(8);
const CALL: &str = "1min";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size::from_arguments();
    let mut report = Report::default();
    // Of a queue of the usual size a small load fills nothing.
    let spans = size.of("queue_spans = 50000", "queue_spans = 8000");
    report.extend(row("R9-away", away("R9-away", spans, size)).await);
    let bytes = size.of("queue_spans = 10000000", "queue_spans = 10000000\nqueue_bytes = \"2MiB\"");
    report.extend(row("R9-away-bytes", away("R9-away-bytes", bytes, size)).await);
    report.extend(row("R9-slow", slow(size)).await);
    report.extend(row("R9-killed", killed(size)).await);
    report.extend(row("R9-silent-http", silent("R9-silent-http", "http/protobuf", size)).await);
    report.extend(row("R9-silent-grpc", silent("R9-silent-grpc", "grpc", size)).await);
    pintle_test_suites::finish(&report)
}

/// A receiver of OTLP over HTTP that remembers which spans it took.
struct Receiver {
    address: SocketAddr,
    taken: Arc<Taken>,
    serving: Option<tokio::runtime::Runtime>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.leave();
    }
}

#[derive(Default)]
struct Taken {
    ids: Mutex<HashSet<u64>>,
    /// Spans that came more than once.
    twice: AtomicU64,
    /// Milliseconds before each answer.
    pause_ms: AtomicU64,
}

impl Receiver {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut receiver = Self { address, taken: Arc::default(), serving: None };
        receiver.serve(listener)?;
        Ok(receiver)
    }

    /// Takes spans again, on the same port.
    async fn resume(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => return self.serve(listener),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn serve(&mut self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let taken = Arc::clone(&self.taken);
        let router = router(move |request| Box::pin(take(Arc::clone(&taken), request)));
        // Of its own, so that all its connections end with it.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => drop(axum::serve(listener, router).await),
                Err(error) => eprintln!("the receiver does not listen: {error}"),
            }
        });
        self.serving = Some(runtime);
        Ok(())
    }

    /// Ends, with all connections and whatever is under way on them.
    fn leave(&mut self) {
        if let Some(runtime) = self.serving.take() {
            runtime.shutdown_background();
        }
    }

    fn count(&self) -> u64 {
        let ids = self.taken.ids.lock().unwrap_or_else(PoisonError::into_inner);
        u64::try_from(ids.len()).unwrap_or(u64::MAX)
    }
}

async fn take(taken: Arc<Taken>, request: ExportTraceServiceRequest) {
    let pause = taken.pause_ms.load(Ordering::Relaxed);
    if pause > 0 {
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let mut ids = taken.ids.lock().unwrap_or_else(PoisonError::into_inner);
    let scopes = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
    for span in scopes.flat_map(|scope| &scope.spans) {
        let id = span.span_id.as_slice().try_into().map(u64::from_be_bytes).unwrap_or_default();
        if !ids.insert(id) {
            taken.twice.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A host whose only sink is the receiver.
struct Stage {
    pintle: Pintle,
    sent: u64,
    _sandbox: Sandbox,
}

impl Stage {
    async fn new(receiver: &Receiver, tracing: &str) -> Result<Self> {
        Self::with("http/protobuf", receiver.address, tracing).await
    }

    /// One that reaches its sink at this address, in this way.
    async fn with(protocol: &str, address: SocketAddr, tracing: &str) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/otlp"])?;
        let text = format!(
            "[defaults]\ntracing = \"otel\"\n[tracing]\n{tracing}\n\
             [backends.otel]\nplugin = \"otlp\"\nendpoints = [\"{address}\"]\n\
             limits = {{ call = {CALL:?} }}\n\
             settings = {{ protocol = {protocol:?}, compression = \"none\", timeout_ms = 1000 }}\n"
        );
        let pintle = sandbox.start(&text).await?;
        Ok(Self { pintle, sent: 0, _sandbox: sandbox })
    }

    /// Reports so many spans each second, for so long. Answers the most memory that was in use.
    async fn load(&mut self, spans_per_second: u64, time: Duration) -> Result<u64> {
        let begun = Instant::now();
        let mut most = 0;
        let before = self.sent;
        while begun.elapsed() < time {
            let due = before + (begun.elapsed().as_millis() as u64) * spans_per_second / 1_000;
            while self.sent < due {
                self.pintle.pipeline().offer(request(self.sent, REQUEST_SPANS))?;
                self.sent += REQUEST_SPANS;
            }
            most = most.max(resident_bytes(None)?);
            let status = self.pintle.pipeline().status();
            anyhow::ensure!(status.adds_up(), "the numbers do not add up: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(most)
    }

    async fn settle(&self) -> Result<PipelineStatus> {
        let flush = self.pintle.pipeline().flush();
        tokio::time::timeout(Duration::from_secs(120), flush).await.context("not settled")?;
        Ok(self.pintle.pipeline().status())
    }
}

fn request(first: u64, count: u64) -> Bytes {
    let span = |number: u64| Span {
        trace_id: [(number / 10 + 1).to_be_bytes(), [1; 8]].concat(),
        span_id: (number + 1).to_be_bytes().into(),
        name: "GET /orders".into(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        attributes: (0..10)
            .map(|index| KeyValue::text(format!("attribute.{index}"), "a value"))
            .collect(),
        ..Span::default()
    };
    let resource = Resource {
        attributes: vec![KeyValue::text("service.name", "load")],
        dropped_attributes_count: 0,
    };
    let scope_spans = vec![ScopeSpans {
        spans: (first..first + count).map(span).collect(),
        ..ScopeSpans::default()
    }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

/// How far the host's numbers are from what was sent and what the receiver took. As many spans as
/// `uncertain` may have come twice.
fn violations(
    status: &PipelineStatus,
    sent: u64,
    receiver: &Receiver,
    uncertain: u64,
) -> (u64, String) {
    let Some(sink) = status.sinks.first() else { return (1, "there is no sink".into()) };
    let dropped: u64 = sink.dropped.values().sum();
    let no_room = sink.dropped.get(reason::QUEUE_FULL).copied().unwrap_or_default();
    let refused: u64 = sink.rejected.values().sum();
    let taken = receiver.count();
    let twice = receiver.taken.twice.load(Ordering::Relaxed);
    // What was given up may have arrived all the same; what was delivered has.
    let wrong = u64::from(!status.adds_up())
        + status.received.abs_diff(sent)
        + sink.pending
        + sink.delivered.saturating_sub(taken)
        + taken.saturating_sub(sink.delivered + dropped)
        // The receiver finds fault with nothing, and is back long before retrying ends: a queue that is
        // full is the only reason to lose anything.
        + refused
        + dropped.saturating_sub(no_room)
        + twice.saturating_sub(uncertain);
    let detail = format!(
        "{sent} sent, {} delivered, {dropped} dropped {:?}, {refused} refused, {taken} at the receiver, {twice} twice",
        sink.delivered, sink.dropped
    );
    (wrong, detail)
}

const TARGET: &str = "produced = delivered + counted drops; memory bounded";

/// Of each fault nobody knows whether what is under way arrived, and it is sent again: at most what comes
/// in within half a second.
const fn uncertain(rate: u64, faults: u64) -> u64 {
    rate / 2 * faults
}

/// Nobody listens for a while, and `queue` is what bounds the queue.
async fn away(id: &str, queue: &str, size: Size) -> Result<ChaosRow> {
    let (rate, time) = size.of((20_000, 60), (5_000, 5));
    let mut receiver = Receiver::start()?;
    let tracing = format!("batch_delay = \"50ms\"\n{queue}");
    let mut stage = Stage::new(&receiver, &tracing).await?;
    stage.load(rate, Duration::from_secs(2)).await?;
    stage.settle().await?;
    let before = resident_bytes(None)?;
    receiver.leave();
    let most = stage.load(rate, Duration::from_secs(time)).await?;
    // What the receiver itself remembers does not grow while it is away.
    let grown = most.saturating_sub(before) >> 20;
    receiver.resume().await?;
    stage.load(rate, Duration::from_secs(2)).await?;
    let status = stage.settle().await?;
    let (mut wrong, detail) = violations(&status, stage.sent, &receiver, uncertain(rate, 1));
    // A load that fills no queue shows nothing.
    wrong += u64::from(status.sinks.iter().all(|sink| sink.dropped.is_empty()));
    wrong += grown.saturating_sub(QUEUE_MIB + OTHER_GROWTH_MIB);
    let row = ChaosRow::new(id, "the receiver is away under load", TARGET, stage.sent, stage.sent);
    Ok(row.violations(wrong).detail(format!("{detail}; grew by {grown} MiB")))
}

/// Every answer takes its time.
async fn slow(size: Size) -> Result<ChaosRow> {
    let (rate, time) = size.of((20_000, 30), (5_000, 4));
    let receiver = Receiver::start()?;
    let mut stage = Stage::new(&receiver, "batch_delay = \"50ms\"").await?;
    receiver.taken.pause_ms.store(300, Ordering::Relaxed);
    stage.load(rate, Duration::from_secs(time)).await?;
    receiver.taken.pause_ms.store(0, Ordering::Relaxed);
    let status = stage.settle().await?;
    let (wrong, detail) = violations(&status, stage.sent, &receiver, uncertain(rate, 1));
    let row =
        ChaosRow::new("R9-slow", "the receiver is slow under load", TARGET, stage.sent, stage.sent);
    Ok(row.violations(wrong).detail(detail))
}

/// It comes and goes.
async fn killed(size: Size) -> Result<ChaosRow> {
    let (rate, rounds) = size.of((20_000, 20), (3_000, 3));
    let mut receiver = Receiver::start()?;
    let mut stage = Stage::new(&receiver, "batch_delay = \"20ms\"").await?;
    for _ in 0..rounds {
        stage.load(rate, Duration::from_millis(700)).await?;
        receiver.leave();
        stage.load(rate, Duration::from_millis(500)).await?;
        receiver.resume().await?;
    }
    let status = stage.settle().await?;
    let (wrong, detail) = violations(&status, stage.sent, &receiver, uncertain(rate, rounds));
    let row = ChaosRow::new(
        "R9-killed",
        "the receiver comes and goes under load",
        TARGET,
        stage.sent,
        stage.sent,
    );
    Ok(row.violations(wrong).detail(detail))
}

/// Again and again the connections that are open fall silent, without an end: what is sent on them goes
/// nowhere, and nobody says so. New ones work.
async fn silent(id: &str, protocol: &str, size: Size) -> Result<ChaosRow> {
    // Connections that live for less than five seconds are opened again with growing pauses.
    let (rate, rounds, healthy_ms) = size.of((20_000, 15, 5_500), (3_000, 3, 700));
    let receiver = Receiver::start()?;
    let proxy = Proxy::start(receiver.address).await?;
    let mut stage = Stage::with(protocol, proxy.addr(), "batch_delay = \"20ms\"").await?;
    let mut silent = HashSet::new();
    let (mut late, mut slowest) = (0, Duration::ZERO);
    for _ in 0..rounds {
        stage.load(rate, Duration::from_millis(healthy_ms)).await?;
        for connection in proxy.connections() {
            connection.set(Fault::Blackhole);
            silent.insert(connection.id());
        }
        // From now on something is under way on them.
        stage.load(rate, Duration::from_millis(500)).await?;
        let pipeline = stage.pintle.pipeline().clone();
        let settled = tokio::spawn(async move {
            let begun = Instant::now();
            pipeline.flush().await;
            begun.elapsed()
        });
        stage.load(rate, Duration::from_secs(2)).await?;
        let settled = tokio::time::timeout(Duration::from_secs(120), settled);
        let waited = settled.await.context("not settled")??;
        late += u64::from(waited > NOTICED_WITHIN);
        slowest = slowest.max(waited);
    }
    let status = stage.settle().await?;
    let (mut wrong, detail) = violations(&status, stage.sent, &receiver, uncertain(rate, rounds));
    // Connections that were never noticed would not have been left for others.
    let fell_silent = silent.len() as u64;
    wrong += u64::from(fell_silent < rounds) + late;
    let what = "open connections fall silent under load";
    let row = ChaosRow::new(id, what, TARGET, stage.sent, stage.sent);
    let detail =
        format!("{detail}; {fell_silent} connections, none waited longer than {slowest:?}");
    Ok(row.violations(wrong).detail(detail))
}
