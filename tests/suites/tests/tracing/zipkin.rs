//! Zipkin: what it shows is what was reported.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use pintle_otlp::{SpanKind, text::hex, text::value_text};
use pintle_test_services::Zipkin;
use pintle_test_suites::eventually;
use serde_json::Value;

use crate::{
    generate::{Reported, Trace, traces},
    net::get_json,
    stage::{Sink, Stage, assert_all_delivered},
};

async fn read_back(zipkin: &Zipkin, trace: &Trace) -> Result<BTreeMap<String, Value>> {
    let path = format!("/api/v2/trace/{}", trace.id);
    let spans = eventually(&path, async || {
        let found = get_json(zipkin.address(), &path).await?;
        let spans = found.and_then(|found| found.as_array().cloned()).unwrap_or_default();
        Ok((spans.len() == trace.spans.len()).then_some(spans))
    });
    let spans = spans.await?.into_iter();
    Ok(spans.map(|span| (span["id"].as_str().unwrap().to_owned(), span)).collect())
}

fn compare(Reported { service, span }: &Reported, shown: &Value) {
    assert_eq!(shown["traceId"], hex(&span.trace_id));
    let parent = shown["parentId"].as_str().unwrap_or_default();
    assert_eq!(parent, hex(&span.parent_span_id));
    // Zipkin shows names in small letters.
    assert_eq!(shown["name"], span.name.to_lowercase());
    assert_eq!(shown["localEndpoint"]["serviceName"], *service);
    let kind = match span.kind() {
        SpanKind::Server => "SERVER",
        SpanKind::Client => "CLIENT",
        _ => "",
    };
    assert_eq!(shown["kind"].as_str().unwrap_or_default(), kind);
    assert_eq!(shown["timestamp"], span.start_time_unix_nano / 1_000);
    let duration = (span.end_time_unix_nano - span.start_time_unix_nano).div_ceil(1_000);
    assert_eq!(shown["duration"], duration);
    for attribute in &span.attributes {
        let value = value_text(attribute.value.as_ref());
        assert_eq!(shown["tags"][&attribute.key], value, "{}", attribute.key);
    }
    let annotations = shown["annotations"].as_array().map(Vec::len).unwrap_or_default();
    assert_eq!(annotations, span.events.len());
    for event in &span.events {
        let time = event.time_unix_nano / 1_000;
        let found = shown["annotations"].as_array().unwrap().iter();
        let told: Vec<_> = found.filter(|annotation| annotation["timestamp"] == time).collect();
        assert!(told[0]["value"].as_str().unwrap().contains(&event.name), "{told:?}");
    }
    for (index, link) in span.links.iter().enumerate() {
        let text = shown["tags"][format!("otlp.link.{index}")].as_str().unwrap();
        assert!(text.contains(&hex(&link.span_id)), "{text}");
    }
    let error = shown["tags"].get("error").is_some();
    assert_eq!(error, span.status.as_ref().is_some_and(|status| status.code == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkin_shows_every_span_as_it_was_reported() -> Result<()> {
    let zipkin = Zipkin::start().await?;
    let stage = Stage::new(&[Sink::new("zipkin", "zipkin", zipkin.address())], "").await?;
    let traces = traces(1_000, 1);
    let status = stage.report(&traces).await?;
    assert_all_delivered(&status, &traces);
    for trace in &traces {
        let shown = read_back(&zipkin, trace).await?;
        for reported in &trace.spans {
            let id = hex(&reported.span.span_id);
            compare(reported, shown.get(&id).with_context(|| format!("span {id}"))?);
        }
    }
    // And who calls whom.
    let now = traces[0].spans[0].span.end_time_unix_nano / 1_000_000 + 60_000;
    let path = format!("/api/v2/dependencies?endTs={now}&lookback=86400000");
    let links = get_json(zipkin.address(), &path).await?.context("dependencies")?;
    let calls = |parent: &str, child: &str| {
        let mut links = links.as_array().unwrap().iter();
        links.any(|link| link["parent"] == parent && link["child"] == child)
    };
    assert!(calls("web", "shop") && calls("shop", "bank"), "{links}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_wait_for_a_zipkin_that_is_away_and_none_is_lost() -> Result<()> {
    let mut zipkin = Zipkin::start().await?;
    let sink = Sink::new("zipkin", "zipkin", zipkin.address());
    let stage = Stage::new(&[sink], "batch_delay = \"20ms\"").await?;
    zipkin.server.kill()?;
    let traces = traces(20, 2);
    for request in crate::generate::requests(&traces, 50) {
        stage.pintle.pipeline().offer(request)?;
    }
    let failing = eventually("a failed export", async || {
        let status = stage.pintle.pipeline().status();
        Ok(status.sinks[0].last_error.clone().filter(|_| status.sinks[0].retries > 0))
    });
    let error = failing.await?;
    assert!(error.contains("connection refused"), "{error}");
    zipkin.server.restart().await?;
    let status = stage.settled().await?;
    assert_all_delivered(&status, &traces);
    for trace in &traces {
        read_back(&zipkin, trace).await?;
    }
    Ok(())
}
