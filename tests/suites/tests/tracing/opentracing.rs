//! Programs written for OpenTracing, with tracers of others that speak Zipkin's JSON.

use anyhow::{Context, Result};
use pintle_test_services::{Artifact, Jaeger};
use serde_json::json;
use tokio::process::Command;

use crate::{
    jaeger::{Shown, read_back},
    programs::{run, source},
    receive::Host,
};

/// Runs a program in which a shop calls a bank, which declines, and compares what Jaeger shows of it.
async fn payment_is_shown(program: &mut Command) -> Result<()> {
    let jaeger = Jaeger::start().await?;
    let host = Host::before(&jaeger).await?;
    let trace_id = run(program.arg(format!("http://{}/api/v2/spans", host.zipkin))).await?;
    let shown = read_back(&jaeger, &trace_id, 3).await?;
    let named = |service: &str, name: &str| {
        let found = shown.values().find(|shown| {
            shown.span["operationName"] == name && shown.process["serviceName"] == service
        });
        found.with_context(|| format!("{name} of {service}: {shown:?}"))
    };
    let (order, call, pay) =
        (named("shop", "order")?, named("shop", "call bank")?, named("bank", "pay")?);
    let kind = |shown: &Shown| Shown::tags(&shown.span)["span.kind"].clone();
    assert_eq!(
        (kind(order), kind(call), kind(pay)),
        (json!("server"), json!("client"), json!("server"))
    );
    assert!(order.references("CHILD_OF").is_empty());
    for (child, parent) in [(call, order), (pay, call)] {
        assert_eq!(child.references("CHILD_OF")[0]["spanID"], parent.span["spanID"]);
    }
    assert_eq!(Shown::tags(&call.span)["peer.service"], "bank");
    let tags = Shown::tags(&pay.span);
    assert_eq!((tags["amount"], tags["error"]), (&json!("7"), &json!(true)));
    let paid = order.span["logs"][0]["fields"].to_string();
    assert!(paid.contains("paid"), "{paid}");
    assert!(host.pintle.pipeline().status().rejected.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_in_java_is_shown_as_it_went() -> Result<()> {
    let jars = Artifact::OpenTracingJava.fetch_in_background().await?.join("lib/*");
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(jars);
    payment_is_shown(java.arg(source("Shop.java"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_in_go_is_shown_as_it_went() -> Result<()> {
    let program = Artifact::TracingGo.fetch_in_background().await?.join("bin/opentracing");
    payment_is_shown(&mut Command::new(program)).await
}
