//! SkyWalking: segments, services and topology are what was reported.

use std::{cell::RefCell, collections::BTreeMap};

use anyhow::{Context, Result};
use pintle_otlp::{SpanKind, text::hex, text::value_text};
use pintle_test_services::{SkyWalking, SkyWalkingOptions};
use pintle_test_suites::eventually;
use serde_json::{Value, json};

use crate::{
    generate::{Reported, Trace, requests, traces},
    net::post_json,
    stage::{Sink, Stage, assert_all_delivered},
};

const TRACE: &str = "query ($id: ID!) { trace: queryTrace(traceId: $id) { spans {
    segmentId spanId parentSpanId serviceCode serviceInstanceName startTime endTime endpointName
    type peer component isError layer
    refs { parentSegmentId parentSpanId type }
    tags { key value }
    logs { time data { key value } }
} } }";

async fn ask(oap: &SkyWalking, query: &str, variables: Value) -> Result<Value> {
    let body = json!({ "query": query, "variables": variables });
    let answer = post_json(oap.rest(), "/graphql", &body).await?;
    anyhow::ensure!(answer.get("errors").is_none_or(Value::is_null), "{answer}");
    Ok(answer["data"].clone())
}

/// Asks until `find` finds what it looks for in the answer. A server that has only just started may answer
/// with errors, or not at all: it is asked again.
async fn shown<T>(
    oap: &SkyWalking,
    what: &str,
    (query, variables): (&str, impl Fn() -> Value),
    find: impl Fn(&Value) -> Option<T>,
) -> Result<T> {
    let last = RefCell::new(String::new());
    let found = eventually(what, async || {
        let answer = ask(oap, query, variables()).await;
        last.replace(format!("{answer:?}"));
        Ok(answer.ok().as_ref().and_then(&find))
    });
    found.await.with_context(|| last.take())
}

/// The spans of a trace by their OpenTelemetry ids.
async fn read_back(oap: &SkyWalking, trace: &Trace) -> Result<BTreeMap<String, Value>> {
    let query = (TRACE, || json!({ "id": trace.id }));
    let spans = shown(oap, "the trace", query, |found| {
        let spans = found["trace"]["spans"].as_array()?;
        (spans.len() >= trace.spans.len()).then(|| spans.clone())
    });
    let spans = spans.await?;
    assert_eq!(spans.len(), trace.spans.len(), "no span twice");
    Ok(spans.into_iter().map(|span| (tag(&span, "otel.span_id"), span)).collect())
}

fn tag(span: &Value, key: &str) -> String {
    let mut tags = span["tags"].as_array().unwrap().iter();
    let found = tags.find(|tag| tag["key"] == key);
    assert!(found.is_some(), "{key}: {span}");
    found.unwrap()["value"].as_str().unwrap().to_owned()
}

fn compare(Reported { service, span }: &Reported, shown: &BTreeMap<String, Value>) {
    let found = &shown[&hex(&span.span_id)];
    assert_eq!(found["serviceCode"], *service);
    assert_eq!(found["serviceInstanceName"], format!("{service}-1"));
    assert_eq!(found["endpointName"], span.name);
    assert_eq!(found["startTime"], span.start_time_unix_nano / 1_000_000);
    assert_eq!(found["endTime"], span.end_time_unix_nano / 1_000_000);
    let (kind, layer) = match span.kind() {
        SpanKind::Server => ("Entry", "Http"),
        SpanKind::Client => ("Exit", "Http"),
        _ => ("Local", "Unknown"),
    };
    assert_eq!((&found["type"], &found["layer"]), (&json!(kind), &json!(layer)));
    if kind == "Exit" {
        let peer = found["peer"].as_str().unwrap();
        assert!(peer.ends_with(".example:8080"), "{peer}");
    }
    for attribute in &span.attributes {
        assert_eq!(tag(found, &attribute.key), value_text(attribute.value.as_ref()));
    }
    let is_error = span.status.as_ref().is_some_and(|status| status.code == 2);
    assert_eq!(found["isError"], is_error);
    assert_eq!(found["logs"].as_array().unwrap().len(), span.events.len());
    for (index, link) in span.links.iter().enumerate() {
        assert!(tag(found, &format!("otel.link.{index}")).contains(&hex(&link.span_id)));
    }
    compare_parent(found, &span.parent_span_id, shown);
}

