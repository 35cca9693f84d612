//! What `/metrics` shows, and what the dashboard makes of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use http::Method;
use pintle_otlp::{ExportTraceServiceRequest, ResourceSpans, ScopeSpans, Span};
use prost::Message;
use serde_json::Value;

use crate::served::{Served, request};

async fn metrics(served: &Served) -> Result<String> {
    Ok(String::from_utf8(served.get("/metrics").await?.body.to_vec())?)
}

/// The number of calls of each kind that came to each outcome.
fn counts(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("pintle_call_seconds_count"));
    lines.filter_map(|line| line.split_once(' ')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_by_capability_backend_operation_and_outcome() -> Result<()> {
    let served = Served::new().await?;
    let keys = "/v1/backends/main/config/keys";
    let stored = served.put(&format!("{keys}/a"), "1").await?;
    assert!(stored.status.is_success(), "{}", stored.status);
    for _ in 0..3 {
        served.get(&format!("{keys}/a")).await?;
    }
    served.get(&format!("{keys}/none")).await?;
    served.get("/v1/backends/main/registry/services").await?;
    served.get("/v1/backends/main/locks").await?;
    served.pintle.shutdown().await;
    served.get(&format!("{keys}/a")).await?;
    let text = metrics(&served).await?;
    let counts = counts(&text);
    for (capability, operation, outcome, count) in [
        ("config", "put", "ok", "1"),
        ("config", "get", "ok", "4"),
        ("config", "get", "shutting-down", "1"),
        ("registry", "services", "ok", "1"),
        ("lock", "list-locks", "ok", "1"),
    ] {
        let labels = format!(
            r#"{{capability="{capability}",backend="main",operation="{operation}",outcome="{outcome}"}}"#
        );
        assert_eq!(counts.get(labels.as_str()), Some(&count), "{labels} {counts:?}");
    }
    assert!(!text.contains("lifecycle") && !text.contains("poll"), "{text}");
    Ok(())
}

/// A host of which everything that is counted was used.
async fn used() -> Result<Served> {
    let served = Served::whole().await?;
    served.put("/v1/backends/local/config/keys/a", "1").await?;
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![1; 8],
        name: "one".into(),
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    let spans = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    served.pintle.pipeline().offer(spans.into())?;
    served.pintle.pipeline().flush().await;
    let mut foreign = request(Method::GET, "/v1/backends", "")?;
    foreign.headers_mut().insert("host", "evil.example".parse()?);
    assert!(served.send(foreign).await?.status.is_client_error());
    Ok(served)
}

/// The labels of each series, by its name.
fn series(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut series: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap_or((line, ""));
        let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
        series.entry(name).or_default().extend(names(labels));
    }
    series
}

/// The names in a list of labels or matchers.
fn names(labels: &str) -> impl Iterator<Item = &str> {
    labels.split(',').filter_map(|label| label.split(['=', '!']).next()).filter(|it| !it.is_empty())
}

/// Metrics that an expression reads, with the labels by which it chooses and groups.
fn reads(expression: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let grouping = expression.split_once("by (").and_then(|(_, rest)| rest.split_once(')'));
    let grouped = grouping.map_or("", |(labels, _)| labels);
    let pieces = expression.match_indices("pintle_").map(|(at, _)| expression.split_at(at).1);
    let metrics = pieces.map(|piece| {
        let (name, rest) = piece.split_once('{').unwrap_or((piece, ""));
        let chosen = rest.split_once('}').map_or("", |(labels, _)| labels);
        // Values may hold commas nowhere here, and Prometheus adds the instance itself.
        let labels = names(chosen).chain(grouped.split(", ")).filter(|it| *it != "instance");
        (name, labels.filter(|it| !it.is_empty()).collect())
    });
    metrics.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_reads_what_there_is() -> Result<()> {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../../../docs/grafana-dashboard.json"))?;
    let served = used().await?;
    let text = metrics(&served).await?;
    let series = series(&text);
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut read = BTreeSet::new();
    for expression in targets.filter_map(|target| target["expr"].as_str()) {
        let metrics = reads(expression);
        assert!(!metrics.is_empty(), "{expression}");
        for (name, labels) in metrics {
            let there = series.get(name).with_context(|| format!("{expression}: no {name}"))?;
            assert!(labels.is_subset(there), "{expression}: {name} has {there:?}");
            read.insert(name.trim_end_matches("_bucket").trim_end_matches("_count"));
        }
    }
    // And nothing is left out: each metric has its place on it.
    let documented = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for metric in documented.filter_map(|line| line.split(' ').next()) {
        let is_read = read.iter().any(|name| name.trim_end_matches("_total") == metric);
        assert!(is_read || metric == "pintle_build", "the dashboard shows no {metric}");
    }
    Ok(())
}

#[test]
fn metrics_and_labels_of_an_expression_are_found() {
    let expression = r#"sum by (le, what) (rate(pintle_a_bucket{instance=~"$i",code!="x"}[5m]))"#;
    let labels = BTreeSet::from(["code", "le", "what"]);
    assert_eq!(reads(expression), [("pintle_a_bucket", labels)]);
}
