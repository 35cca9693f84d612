//! One trace from the caller through this host to the plugin.

use anyhow::{Context, Result};
use http::Request;
use pintle::{
    Pintle,
    config::{Put, Target},
    tracing::{TraceHeaders, TraceQuery, in_trace},
};
use pintle_otlp::{ExportTraceServiceRequest, Span, SpanKind, text::hex};
use pintle_server::Api;
use pintle_test_suites::{Sandbox, eventually, log};
use prost::Message;
use tower::ServiceExt;

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const PARENT: &str = "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01";

async fn host(own: bool) -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["fixtures/echo", "plugins/local"])?;
    let data_dir = sandbox.path().join("local").display().to_string();
    let text = format!(
        "[defaults]\ntracing = \"near\"\n[tracing]\nown = {own}\nbatch_delay = \"5ms\"\n\
         [backends.main]\nplugin = \"echo\"\n\
         [backends.near]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n"
    );
    let pintle = sandbox.start(&text).await?;
    Ok((sandbox, pintle))
}

/// What the plugin is told of the trace when the API is asked with this header.
async fn told_over_http(pintle: &Pintle, header: (&str, &str)) -> Result<String> {
    asked(pintle, "/v1/backends/main/config/keys/trace", header).await
}

async fn asked(pintle: &Pintle, target: &str, header: (&str, &str)) -> Result<String> {
    let request = Request::get(target)
        .header("host", "localhost")
        .header(header.0, header.1)
        .body(axum::body::Body::empty())?;
    let response = Api::new(pintle.clone()).router().oneshot(request).await?;
    anyhow::ensure!(response.status().is_success(), "{}", response.status());
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await?;
    Ok(String::from_utf8(body.to_vec())?)
}

