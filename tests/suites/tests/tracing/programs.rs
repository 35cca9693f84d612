//! Programs of others that report spans, or their SDKs: nobody here wrote what they report with.
//!
//! Where spans go is told by the standard environment variables alone, and what Jaeger shows of them
//! behind a host is what the programs did.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use pintle_test_services::{Artifact, Jaeger};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    jaeger::{Shown, read_back},
    receive::Host,
};

/// Runs a program to its end and gives the last line of what it prints.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let limit = std::time::Duration::from_secs(60);
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await??;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{printed}{errors}");
    Ok(printed.lines().last().context(errors.into_owned())?.trim().to_owned())
}

pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tracing/programs").join(name)
}

/// Steps of an order, each a span.
const STEPS: usize = 20;

/// The SDKs that give each span a clock of its own: the time of day when it begins, and what a counter
/// says that is read some time after, so that one span may end after another that was open for longer.
const SDKS_OF_MANY_CLOCKS: [&str; 2] = ["go", "nodejs"];

/// Protocol and compression, as the environment names them.
type Way = (&'static str, &'static str);

/// Runs a program that makes an order with the SDK of its language, over each way, and compares what
/// Jaeger shows of it.
async fn order_is_shown(language: &str, ways: &[Way], program: impl Fn() -> Command) -> Result<()> {
    let jaeger = Jaeger::start().await?;
    let host = Host::before(&jaeger).await?;
    for (protocol, compression) in ways {
        let endpoint = if *protocol == "grpc" { host.grpc } else { host.http };
        let mut program = program();
        // What whoever runs the tests told SDKs is not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                program.env_remove(name);
            }
        }
        program
            .env("OTEL_SERVICE_NAME", "shop")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{endpoint}"))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
            .env("OTEL_TRACES_EXPORTER", "otlp")
            .env("OTEL_METRICS_EXPORTER", "none")
            .env("OTEL_LOGS_EXPORTER", "none");
        let way = || format!("{language}, {protocol}, {compression}");
        let trace_id = run(&mut program).await.with_context(way)?;
        let shown = read_back(&jaeger, &trace_id, STEPS + 1).await.with_context(way)?;
        compare(language, &shown).with_context(way)?;
    }
    let status = host.pintle.pipeline().status();
    ensure!(status.rejected.is_empty() && status.turned_away == 0, "{status:?}");
    Ok(())
}

fn compare(language: &str, shown: &BTreeMap<String, Shown>) -> Result<()> {
    let named = |name: &str| {
        let found = shown.values().find(|shown| shown.span["operationName"] == name);
        found.with_context(|| format!("{name}: {shown:?}"))
    };
    for Shown { process, .. } in shown.values() {
        let tags = Shown::tags(process);
        assert_eq!(process["serviceName"], "shop");
        assert_eq!(tags["telemetry.sdk.language"], language);
        assert_eq!(tags["deployment.environment.name"], "test");
    }
    let order = named("order")?;
    let tags = Shown::tags(&order.span);
    assert_eq!(tags["span.kind"], "server");
    assert_eq!((tags["error"], tags["otel.status_description"]), (&json!(true), &json!("failed")));
    assert!(order.references("CHILD_OF").is_empty());
    let links = order.references("FOLLOWS_FROM");
    assert_eq!((links.len(), &links[0]["spanID"]), (1, &json!("0000000000000009")));
    assert_eq!(event(order, "exception")?["exception.message"], json!("sold out"));
    let (begin, end) = times(order);
    let mut busy = 0;
    for number in 0..STEPS {
        let step = named(&format!("step {number}"))?;
        let parents = step.references("CHILD_OF");
        assert_eq!((parents.len(), &parents[0]["spanID"]), (1, &order.span["spanID"]));
        let tags = Shown::tags(&step.span);
        assert_eq!((tags["é"], tags["n"]), (&json!("日本"), &json!(number)));
        assert!(!tags.contains_key("error"));
        assert_eq!(event(step, "done")?["n"], json!(number));
        let (begun, ended) = times(step);
        assert!(begin <= begun && begun <= ended, "{step:?} in {order:?}");
        assert!(ended <= end || SDKS_OF_MANY_CLOCKS.contains(&language), "{step:?} in {order:?}");
        busy += ended - begun;
    }
    // Rounded to a microsecond each.
    assert!(busy <= end - begin + STEPS as u64, "one step after the other: {busy} µs in {order:?}");
    Ok(())
}

/// Begin and end in microseconds.
fn times(shown: &Shown) -> (u64, u64) {
    let begin = shown.span["startTime"].as_u64().unwrap();
    (begin, begin + shown.span["duration"].as_u64().unwrap())
}

/// The attributes of the only event of a span.
fn event(shown: &Shown, name: &str) -> Result<BTreeMap<String, Value>> {
    let logs = shown.span["logs"].as_array().context("logs")?;
    ensure!(logs.len() == 1, "{logs:?}");
    let fields = logs[0]["fields"].as_array().context("fields")?.iter();
    let fields: BTreeMap<_, _> = fields
        .map(|field| (field["key"].as_str().unwrap().to_owned(), field["value"].clone()))
        .collect();
    ensure!(fields["event"] == name, "{fields:?}");
    Ok(fields)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_python_is_shown_as_it_went() -> Result<()> {
    let packages = Artifact::OpenTelemetryPython.fetch_in_background().await?.join("lib");
    order_is_shown("python", &[("http/protobuf", "gzip"), ("http/protobuf", "none")], || {
        let mut python = Command::new("python3");
        python.arg(source("shop.py")).env("PYTHONPATH", &packages);
        python
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_go_is_shown_as_it_went() -> Result<()> {
    let program = Artifact::TracingGo.fetch_in_background().await?.join("bin/opentelemetry");
    let ways = [("grpc", "none"), ("grpc", "gzip"), ("http/protobuf", "gzip")];
    order_is_shown("go", &ways, || Command::new(&program)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_java_is_shown_as_it_went() -> Result<()> {
    let jars = Artifact::OpenTelemetryJava.fetch_in_background().await?.join("lib/*");
    order_is_shown("java", &[("grpc", "gzip"), ("http/protobuf", "none")], || {
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(&jars).arg(source("Order.java"));
        java
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_javascript_is_shown_as_it_went() -> Result<()> {
    let modules = Artifact::OpenTelemetryNode.fetch_in_background().await?.join("node_modules");
    let ways = [("grpc", "gzip"), ("http/protobuf", "none"), ("http/json", "gzip")];
    order_is_shown("nodejs", &ways, || {
        let mut node = Command::new("node");
        node.arg(source("shop.cjs")).env("NODE_PATH", &modules);
        node
    })
    .await
}
