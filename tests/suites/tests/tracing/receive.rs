//! The receivers of a host: what senders hand over arrives, and what does not is told them.

use std::{io::Write, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{Request, StatusCode};
use pintle::{Pintle, settings::Settings, tracing::TraceQuery};
use pintle_otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse, ResourceSpans};
use pintle_server::receive::Receivers;
use pintle_test_services::Jaeger;
use pintle_test_suites::{Sandbox, within};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    generate::{requests, span_count, traces},
    net::{exchange, send},
    stage::{Sink, Stage, assert_all_delivered},
};

/// A host with receivers.
pub(crate) struct Host {
    pub(crate) pintle: Pintle,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) zipkin: SocketAddr,
    _stop: oneshot::Sender<()>,
    _sandbox: Sandbox,
}

impl Host {
    /// Its spans go to the embedded backend.
    pub(crate) async fn start(tracing: &str) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/local"])?;
        let data_dir = sandbox.path().join("local").display().to_string();
        let backend = format!("[backends.near]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
        Self::with(sandbox, tracing, &backend).await
    }

    /// Its spans go to this Jaeger.
    pub(crate) async fn before(jaeger: &Jaeger) -> Result<Self> {
        let endpoint = jaeger.otlp_grpc();
        let backend = format!("[backends.otel]\nplugin = \"otlp\"\nendpoints = [\"{endpoint}\"]\n");
        Self::with(Sandbox::new(&["plugins/otlp"])?, "", &backend).await
    }

    async fn with(sandbox: Sandbox, tracing: &str, backend: &str) -> Result<Self> {
        let text = format!(
            "[tracing]\nbatch_delay = \"5ms\"\n{tracing}\n\
             receive = {{ otlp_grpc = \"127.0.0.1:0\", otlp_http = \"127.0.0.1:0\", zipkin = \"127.0.0.1:0\" }}\n\
             {backend}"
        );
        let settings: Settings = sandbox.settings(&text)?;
        let receivers = Receivers::bind(&settings.tracing.receive).await?;
        let pintle = Pintle::builder().settings(settings).start().await?;
        let address = |wanted| {
            let addresses = receivers.addresses()?;
            let found = addresses.into_iter().find(|(key, _)| *key == wanted);
            anyhow::Ok(found.context(wanted)?.1)
        };
        let (grpc, http, zipkin) =
            (address("otlp_grpc")?, address("otlp_http")?, address("zipkin")?);
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(receivers.serve(pintle.clone(), async { drop(stopped.await) }));
        Ok(Self { pintle, grpc, http, zipkin, _stop: stop, _sandbox: sandbox })
    }

    /// What arrived of a trace.
    pub(crate) async fn trace(&self, trace_id: &str) -> Result<Vec<ResourceSpans>> {
        within("the spans", self.pintle.pipeline().flush()).await?;
        let query = TraceQuery { trace_id: Some(trace_id.to_owned()), ..TraceQuery::default() };
        let mut found = Vec::new();
        for trace in self.pintle.tracing("near")?.query(query).await? {
            found.extend(ExportTraceServiceRequest::decode(trace)?.resource_spans);
        }
        Ok(found)
    }

    /// How many spans of a trace arrived.
    async fn count(&self, trace_id: &str) -> Result<usize> {
        let found = self.trace(trace_id).await?;
        let scopes = found.iter().flat_map(|of| &of.scope_spans);
        Ok(scopes.map(|scope| scope.spans.len()).sum())
    }

