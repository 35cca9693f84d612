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
use pintle::{Pintle, tracing::PipelineStatus};
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
/// What the queue may take, and what else the host may grow by meanwhile.
const QUEUE_MIB: u64 = 32;
const OTHER_GROWTH_MIB: u64 = 96;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let size = Size::from_arguments();
    let mut report = Report::default();
    report.extend(row("R9-away", away(size)).await);
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
            "[defaults]\ntracing = \"otel\"\n[tracing]\nqueue_bytes = \"{QUEUE_MIB}MiB\"\n{tracing}\n\
             [backends.otel]\nplugin = \"otlp\"\nendpoints = [\"{address}\"]\n\
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

/// How far the host's numbers are from what was sent and what the receiver took.
fn violations(status: &PipelineStatus, sent: u64, receiver: &Receiver) -> (u64, String) {
    let Some(sink) = status.sinks.first() else { return (1, "there is no sink".into()) };
    let dropped: u64 = sink.dropped.values().sum();
    let refused: u64 = sink.rejected.values().sum();
    let taken = receiver.count();
    // What was given up may have arrived all the same; what was delivered has.
    let wrong = u64::from(!status.adds_up())
        + status.received.abs_diff(sent)
        + sink.pending
        + sink.delivered.saturating_sub(taken)
        + taken.saturating_sub(sink.delivered + dropped);
    let twice = receiver.taken.twice.load(Ordering::Relaxed);
    let detail = format!(
        "{sent} sent, {} delivered, {dropped} dropped {:?}, {refused} refused, {taken} at the receiver, {twice} twice",
        sink.delivered, sink.dropped
    );
    (wrong, detail)
}

const TARGET: &str = "produced = delivered + counted drops; memory bounded";

/// Nobody listens for a while.
async fn away(size: Size) -> Result<ChaosRow> {
    // Of a queue of the usual size a small load fills nothing.
    let (rate, time, queue_spans) = size.of((20_000, 60, 50_000), (5_000, 5, 8_000));
    let mut receiver = Receiver::start()?;
    let tracing = format!("batch_delay = \"50ms\"\nqueue_spans = {queue_spans}");
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
    let (mut wrong, detail) = violations(&status, stage.sent, &receiver);
    // A load that fills no queue shows nothing.
    wrong += u64::from(status.sinks.iter().all(|sink| sink.dropped.is_empty()));
    wrong += grown.saturating_sub(QUEUE_MIB + OTHER_GROWTH_MIB);
    let row =
        ChaosRow::new("R9-away", "the receiver is away under load", TARGET, stage.sent, stage.sent);
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
    let (wrong, detail) = violations(&status, stage.sent, &receiver);
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
    let (wrong, detail) = violations(&status, stage.sent, &receiver);
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
    let (rate, rounds) = size.of((20_000, 15), (3_000, 3));
    let receiver = Receiver::start()?;
    let proxy = Proxy::start(receiver.address).await?;
    let mut stage = Stage::with(protocol, proxy.addr(), "batch_delay = \"20ms\"").await?;
    let mut fell_silent = 0;
    for _ in 0..rounds {
        stage.load(rate, Duration::from_millis(700)).await?;
        for connection in proxy.connections() {
            connection.set(Fault::Blackhole);
            fell_silent += 1;
        }
        stage.load(rate, Duration::from_millis(2_500)).await?;
    }
    let status = stage.settle().await?;
    let (mut wrong, detail) = violations(&status, stage.sent, &receiver);
    // Connections that were never noticed would not have been left for others.
    wrong += u64::from(fell_silent < rounds);
    let what = "open connections fall silent under load";
    let row = ChaosRow::new(id, what, TARGET, stage.sent, stage.sent);
    Ok(row.violations(wrong).detail(format!("{detail}; {fell_silent} connections")))
}