async fn spans_of(pintle: &Pintle, trace_id: &str, count: usize) -> Result<Vec<Span>> {
    let tracing = pintle.tracing("near")?;
    eventually("the spans", async || {
        let query = TraceQuery { trace_id: Some(trace_id.to_owned()), ..TraceQuery::default() };
        let mut spans = Vec::new();
        for trace in tracing.query(query).await? {
            let request = ExportTraceServiceRequest::decode(trace)?;
            let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
            spans.extend(scopes.flat_map(|scope| scope.spans));
        }
        Ok((spans.len() >= count).then_some(spans))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_reaches_the_plugin_in_whatever_convention() -> Result<()> {
    let (_sandbox, pintle) = host(false).await?;
    let told = told_over_http(&pintle, ("traceparent", PARENT)).await?;
    assert_eq!(told, format!("traceparent: {PARENT}\n"));
    let told = told_over_http(&pintle, ("b3", &format!("{TRACE}-e457b5a2e4d86bd1-1"))).await?;
    assert_eq!(told, format!("traceparent: {PARENT}\n"));
    assert_eq!(told_over_http(&pintle, ("traceparent", "nonsense")).await?, "");

    let headers =
        TraceHeaders { traceparent: PARENT.into(), tracestate: "a=1".into(), sampled: None };
    let config = pintle.config("main")?;
    let entry = in_trace(headers, config.get("trace")).await?.context("an answer")?;
    assert_eq!(entry.value, format!("traceparent: {PARENT}\ntracestate: a=1\n"));
    assert_eq!(config.get("trace").await?.context("an answer")?.value, "");
    assert_eq!(pintle.pipeline().status().received, 0, "nothing is reported unasked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_shows_caller_request_call_and_plugin() -> Result<()> {
    let (_sandbox, pintle) = host(true).await?;
    let told = told_over_http(&pintle, ("traceparent", PARENT)).await?;
    let spans = spans_of(&pintle, TRACE, 2).await?;
    let of = |kind: SpanKind| spans.iter().find(|span| span.kind() == kind);
    let server = of(SpanKind::Server).context("the request")?;
    let client = of(SpanKind::Client).context("the call")?;
    assert_eq!(server.name, "GET /v1/backends/{backend}/config/keys/{*key}");
    assert_eq!(hex(&server.parent_span_id), "e457b5a2e4d86bd1");
    assert_eq!(client.name, "config.get");
    assert_eq!(client.parent_span_id, server.span_id);
    let own = hex(&client.span_id);
    assert_eq!(told, format!("traceparent: 00-{TRACE}-{own}-01\n"), "the plugin goes on from it");
    assert!(client.end_time_unix_nano >= client.start_time_unix_nano);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_logs_during_a_request_names_its_trace() -> Result<()> {
    log::begin();
    let (_sandbox, pintle) = host(false).await?;
    // No other test of the process asks within this one.
    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(log::lines_with(&[trace]), [""; 0]);
    told_over_http(&pintle, ("traceparent", &PARENT.replace(TRACE, trace))).await?;
    let lines = log::lines_with(&[&format!(r#""trace_id":"{trace}""#), r#""name":"request""#]);
    assert!(!lines.is_empty(), "{:?}", log::lines_with(&[]));
    // A request that belongs to no trace is no part of one.
    told_over_http(&pintle, ("accept", "*/*")).await?;
    let mut requests = log::lines_with(&[r#""name":"request""#]);
    requests.retain(|line| !line.contains(r#""trace_id":""#));
    assert_eq!(requests, [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_from_a_mirror_makes_no_span() -> Result<()> {
    let (_sandbox, pintle) = host(true).await?;
    let config = pintle.config("near")?;
    config.put(Put::new("m/key", "1")).await?;
    let mirror = config.mirror(Target::Prefix("m".into())).await?;
    let traced = || TraceHeaders { traceparent: PARENT.into(), ..TraceHeaders::default() };
    let cached = in_trace(traced(), async { mirror.cached("m/key", pintle_test_suites::DEADLINE) });
    assert_eq!(cached.await.and_then(|cached| cached.entry).context("the key")?.value, "1");
    pintle.pipeline().flush().await;
    assert_eq!(pintle.pipeline().status().received, 0);
    in_trace(traced(), config.get("m/key")).await?;
    let spans = spans_of(&pintle, TRACE, 1).await?;
    assert_eq!((spans.len(), spans[0].name.as_str()), (1, "config.get"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reporting_what_the_host_does_does_not_report_itself() -> Result<()> {
    let (_sandbox, pintle) = host(true).await?;
    told_over_http(&pintle, ("traceparent", PARENT)).await?;
    spans_of(&pintle, TRACE, 2).await?;
    pintle.pipeline().flush().await;
    assert_eq!(pintle.pipeline().status().received, 2);
    // Nor does looking at it, also for a caller who has a trace.
    let traced = TraceHeaders { traceparent: PARENT.into(), ..TraceHeaders::default() };
    in_trace(traced, pintle.tracing("near")?.query(TraceQuery::default())).await?;
    asked(&pintle, "/v1/tracing/status", ("traceparent", PARENT)).await?;
    pintle.pipeline().flush().await;
    assert_eq!(pintle.pipeline().status().received, 2);
    // A caller that does not record its trace is followed.
    let silent = format!("00-{}-e457b5a2e4d86bd1-00", "1".repeat(32));
    told_over_http(&pintle, ("traceparent", &silent)).await?;
    told_over_http(&pintle, ("b3", "0")).await?;
    pintle.pipeline().flush().await;
    assert_eq!(pintle.pipeline().status().received, 2);
    // One that leaves the decision to this host gets what a trace gets that begins here.
    told_over_http(&pintle, ("b3", &format!("{TRACE}-e457b5a2e4d86bd1"))).await?;
    spans_of(&pintle, TRACE, 4).await?;
    pintle.pipeline().flush().await;
    let metrics = asked(&pintle, "/metrics", ("accept", "*/*")).await?;
    for line in [
        r#"pintle_spans{what="received"} 4"#,
        r#"pintle_backend_spans{backend="near",what="delivered"} 4"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    Ok(())
}