    async fn post(
        &self,
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::post(path).header("host", address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(address, request.body(body.into())?).await
    }
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

#[tokio::test(flavor = "multi_thread")]
async fn otlp_in_is_otlp_out_over_each_way() -> Result<()> {
    let host = Host::start("").await?;
    let ways = [
        (host.grpc, "grpc", "gzip"),
        (host.grpc, "grpc", "none"),
        (host.http, "http/protobuf", "gzip"),
        (host.http, "http/protobuf", "none"),
    ];
    for (seed, (endpoint, protocol, compression)) in (70..).zip(ways) {
        let sink = Sink::new("otel", "otlp", endpoint)
            .set(format!("protocol = {protocol:?}"))
            .set(format!("compression = {compression:?}"));
        let stage = Stage::new(&[sink], "").await?;
        let traces = traces(50, seed);
        assert_all_delivered(&stage.report(&traces).await?, &traces);
        for trace in &traces {
            assert_eq!(host.count(&trace.id).await?, trace.spans.len(), "{protocol} {compression}");
        }
    }
    let status = host.pintle.pipeline().status();
    ensure!(status.adds_up() && status.rejected.is_empty(), "{status:?}");
    Ok(())
}

/// Headers, body, and the status that is answered.
type Refused<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u16);

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_learns_of_every_span_that_is_refused() -> Result<()> {
    let host = Host::start("").await?;
    let traces = traces(1, 75);
    let mut request = ExportTraceServiceRequest::decode(requests(&traces, 10_000).remove(0))?;
    request.resource_spans[0].scope_spans[0].spans[0].span_id.clear();
    let body = request.encode_to_vec();
    let (status, answer) = host.post(host.http, "/v1/traces", &[PROTOBUF], body).await?;
    assert_eq!(status, StatusCode::OK);
    let partial = ExportTraceServiceResponse::decode(answer)?.partial_success.context("partial")?;
    assert_eq!(partial.rejected_spans, 1);
    assert!(partial.error_message.contains("span id"), "{}", partial.error_message);

    let refused: [Refused<'_>; 5] = [
        (&[PROTOBUF], b"\xff", 400),
        (&[JSON], b"{", 400),
        (&[("content-type", "text/plain")], b"", 415),
        (&[PROTOBUF, ("content-encoding", "br")], b"", 415),
        (&[PROTOBUF, GZIP], b"no gzip", 400),
    ];
    for (headers, body, wanted) in refused {
        let (status, _) = host.post(host.http, "/v1/traces", headers, body.to_vec()).await?;
        assert_eq!(status, wanted, "{headers:?}");
    }
    let (status, _) = host.post(host.http, "/v1/metrics", &[PROTOBUF], "").await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_json_arrives_as_one_in_protobuf() -> Result<()> {
    let host = Host::start("").await?;
    let trace_id = "5b8efff798038103d269b633813fc60c";
    let body = json!({ "resourceSpans": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "shop" } }] },
        "scopeSpans": [{ "spans": [
            { "traceId": trace_id, "spanId": "eee19b7ec3c1b174", "name": "one", "kind": 2,
              "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000" },
            { "traceId": "", "spanId": "eee19b7ec3c1b174", "name": "none" },
        ] }],
    }] });
    let body = gzip(body.to_string().as_bytes())?;
    let (status, answer) = host.post(host.http, "/v1/traces", &[JSON, GZIP], body).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    assert_eq!((status, &answer["partialSuccess"]["rejectedSpans"]), (StatusCode::OK, &json!("1")));
    assert_eq!(host.count(trace_id).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkins_spans_arrive_and_what_are_none_is_told() -> Result<()> {
    let host = Host::start("").await?;
    // As the plugin `zipkin` writes them.
    let stage = Stage::new(&[Sink::new("zipkin", "zipkin", host.zipkin)], "").await?;
    let traces = traces(20, 76);
    assert_all_delivered(&stage.report(&traces).await?, &traces);
    for trace in &traces {
        assert_eq!(host.count(&trace.id).await?, trace.spans.len());
    }
    assert_eq!(host.pintle.pipeline().status().received, span_count(&traces));

    let (status, answer) = host.post(host.zipkin, "/api/v2/spans", &[JSON], "{}").await?;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&answer).contains("list"));
    let none = json!([{ "traceId": "xyz", "id": "1" }]).to_string();
    let (status, answer) = host.post(host.zipkin, "/api/v2/spans", &[JSON], none).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert!(String::from_utf8_lossy(&answer).contains("1 spans: the trace id"), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_full_asks_its_senders_to_wait() -> Result<()> {
    // Nothing leaves the queue for a minute.
    let stuck = "[tracing]\nqueue_spans = 20\nbatch_delay = \"1min\"\nbatch_spans = 10000";
    let sandbox = Sandbox::new(&["plugins/local"])?;
    let data_dir = sandbox.path().join("local").display().to_string();
    let text = format!(
        "{stuck}\nreceive = {{ otlp_http = \"127.0.0.1:0\" }}\n\
         [backends.near]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n"
    );
    let settings = sandbox.settings(&text)?;
    let receivers = Receivers::bind(&settings.tracing.receive).await?;
    let pintle = Pintle::builder().settings(settings).start().await?;
    let address = receivers.addresses()?[0].1;
    let (_stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(receivers.serve(pintle.clone(), async { drop(stopped.await) }));
    let all = requests(&traces(10, 77), 12);
    let mut turned_away = 0;
    for request in &all {
        let request = Request::post("/v1/traces")
            .header("host", address.to_string())
            .header(PROTOBUF.0, PROTOBUF.1)
            .body(request.clone())?;
        let (head, _) = exchange(address, request).await?;
        if head.status == StatusCode::SERVICE_UNAVAILABLE {
            turned_away += 1;
            assert_eq!(head.headers.get("retry-after").context("when to come back")?, "1");
        }
    }
    let status = pintle.pipeline().status();
    assert!(turned_away > 0 && status.adds_up(), "{status:?}");
    assert!(status.turned_away > 0 && status.sinks[0].dropped.is_empty(), "{status:?}");
    assert_eq!(status.sinks[0].pending, status.received);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_listen_on_loopback_only() -> Result<()> {
    let refused = "[tracing.receive]\notlp_grpc = \"0.0.0.0:4317\"".parse::<Settings>();
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("tracing.receive.otlp_grpc") && text.contains("127.0.0.1"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_browser_cannot_send_spans() -> Result<()> {
    let host = Host::start("").await?;
    let headers = [PROTOBUF, ("origin", "https://evil.example")];
    let (status, _) = host.post(host.http, "/v1/traces", &headers, "").await?;
    assert_eq!(status, StatusCode::FORBIDDEN);
    Ok(())
}
