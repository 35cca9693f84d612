//! Receivers that answer what a test says: the rules of OTLP for failures.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{Router, extract::State, response::Response, routing::post};
use bytes::Bytes;
use http::HeaderMap;
use pintle_otlp::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse, write,
};
use prost::Message;
use tokio::net::TcpListener;

use crate::{
    generate::{span_count, traces},
    stage::{Sink, Stage},
};

/// Status, `Retry-After`, spans that are refused.
type Answer = (u16, Option<&'static str>, i64);

#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// Headers of each request, and its spans as far as it was not compressed.
    seen: Arc<Mutex<Vec<(HeaderMap, usize)>>>,
}

impl Receiver {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Result<(Self, SocketAddr)> {
        let receiver = Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            ..Self::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router =
            Router::new().route("/v1/traces", post(Self::take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((receiver, address))
    }

    async fn take(State(receiver): State<Self>, headers: HeaderMap, body: Bytes) -> Response {
        let request = ExportTraceServiceRequest::decode(body).unwrap_or_default();
        let spans = request.resource_spans.iter().flat_map(|it| &it.scope_spans);
        let spans = spans.map(|scope| scope.spans.len()).sum();
        receiver.seen.lock().unwrap().push((headers, spans));
        let next = receiver.answers.lock().unwrap().pop_front();
        let (status, retry_after, rejected_spans) = next.unwrap_or((200, None, 0));
        let partial_success = (rejected_spans > 0)
            .then(|| ExportTracePartialSuccess { rejected_spans, error_message: "too old".into() });
        let body = ExportTraceServiceResponse { partial_success }.encode_to_vec();
        let mut response = Response::builder().status(status);
        if let Some(retry_after) = retry_after {
            response = response.header("retry-after", retry_after);
        }
        response.body(body.into()).unwrap()
    }
}

fn sink(address: SocketAddr) -> Sink {
    Sink::new("otel", "otlp", address)
        .set("protocol = \"http/protobuf\"")
        .set("compression = \"none\"")
        .set("headers = { x-api-key = \"hunter2\" }")
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_a_receiver_refuses_are_counted_with_its_reason() -> Result<()> {
    let (receiver, address) = Receiver::start([(200, None, 3)]).await?;
    let stage = Stage::new(&[sink(address)], "batch_spans = 10000").await?;
    let traces = traces(3, 60);
    let status = stage.report(&traces).await?;
    let sink = &status.sinks[0];
    assert_eq!(sink.rejected["too old"], 3);
    assert_eq!(sink.delivered + 3, span_count(&traces));
    let seen = receiver.seen.lock().unwrap();
    assert!(seen.iter().all(|(headers, _)| headers["x-api-key"] == "hunter2"));
    assert!(seen.iter().all(|(headers, _)| headers["content-type"] == "application/x-protobuf"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_time_gets_it() -> Result<()> {
    let (receiver, address) = Receiver::start([(429, Some("1"), 0), (503, Some("1"), 0)]).await?;
    let stage = Stage::new(&[sink(address)], "batch_spans = 10000").await?;
    let begun = std::time::Instant::now();
    let traces = traces(1, 61);
    let request = crate::generate::requests(&traces, 10_000).remove(0);
    stage.pintle.pipeline().offer(request)?;
    let status = stage.settled().await?;
    assert_eq!((status.sinks[0].delivered, status.sinks[0].retries), (status.received, 2));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2), "it asked for a second twice");
    assert_eq!(receiver.seen.lock().unwrap().len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_finds_wrong_is_not_sent_again() -> Result<()> {
    for (status, code) in [(400, "invalid"), (401, "unauthenticated"), (500, "internal")] {
        let (receiver, address) = Receiver::start([(status, None, 0)]).await?;
        let stage = Stage::new(&[sink(address)], "batch_spans = 10000").await?;
        let request = crate::generate::requests(&traces(1, 62), 10_000).remove(0);
        stage.pintle.pipeline().offer(request)?;
        let told = stage.settled().await?;
        assert_eq!(told.sinks[0].rejected[code], told.received, "{status}");
        assert_eq!(receiver.seen.lock().unwrap().len(), 1);
        let error = told.sinks[0].last_error.clone().unwrap();
        assert!(!error.contains("hunter2"), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_sent_in_parts() -> Result<()> {
    let (receiver, address) = Receiver::start([(413, None, 0)]).await?;
    let stage = Stage::new(&[sink(address)], "batch_spans = 10000").await?;
    let request = crate::generate::requests(&traces(8, 63), 10_000).remove(0);
    stage.pintle.pipeline().offer(request)?;
    let status = stage.settled().await?;
    assert_eq!(status.sinks[0].delivered, status.received);
    let spans: Vec<_> = receiver.seen.lock().unwrap().iter().map(|(_, spans)| *spans).collect();
    assert_eq!((spans.len(), spans[1] + spans[2]), (3, spans[0]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sink_that_is_away_costs_the_others_nothing() -> Result<()> {
    let (receiver, address) = Receiver::start([]).await?;
    // Nobody listens there.
    let nowhere = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let sinks = [Sink::new("away", "zipkin", nowhere), sink(address)];
    // Its queue is full from the fortieth span on.
    let tracing = "queue_spans = 40\nbatch_delay = \"5ms\"";
    let stage = Stage::new(&sinks, tracing).await?;
    let traces = traces(10, 64);
    for request in crate::generate::requests(&traces, 10) {
        stage.pintle.pipeline().offer(request)?;
        pintle_test_suites::eventually("the other sink's delivery", async || {
            let status = stage.pintle.pipeline().status();
            assert!(status.adds_up(), "{status:?}");
            Ok((status.sinks[1].pending == 0).then_some(()))
        })
        .await?;
    }
    let status = stage.pintle.pipeline().status();
    assert!(status.adds_up(), "{status:?}");
    assert_eq!(status.sinks[1].delivered, span_count(&traces));
    let away = &status.sinks[0];
    assert_eq!((away.delivered, away.pending), (0, 40));
    assert_eq!(away.dropped["queue-full"], span_count(&traces) - 40, "{away:?}");
    let taken: usize = receiver.seen.lock().unwrap().iter().map(|(_, spans)| *spans).sum();
    assert_eq!(u64::try_from(taken)?, span_count(&traces));
    Ok(())
}

/// A request of one scope with these spans, in bytes.
fn request_of(spans: &[Vec<u8>]) -> Bytes {
    let mut request = Vec::new();
    write::message(&mut request, 1, |out| {
        write::message(out, 2, |out| spans.iter().for_each(|span| write::bytes(out, 2, span)));
    });
    request.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_over_a_span_goes_without_it() -> Result<()> {
    let (receiver, address) = Receiver::start([(400, None, 0)]).await?;
    let stage = Stage::new(&[sink(address)], "").await?;
    let spans: Vec<_> = traces(1, 65)[0].spans.iter().map(|it| it.span.encode_to_vec()).collect();
    let whole = spans.len();
    // Its ids are sound, and its name is no text.
    let mut broken = spans[0].clone();
    write::bytes(&mut broken, 5, &[0xff]);
    let request = request_of(&[spans, vec![broken]].concat());
    let result = stage.pintle.tracing("otel")?.export(request).await?;
    assert_eq!(result.accepted, u64::try_from(whole)?);
    assert_eq!((result.rejected.len(), result.rejected[0].spans), (1, 1), "{result:?}");
    let seen: Vec<_> = receiver.seen.lock().unwrap().iter().map(|(_, spans)| *spans).collect();
    // The receiver here cannot read the first one either.
    assert_eq!(seen, [0, whole]);
    Ok(())
}
