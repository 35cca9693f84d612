//! The plugin `otlp` against Jaeger, over each of its ways.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use pintle_otlp::{SpanKind, text::hex, text::value_text};
use pintle_test_services::Jaeger;
use pintle_test_suites::eventually;
use serde_json::Value;

use crate::{
    generate::{Reported, Trace, requests, traces},
    net::get_json,
    stage::{Sink, Stage, assert_all_delivered},
};

/// A span as Jaeger shows it, and the process that reports it.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) span: Value,
    pub(crate) process: Value,
}

impl Shown {
    /// Attributes of the span or the process.
    pub(crate) fn tags(of: &Value) -> BTreeMap<&str, &Value> {
        let tags = of["tags"].as_array().unwrap().iter();
        tags.map(|tag| (tag["key"].as_str().unwrap(), &tag["value"])).collect()
    }

    /// What it refers to in this way.
    pub(crate) fn references(&self, kind: &str) -> Vec<&Value> {
        let references = self.span["references"].as_array().unwrap().iter();
        references.filter(|reference| reference["refType"] == kind).collect()
    }
}

/// The spans of a trace by their ids, once so many are there.
pub(crate) async fn read_back(
    jaeger: &Jaeger,
    trace_id: &str,
    count: usize,
) -> Result<BTreeMap<String, Shown>> {
    let path = format!("/api/traces/{trace_id}");
    let found = eventually(&path, async || {
        let found = get_json(jaeger.query(), &path).await?.unwrap_or_default();
        let spans = found["data"][0]["spans"].as_array().cloned().unwrap_or_default();
        // A batch of unknown fate is sent again, and Jaeger keeps both.
        let ids: BTreeSet<_> = spans.iter().map(|span| span["spanID"].to_string()).collect();
        Ok((ids.len() == count).then_some(found))
    });
    let found = found.await?;
    let trace = &found["data"][0];
    let shown = trace["spans"].as_array().context("spans")?.iter().map(|span| {
        let process = trace["processes"][span["processID"].as_str().unwrap()].clone();
        (span["spanID"].as_str().unwrap().to_owned(), Shown { span: span.clone(), process })
    });
    Ok(shown.collect())
}

fn compare(Reported { service, span }: &Reported, found: &Shown) {
    let Shown { span: shown, process } = found;
    assert_eq!(process["serviceName"], *service);
    assert_eq!(shown["operationName"], span.name);
    let parent = found.references("CHILD_OF");
    assert_eq!(parent.len(), usize::from(!span.parent_span_id.is_empty()), "{parent:?}");
    for parent in parent {
        assert_eq!(parent["spanID"], hex(&span.parent_span_id));
    }
    assert_eq!(shown["startTime"], span.start_time_unix_nano / 1_000);
    let duration = (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000;
    assert_eq!(shown["duration"], duration);
    let tags = Shown::tags(shown);
    for attribute in &span.attributes {
        let value = tags[attribute.key.as_str()];
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(value, value_text(attribute.value.as_ref()), "{}", attribute.key);
    }
    let kind = match span.kind() {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        _ => "internal",
    };
    assert_eq!(tags["span.kind"], kind);
    let is_error = span.status.as_ref().is_some_and(|status| status.code == 2);
    assert_eq!(tags.contains_key("error"), is_error);
    assert_eq!(shown["logs"].as_array().unwrap().len(), span.events.len());
    assert_eq!(found.references("FOLLOWS_FROM").len(), span.links.len());
}

async fn compare_all(jaeger: &Jaeger, traces: &[Trace]) -> Result<()> {
    for trace in traces {
        let shown = read_back(jaeger, &trace.id, trace.spans.len()).await?;
        for reported in &trace.spans {
            let id = hex(&reported.span.span_id);
            compare(reported, shown.get(&id).with_context(|| format!("span {id}"))?);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_otlp_brings_every_span_as_it_was_reported() -> Result<()> {
    let jaeger = Jaeger::start().await?;
    let ways = [
        (jaeger.otlp_grpc(), "grpc", "gzip", 400),
        (jaeger.otlp_grpc(), "grpc", "none", 100),
        (jaeger.otlp_http(), "http/protobuf", "gzip", 400),
        (jaeger.otlp_http(), "http/protobuf", "none", 100),
    ];
    for (seed, (endpoint, protocol, compression, count)) in (10..).zip(ways) {
        let sink = Sink::new("otel", "otlp", endpoint)
            .set(format!("protocol = {protocol:?}"))
            .set(format!("compression = {compression:?}"))
            .set("headers = { x-tenant = \"a1\" }");
        let stage = Stage::new(&[sink], "").await?;
        let traces = traces(count, seed);
        let status = stage.report(&traces).await?;
        assert_all_delivered(&status, &traces);
        compare_all(&jaeger, &traces).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_killed_under_load_costs_no_span_that_was_not_delivered() -> Result<()> {
    let mut jaeger = Jaeger::start().await?;
    let sink = Sink::new("otel", "otlp", jaeger.otlp_grpc());
    let stage = Stage::new(&[sink], "batch_delay = \"10ms\"\nbatch_spans = 50").await?;
    let before = traces(30, 20);
    let after = traces(30, 21);
    assert_all_delivered(&stage.report(&before).await?, &before);
    jaeger.server.kill()?;
    for request in requests(&after, 50) {
        stage.pintle.pipeline().offer(request)?;
    }
    eventually("a failed export", async || {
        Ok((stage.pintle.pipeline().status().sinks[0].retries > 0).then_some(()))
    })
    .await?;
    jaeger.server.restart().await?;
    let status = stage.settled().await?;
    assert_eq!(status.sinks[0].delivered, status.received);
    compare_all(&jaeger, &after).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_falls_silent_is_noticed_and_its_spans_are_sent_again() -> Result<()> {
    let mut jaeger = Jaeger::start().await?;
    let sink = Sink::new("otel", "otlp", jaeger.otlp_grpc()).set("timeout_ms = 500");
    let stage = Stage::new(&[sink], "batch_delay = \"10ms\"").await?;
    assert_all_delivered(&stage.report(&traces(3, 30)).await?, &traces(3, 30));
    jaeger.server.pause()?;
    let more = traces(10, 31);
    for request in requests(&more, 50) {
        stage.pintle.pipeline().offer(request)?;
    }
    let error = eventually("a failed export", async || {
        Ok(stage.pintle.pipeline().status().sinks[0].last_error.clone())
    });
    let error = error.await?;
    assert!(error.contains("no answer within") || error.contains("timeout"), "{error}");
    jaeger.server.resume()?;
    let status = stage.settled().await?;
    assert_eq!(status.sinks[0].delivered, status.received);
    Ok(())
}
