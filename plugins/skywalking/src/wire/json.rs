//! The same messages in JSON, for SkyWalking's HTTP receivers.

use super::messages::RefType;
use super::messages::{
    InstancePing, InstanceProperties, KeyStringValuePair, SegmentObject, SegmentReference,
    SpanLayer, SpanObject, SpanType,
};
use serde_json::{Value, json};

/// The body of `POST /v3/segments`.
pub fn segments(segments: &[SegmentObject]) -> Value {
    segments.iter().map(segment).collect()
}

/// The body of `POST /v3/management/reportProperties`.
pub fn properties(of: &InstanceProperties) -> Value {
    json!({
        "service": of.service,
        "serviceInstance": of.service_instance,
        "properties": pairs(&of.properties),
        "layer": of.layer,
    })
}

/// The body of `POST /v3/management/keepAlive`.
pub fn ping(of: &InstancePing) -> Value {
    json!({
        "service": of.service,
        "serviceInstance": of.service_instance,
        "layer": of.layer,
    })
}

fn segment(of: &SegmentObject) -> Value {
    json!({
        "traceId": of.trace_id,
        "traceSegmentId": of.trace_segment_id,
        "spans": of.spans.iter().map(span).collect::<Value>(),
        "service": of.service,
        "serviceInstance": of.service_instance,
        "isSizeLimited": of.is_size_limited,
    })
}

fn span(of: &SpanObject) -> Value {
    let logs = of.logs.iter().map(|log| json!({ "time": log.time, "data": pairs(&log.data) }));
    json!({
        "spanId": of.span_id,
        "parentSpanId": of.parent_span_id,
        "startTime": of.start_time,
        "endTime": of.end_time,
        "refs": of.refs.iter().map(reference).collect::<Value>(),
        "operationName": of.operation_name,
        "peer": of.peer,
        "spanType": match of.span_type() {
            SpanType::Entry => "Entry",
            SpanType::Exit => "Exit",
            SpanType::Local => "Local",
        },
        "spanLayer": match of.span_layer() {
            SpanLayer::Unknown => "Unknown",
            SpanLayer::Database => "Database",
            SpanLayer::RpcFramework => "RPCFramework",
            SpanLayer::Http => "Http",
            SpanLayer::Mq => "MQ",
            SpanLayer::Cache => "Cache",
            SpanLayer::Faas => "FAAS",
        },
        "componentId": of.component_id,
        "isError": of.is_error,
        "tags": pairs(&of.tags),
        "logs": logs.collect::<Value>(),
        "skipAnalysis": of.skip_analysis,
    })
}

fn reference(of: &SegmentReference) -> Value {
    json!({
        "refType": match of.ref_type() {
            RefType::CrossProcess => "CrossProcess",
            RefType::CrossThread => "CrossThread",
        },
        "traceId": of.trace_id,
        "parentTraceSegmentId": of.parent_trace_segment_id,
        "parentSpanId": of.parent_span_id,
        "parentService": of.parent_service,
        "parentServiceInstance": of.parent_service_instance,
        "parentEndpoint": of.parent_endpoint,
        "networkAddressUsedAtPeer": of.network_address_used_at_peer,
    })
}

fn pairs(of: &[KeyStringValuePair]) -> Value {
    of.iter().map(|pair| json!({ "key": pair.key, "value": pair.value })).collect()
}
