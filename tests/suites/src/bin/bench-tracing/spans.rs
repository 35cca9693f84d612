//! Spans as the SDK makes them.

use std::time::SystemTime;

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanLinks},
};

/// Spans of a batch: what SDKs export at a time.
pub(crate) const BATCH: u64 = 512;

pub(crate) fn resource() -> Resource {
    Resource::builder().with_service_name("shop").build()
}

pub(crate) fn attributes() -> Vec<KeyValue> {
    (0..10).map(|index| KeyValue::new(format!("attribute.{index}"), "a value")).collect()
}

/// A batch as the SDK hands it over.
pub(crate) fn batch(number: u64) -> Vec<SpanData> {
    let time = SystemTime::now();
    let first = number * BATCH;
    let span = |number: u64| {
        let trace_id = TraceId::from_bytes(u128::from(number / 10 + 1).to_be_bytes());
        let span_id = SpanId::from_bytes((number + 1).to_be_bytes());
        let sampled = TraceFlags::SAMPLED;
        SpanData {
            span_context: SpanContext::new(trace_id, span_id, sampled, false, TraceState::NONE),
            parent_span_id: SpanId::from_bytes((number / 10 * 10 + 1).to_be_bytes()),
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: "GET /orders".into(),
            start_time: time,
            end_time: time,
            attributes: attributes(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("bench").build(),
        }
    };
    (first..first + BATCH).map(span).collect()
}