/// A span hangs on its parent: within its segment, or by a reference to another.
fn compare_parent(found: &Value, parent: &[u8], shown: &BTreeMap<String, Value>) {
    if parent.is_empty() {
        assert_eq!(
            (found["parentSpanId"].as_i64(), found["refs"].as_array().map(Vec::len)),
            (Some(-1), Some(0))
        );
        return;
    }
    let parent = &shown[&hex(parent)];
    if found["parentSpanId"] == -1 {
        let reference = &found["refs"][0];
        assert_eq!(reference["parentSegmentId"], parent["segmentId"], "{found}");
        assert_eq!(reference["parentSpanId"], parent["spanId"]);
        let crosses = found["serviceCode"] != parent["serviceCode"];
        let wanted = if crosses { "CROSS_PROCESS" } else { "CROSS_THREAD" };
        assert_eq!(reference["type"], wanted);
    } else {
        assert_eq!(found["segmentId"], parent["segmentId"]);
        assert_eq!(found["parentSpanId"], parent["spanId"]);
    }
}

async fn compare_all(oap: &SkyWalking, traces: &[Trace]) -> Result<()> {
    for trace in traces {
        let shown = read_back(oap, trace).await?;
        for reported in &trace.spans {
            compare(reported, &shown);
        }
    }
    Ok(())
}

/// Other tests run besides, and the machine may be slow: what belongs together gets the time to come,
/// and the server the time to answer. What it took without an answer is reported again, and shown twice.
fn patient(sink: Sink) -> Sink {
    sink.set("wait_ms = 4500").set("timeout_ms = 20000")
}

/// Times around now, in the server's form.
fn duration() -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    json!({ "start": minute(now - 600), "end": minute(now + 120), "step": "MINUTE" })
}

/// `2026-03-04 0506`, in universal time.
fn minute(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of the year 0, so that leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}{:02}", rest / 3_600, rest % 3_600 / 60)
}

