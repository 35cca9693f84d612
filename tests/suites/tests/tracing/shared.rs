//! Spans that share much: what OTLP says once for all of a resource, others say for each.

use std::net::SocketAddr;

use anyhow::Result;
use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, routing::post};
use bytes::Bytes;
use pintle_otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span,
};
use prost::Message;
use tokio::net::TcpListener;

use crate::stage::{Sink, Stage};

/// Together 120 MB if each span had what they share: twice what a plugin may have.
const SPANS: u64 = 400;
const SHARED_BYTES: usize = 300_000;

/// A server that takes everything.
async fn server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .fallback(post(async |_: Bytes| StatusCode::ACCEPTED))
        .layer(DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Spans of as many traces, each in a scope of its own.
fn request() -> Bytes {
    let long = "x".repeat(SHARED_BYTES);
    let scope_spans = (1..=SPANS).map(|number| ScopeSpans {
        scope: Some(InstrumentationScope { name: number.to_string(), ..Default::default() }),
        spans: vec![Span {
            trace_id: [[0; 8], number.to_be_bytes()].concat(),
            span_id: number.to_be_bytes().to_vec(),
            ..Span::default()
        }],
        schema_url: String::new(),
    });
    let attributes = vec![KeyValue::text("service.name", long.as_str())];
    let resource_spans = vec![ResourceSpans {
        resource: Some(Resource { attributes, dropped_attributes_count: 0 }),
        scope_spans: scope_spans.collect(),
        schema_url: long,
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_share_much_exhaust_no_plugin() -> Result<()> {
    let address = server().await?;
    let sinks = [
        Sink::new("otlp", "otlp", address).set("protocol = \"http/protobuf\""),
        Sink::new("skywalking", "skywalking", address).set("protocol = \"http\""),
        Sink::new("zipkin", "zipkin", address),
    ];
    let stage = Stage::new(&sinks, "").await?;
    stage.pintle.pipeline().offer(request())?;
    let status = stage.settled().await?;
    for sink in &status.sinks {
        assert_eq!((sink.delivered, sink.retries), (SPANS, 0), "{sink:?}");
    }
    for backend in stage.pintle.backends() {
        assert_eq!(backend.restarts, 0, "{backend:?}");
    }
    Ok(())
}
