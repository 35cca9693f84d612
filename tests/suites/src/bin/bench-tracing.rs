//! `cargo xtask bench tracing`: spans to a receiver of OTLP, through Pintle and through the exporter of
//! `opentelemetry-otlp`.
//!
//! Both get the same batches of the SDK and speak gRPC without compression. The receiver is a process of
//! its own, so that what it takes is nobody's CPU time here, and counts, so that no span is lost unseen.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode},
    routing::{get, post},
};
use bytes::{Buf, Bytes};
use futures::stream;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{body::Frame, client::conn::http1};
use hyper_util::rt::TokioIo;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter, SpanLinks},
};
use pintle::Pintle;
use pintle_opentelemetry::Exporter;
use pintle_otlp::{ExportTraceServiceRequest, GRPC_PATH};
use pintle_test_bench::{Comparison, Report, Row, Target as Wanted, cpu_seconds};
use pintle_test_suites::Sandbox;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

/// Spans of a batch: what SDKs export at a time.
const BATCH: u64 = 512;
/// Batches of a round.
const BATCHES: u64 = 40;
const ROUNDS: usize = 12;
/// Longest wait for the receiver to have what was exported.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some("receiver") {
        return receive().await.map(|()| ExitCode::SUCCESS);
    }
    let mut report = Report::default();
    report.push(exported().await?);
    pintle_test_suites::finish(&report)
}

/// P7: spans exported for each second of CPU time, and none lost.
async fn exported() -> Result<Row> {
    let receiver = Receiver::start()?;
    let resource = Resource::builder().with_service_name("shop").build();
    let stage = Stage::new(&receiver).await?;
    let mut ours = Exporter::new(&stage.pintle);
    ours.set_resource(&resource);
    let mut peer = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{}", receiver.address))
        .build()?;
    peer.set_resource(&resource);

    let pipeline = stage.pintle.pipeline();
    let ours = || receiver.measure(&ours, async || pipeline.flush().await);
    let peer = || receiver.measure(&peer, async || {});
    let what = "spans of ten attributes over gRPC; opentelemetry-otlp";
    let comparison = Comparison::new("P7", what).rounds(ROUNDS);
    Ok(comparison.run_values("spans/CPU s", Wanted::AtLeast(1.0), ours, peer).await?)
}

/// A host whose only sink is the receiver, with room for a whole round.
struct Stage {
    pintle: Pintle,
    _sandbox: Sandbox,
}

impl Stage {
    async fn new(receiver: &Receiver) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/otlp"])?;
        let text = format!(
            "[defaults]\ntracing = \"otel\"\n\
             [tracing]\nqueue_spans = {}\nqueue_bytes = \"256MiB\"\n\
             [backends.otel]\nplugin = \"otlp\"\nendpoints = [\"{}\"]\n\
             settings = {{ protocol = \"grpc\", compression = \"none\" }}\n",
            BATCH * BATCHES,
            receiver.address
        );
        let pintle = sandbox.start(&text).await?;
        Ok(Self { pintle, _sandbox: sandbox })
    }
}

/// The receiver, in a process of its own.
struct Receiver {
    process: Child,
    address: SocketAddr,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended of its own accord.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Receiver {
    fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("receiver")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("its output")?).read_line(&mut line)?;
        Ok(Self { process, address: line.trim().parse().context("the receiver's address")? })
    }

    /// Exports a round of spans and waits until they are there; answers spans per CPU second.
    async fn measure<E: SpanExporter>(&self, exporter: &E, flush: impl AsyncFn()) -> Result<f64> {
        let batches: Vec<_> = (0..BATCHES).map(batch).collect();
        let before = self.count().await?;
        let cpu = cpu_seconds();
        for batch in batches {
            exporter.export(batch).await?;
        }
        flush().await;
        let cpu = cpu_seconds() - cpu;
        let wanted = before + BATCH * BATCHES;
        let arrived = tokio::time::timeout(ARRIVAL_LIMIT, async {
            while self.count().await? < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        });
        arrived.await.context("spans were lost")??;
        let count = self.count().await?;
        ensure!(count == wanted, "{} spans came more than once", count - wanted);
        Ok((BATCH * BATCHES) as f64 / cpu)
    }

    /// How many spans it took so far.
    async fn count(&self) -> Result<u64> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = hyper::Request::get("/count").body(Empty::<Bytes>::new())?;
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        Ok(std::str::from_utf8(&body)?.parse()?)
    }
}

/// A batch as the SDK hands it over.
fn batch(number: u64) -> Vec<SpanData> {
    let time = SystemTime::now();
    let first = number * BATCH;
    let span = |number: u64| {
        let trace_id = TraceId::from_bytes(u128::from(number / 10 + 1).to_be_bytes());
        let span_id = SpanId::from_bytes((number + 1).to_be_bytes());
        let sampled = TraceFlags::SAMPLED;
        SpanData {
            span_context: SpanContext::new(trace_id, span_id, sampled, false, TraceState::NONE),
            parent_span_id: SpanId::from_bytes((number / 10 * 10 + 1).to_be_bytes()),
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: "GET /orders".into(),
            start_time: time,
            end_time: time,
            attributes: (0..10)
                .map(|index| KeyValue::new(format!("attribute.{index}"), "a value"))
                .collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("bench").build(),
        }
    };
    (first..first + BATCH).map(span).collect()
}

/// Takes OTLP over gRPC, and tells over HTTP how many spans that were.
async fn receive() -> Result<()> {
    let taken = Arc::new(AtomicU64::new(0));
    let count =
        async |State(taken): State<Arc<AtomicU64>>| taken.load(Ordering::Relaxed).to_string();
    let router = Router::new()
        .route(GRPC_PATH, post(take))
        .route("/count", get(count))
        .layer(DefaultBodyLimit::disable())
        .with_state(taken);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

async fn take(
    State(taken): State<Arc<AtomicU64>>,
    mut body: Bytes,
) -> Result<Response<Body>, StatusCode> {
    // Whether it is compressed, and its length.
    if body.len() < 5 {
        return Err(StatusCode::BAD_REQUEST);
    }
    body.advance(5);
    let request = ExportTraceServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let scopes = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
    let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
    taken.fetch_add(spans as u64, Ordering::Relaxed);
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
    let frames = stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    Ok(response)
}
