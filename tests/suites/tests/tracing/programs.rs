//! Programs of others that report spans: nobody here wrote what they report with.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use pintle_otlp::{Span, SpanKind, StatusCode};
use pintle_test_services::Artifact;
use tokio::process::Command;

use crate::receive::Host;

/// Runs a program to its end and gives the last line of what it prints.
async fn run(command: &mut Command) -> Result<String> {
    let limit = std::time::Duration::from_secs(60);
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await??;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{printed}{errors}");
    Ok(printed.lines().last().context(errors.into_owned())?.trim().to_owned())
}

fn source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tracing/programs").join(name)
}

/// Spans by service and name.
async fn arrived(host: &Host, trace_id: &str) -> Result<BTreeMap<(String, String), Span>> {
    let mut spans = BTreeMap::new();
    for of in host.trace(trace_id).await? {
        let service = of.resource.unwrap_or_default().service_name().to_owned();
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.insert((service.clone(), span.name.clone()), span);
        }
    }
    Ok(spans)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_program_written_for_opentracing_is_understood() -> Result<()> {
    let jars = Artifact::OpenTracingJava.fetch_in_background().await?.join("lib");
    let host = Host::start("").await?;
    let mut java = Command::new("java");
    java.arg("-cp").arg(jars.join("*")).arg(source("Shop.java"));
    let trace_id = run(java.arg(format!("http://{}/api/v2/spans", host.zipkin))).await?;
    let spans = arrived(&host, &trace_id).await?;
    let span = |service: &str, name: &str| {
        spans.get(&(service.to_owned(), name.to_owned())).with_context(|| format!("{spans:?}"))
    };
    let (order, call, pay) =
        (span("shop", "order")?, span("shop", "call bank")?, span("bank", "pay")?);
    assert_eq!(spans.len(), 3);
    assert_eq!(order.kind(), SpanKind::Server);
    assert!(order.parent_span_id.is_empty());
    assert_eq!((call.kind(), &call.parent_span_id), (SpanKind::Client, &order.span_id));
    assert_eq!((pay.kind(), &pay.parent_span_id), (SpanKind::Server, &call.span_id));
    assert_eq!(pay.status.as_ref().map(pintle_otlp::Status::code), Some(StatusCode::Error));
    assert!(pay.attributes.iter().any(|it| it.key == "amount" && it.as_text() == Some("7")));
    assert_eq!(order.events[0].name, "paid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_program_needs_only_the_standard_variables() -> Result<()> {
    let packages = Artifact::OpenTelemetryPython.fetch_in_background().await?.join("lib");
    let host = Host::start("").await?;
    let mut python = Command::new("python3");
    python
        .arg(source("shop.py"))
        .env("PYTHONPATH", packages)
        .env("OTEL_SERVICE_NAME", "shop")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", host.http))
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let trace_id = run(&mut python).await?;
    let spans = arrived(&host, &trace_id).await?;
    assert_eq!(spans.len(), 21);
    let order = &spans[&("shop".to_owned(), "order".to_owned())];
    let step = &spans[&("shop".to_owned(), "step 7".to_owned())];
    assert_eq!(step.parent_span_id, order.span_id);
    assert_eq!(step.attributes[0], pintle_otlp::KeyValue::text("é", "日本"));
    assert_eq!(step.events[0].name, "done");
    assert!(host.pintle.pipeline().status().rejected.is_empty());
    Ok(())
}
