//! Requests in which many spans share much.

use pintle_otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span,
};
use prost::Message;

/// Bytes that all spans share, in each place where they can.
const SHARED_BYTES: usize = 100_000;

/// A request of one resource, with an attribute of this name that has a very long value, and so many
/// scopes of one span each, every one a trace of its own.
pub(crate) fn request(attribute: &str, scopes: u64) -> Vec<u8> {
    let long = "x".repeat(SHARED_BYTES);
    let scope_spans = (1..=scopes).map(|number| ScopeSpans {
        scope: Some(InstrumentationScope { name: number.to_string(), ..Default::default() }),
        spans: vec![Span {
            trace_id: [[0; 8], number.to_be_bytes()].concat(),
            span_id: number.to_be_bytes().to_vec(),
            ..Span::default()
        }],
        schema_url: String::new(),
    });
    let attributes = vec![KeyValue::text(attribute, long.as_str())];
    let resource_spans = vec![ResourceSpans {
        resource: Some(Resource { attributes, dropped_attributes_count: 0 }),
        scope_spans: scope_spans.collect(),
        schema_url: long,
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}
