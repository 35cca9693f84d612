//! Requests in which many spans share much.

use pintle_otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span,
};
use prost::Message;

/// Scopes, each with a span of a trace of its own.
const SCOPES: u64 = 1_000;

/// What all spans share, once.
pub(crate) fn long() -> String {
    "x".repeat(100_000)
}

/// A request of one resource with this schema, and with an attribute of this name that has a very long
/// value, if it has a name.
pub(crate) fn request(attribute: &str, schema: &str) -> Vec<u8> {
    let scope_spans = (1..=SCOPES).map(|number| ScopeSpans {
        scope: Some(InstrumentationScope { name: number.to_string(), ..Default::default() }),
        spans: vec![Span {
            trace_id: [[0; 8], number.to_be_bytes()].concat(),
            span_id: number.to_be_bytes().to_vec(),
            ..Span::default()
        }],
        schema_url: String::new(),
    });
    let attributes = (!attribute.is_empty()).then(|| KeyValue::text(attribute, long()));
    let attributes = attributes.into_iter().collect();
    let resource_spans = vec![ResourceSpans {
        resource: Some(Resource { attributes, dropped_attributes_count: 0 }),
        scope_spans: scope_spans.collect(),
        schema_url: schema.to_owned(),
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}