/// Waits until the topology shows these calls.
async fn topology_shows(oap: &SkyWalking, wanted: &[(&str, &str)]) -> Result<()> {
    const TOPOLOGY: &str =
        "query ($duration: Duration!) { topology: getGlobalTopology(duration: $duration) {
        nodes { id name } calls { source target detectPoints } } }";
    let query = (TOPOLOGY, || json!({ "duration": duration() }));
    shown(oap, "the topology", query, |found| {
        let nodes = found["topology"]["nodes"].as_array()?.iter();
        let nodes: BTreeMap<_, _> =
            nodes.map(|node| (node["id"].to_string(), &node["name"])).collect();
        let calls = found["topology"]["calls"].as_array()?.iter();
        let named = |id: &Value| nodes.get(&id.to_string());
        let calls: Vec<_> =
            calls.map(|call| (named(&call["source"]), named(&call["target"]))).collect();
        let has = |(caller, callee): &(&str, &str)| {
            calls.iter().any(|(source, target)| {
                source.is_some_and(|name| *name == caller)
                    && target.is_some_and(|name| *name == callee)
            })
        };
        wanted.iter().all(has).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn skywalking_shows_segments_services_and_who_calls_whom() -> Result<()> {
    let oap = SkyWalking::start(&SkyWalkingOptions::default()).await?;
    let sink = patient(Sink::new("sw", "skywalking", oap.grpc()));
    let stage = Stage::new(&[sink], "").await?;
    let traces = traces(1_000, 40);
    let status = stage.report(&traces).await?;
    assert_all_delivered(&status, &traces);
    compare_all(&oap, &traces).await?;
    topology_shows(
        &oap,
        &[("web", "shop"), ("shop", "bank"), ("shop", "stock"), ("bank", "ledger")],
    )
    .await?;

    const SERVICES: &str = "{ services: listServices(layer: \"GENERAL\") { id name } }";
    let web = shown(&oap, "the service", (SERVICES, || json!({})), |found| {
        let mut services = found["services"].as_array()?.iter();
        Some(services.find(|service| service["name"] == "web")?["id"].clone())
    });
    let web = web.await?;
    const INSTANCES: &str = "query ($duration: Duration!, $service: ID!) {
        instances: listInstances(duration: $duration, serviceId: $service) {
            name language attributes { name value } } }";
    let query = (INSTANCES, || json!({ "duration": duration(), "service": web }));
    let host_name = shown(&oap, "the properties of the instance", query, |found| {
        let instance = &found["instances"][0];
        let mut attributes = instance["attributes"].as_array()?.iter();
        let host = attributes.find(|attribute| attribute["name"] == "hostname")?;
        (instance["name"] == "web-1").then(|| host["value"].clone())
    });
    assert_eq!(host_name.await?, "a1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_comes_late_hangs_on_what_was_shown_before() -> Result<()> {
    let oap = SkyWalking::start(&SkyWalkingOptions::default()).await?;
    let stage = Stage::new(&[patient(Sink::new("sw", "skywalking", oap.grpc()))], "").await?;
    let traces = traces(20, 45);
    let (mut first, mut late) = (traces.clone(), traces.clone());
    for (first, late) in first.iter_mut().zip(&mut late) {
        first.spans.retain(|it| it.span.parent_span_id.is_empty());
        late.spans.retain(|it| !it.span.parent_span_id.is_empty());
    }
    // Only when the server has the first spans the others are reported.
    assert_all_delivered(&stage.report(&first).await?, &first);
    assert_all_delivered(&stage.report(&late).await?, &traces);
    compare_all(&oap, &traces).await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_it_shows_the_same() -> Result<()> {
    let oap = SkyWalking::start(&SkyWalkingOptions::default()).await?;
    let sink = patient(Sink::new("sw", "skywalking", oap.rest())).set("protocol = \"http\"");
    let stage = Stage::new(&[sink], "").await?;
    let traces = traces(200, 41);
    let status = stage.report(&traces).await?;
    assert_all_delivered(&status, &traces);
    compare_all(&oap, &traces).await?;
    topology_shows(&oap, &[("web", "shop"), ("shop", "bank")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_demands_a_token_gets_it_and_a_wrong_one_is_told() -> Result<()> {
    let options = SkyWalkingOptions { token: Some("hunter2".into()) };
    let mut oap = SkyWalking::start(&options).await?;
    let with = |token: &str| {
        patient(Sink::new("sw", "skywalking", oap.grpc())).set(format!("token = {token:?}"))
    };
    let stage = Stage::new(&[with("hunter2")], "").await?;
    let some = traces(5, 42);
    assert_all_delivered(&stage.report(&some).await?, &some);
    compare_all(&oap, &some).await?;

    let stage = Stage::new(&[with("wrong")], "").await?;
    let status = stage.report(&traces(5, 43)).await?;
    assert_eq!(status.sinks[0].rejected["unauthenticated"], status.received);
    let error = status.sinks[0].last_error.clone().context("an error")?;
    assert!(error.contains("check `token`") && !error.contains("wrong"), "{error}");

    // The right one works again, after a restart of the server too.
    let stage = Stage::new(&[with("hunter2")], "batch_delay = \"10ms\"").await?;
    oap.server.kill()?;
    let more = traces(20, 44);
    for request in requests(&more, 50) {
        stage.pintle.pipeline().offer(request)?;
    }
    eventually("a failed export", async || {
        Ok((stage.pintle.pipeline().status().sinks[0].retries > 0).then_some(()))
    })
    .await?;
    oap.server.restart().await?;
    let status = stage.settled().await?;
    assert_eq!(status.sinks[0].delivered, status.received, "{status:?}");
    compare_all(&oap, &more).await
}
