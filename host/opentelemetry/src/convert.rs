//! The SDK's spans as OTLP's.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use opentelemetry::{
    Array, InstrumentationScope, Key, KeyValue, SpanId, TraceId, Value,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use pintle_otlp::{
    self as otlp, Origin, Piece,
    parts::{Defect, Parts},
    write,
};

/// Room for a span with some attributes; more is made where it is needed.
const SPAN_BYTES_USUAL: usize = 512;

/// Where the spans come from: a `ResourceSpans` without any.
pub(crate) fn resource(resource: &Resource) -> Bytes {
    let mut known: Vec<_> = resource.iter().collect();
    known.sort_by(|one, other| one.0.cmp(other.0));
    let mut out = Vec::new();
    write::message(&mut out, 1, |out| {
        for (key, value) in known {
            key_value(out, 1, key, value);
        }
    });
    text(&mut out, 3, resource.schema_url().unwrap_or_default());
    out.into()
}

/// The SDK's spans, those of one scope after the other; `resource` is what
/// [`resource`] made, in bytes. They are written at once, without building each as a message first.
pub(crate) fn parts(batch: &[SpanData], resource: &Bytes) -> Parts {
    let mut scopes: Vec<(&InstrumentationScope, Vec<&SpanData>)> = Vec::new();
    for data in batch {
        let scope = &data.instrumentation_scope;
        // Mostly the last one.
        match scopes.iter_mut().rev().find(|(known, _)| *known == scope) {
            Some((_, spans)) => spans.push(data),
            None => scopes.push((scope, vec![data])),
        }
    }
    let mut out = Vec::with_capacity(batch.len() * SPAN_BYTES_USUAL);
    let mut parts = Parts::default();
    let mut made = Vec::with_capacity(batch.len());
    for (scope, spans) in scopes {
        let origin = Arc::new(Origin { resource: resource.clone(), scope: scope_bytes(scope) });
        for data in spans {
            if let Some(defect) = defect(data) {
                parts.defects.push(defect);
                continue;
            }
            span(&mut out, data);
            made.push((Arc::clone(&origin), out.len(), data));
        }
    }
    let mut bytes = Bytes::from(out);
    let mut begin = 0;
    parts.pieces.extend(made.into_iter().map(|(origin, end, data)| {
        let span = bytes.split_to(end - begin);
        begin = end;
        let trace_id = data.span_context.trace_id().to_bytes();
        Piece { origin, bytes: span, trace_id, flags: span_flags(data) }
    }));
    parts
}

/// The SDK makes no such span, and no receiver takes one.
fn defect(data: &SpanData) -> Option<Defect> {
    let context = &data.span_context;
    if context.trace_id() == TraceId::INVALID {
        return Some(Defect::TraceId);
    }
    (context.span_id() == SpanId::INVALID).then_some(Defect::SpanId)
}

/// A `ScopeSpans` without spans.
fn scope_bytes(scope: &InstrumentationScope) -> Bytes {
    let mut out = Vec::new();
    write::message(&mut out, 1, |out| {
        text(out, 1, scope.name());
        text(out, 2, scope.version().unwrap_or_default());
        attributes(out, 3, scope.attributes());
    });
    text(&mut out, 3, scope.schema_url().unwrap_or_default());
    out.into()
}

fn span(out: &mut Vec<u8>, data: &SpanData) {
    let context = &data.span_context;
    write::bytes(out, 1, &context.trace_id().to_bytes());
    write::bytes(out, 2, &context.span_id().to_bytes());
    trace_state(out, 3, context);
    if data.parent_span_id != SpanId::INVALID {
        write::bytes(out, 4, &data.parent_span_id.to_bytes());
    }
    text(out, 5, &data.name);
    write::varint(out, 6, kind(&data.span_kind) as u64);
    write::fixed64(out, 7, nanos(data.start_time));
    write::fixed64(out, 8, nanos(data.end_time));
    attributes(out, 9, &data.attributes);
    count(out, 10, data.dropped_attributes_count);
    for event in data.events.iter() {
        write::message(out, 11, |out| {
            write::fixed64(out, 1, nanos(event.timestamp));
            text(out, 2, &event.name);
            attributes(out, 3, &event.attributes);
            count(out, 4, event.dropped_attributes_count);
        });
    }
    count(out, 12, data.events.dropped_count);
    for link in data.links.iter() {
        write::message(out, 13, |out| {
            write::bytes(out, 1, &link.span_context.trace_id().to_bytes());
            write::bytes(out, 2, &link.span_context.span_id().to_bytes());
            trace_state(out, 3, &link.span_context);
            attributes(out, 4, &link.attributes);
            count(out, 5, link.dropped_attributes_count);
            write::fixed32(out, 6, flags(&link.span_context, link.span_context.is_remote()));
        });
    }
    count(out, 14, data.links.dropped_count);
    status(out, 15, &data.status);
    write::fixed32(out, 16, span_flags(data));
}

fn span_flags(data: &SpanData) -> u32 {
    flags(&data.span_context, data.parent_span_is_remote)
}

/// Flags of a context, and whether what it hangs on or links to came from another process.
fn flags(context: &SpanContext, is_remote: bool) -> u32 {
    let remote = if is_remote { otlp::flags::IS_REMOTE } else { 0 };
    u32::from(context.trace_flags().to_u8()) | otlp::flags::HAS_IS_REMOTE | remote
}

fn kind(kind: &SpanKind) -> otlp::SpanKind {
    match kind {
        SpanKind::Client => otlp::SpanKind::Client,
        SpanKind::Server => otlp::SpanKind::Server,
        SpanKind::Producer => otlp::SpanKind::Producer,
        SpanKind::Consumer => otlp::SpanKind::Consumer,
        SpanKind::Internal => otlp::SpanKind::Internal,
    }
}

fn status(out: &mut Vec<u8>, number: u32, status: &Status) {
    let (code, description) = match status {
        Status::Unset => return,
        Status::Ok => (otlp::StatusCode::Ok, ""),
        Status::Error { description } => (otlp::StatusCode::Error, &**description),
    };
    write::message(out, number, |out| {
        text(out, 2, description);
        write::varint(out, 3, code as u64);
    });
}

fn trace_state(out: &mut Vec<u8>, number: u32, context: &SpanContext) {
    let state = context.trace_state();
    if *state != TraceState::NONE {
        text(out, number, &state.header());
    }
}

fn attributes<'a>(
    out: &mut Vec<u8>,
    number: u32,
    attributes: impl IntoIterator<Item = &'a KeyValue>,
) {
    for KeyValue { key, value, .. } in attributes {
        key_value(out, number, key, value);
    }
}

fn key_value(out: &mut Vec<u8>, number: u32, key: &Key, value: &Value) {
    write::message(out, number, |out| {
        text(out, 1, key.as_str());
        any_value(out, 2, value);
    });
}

fn any_value(out: &mut Vec<u8>, number: u32, value: &Value) {
    write::message(out, number, |out| match value {
        Value::Bool(value) => bool(out, *value),
        Value::I64(value) => int(out, *value),
        Value::F64(value) => double(out, *value),
        Value::String(value) => write::text(out, 1, value.as_str()),
        Value::Array(Array::Bool(values)) => list(out, values, |out, value| bool(out, *value)),
        Value::Array(Array::I64(values)) => list(out, values, |out, value| int(out, *value)),
        Value::Array(Array::F64(values)) => list(out, values, |out, value| double(out, *value)),
        Value::Array(Array::String(values)) => {
            list(out, values, |out, value| write::text(out, 1, value.as_str()));
        }
        // A kind that a later version adds still says what it is.
        other => write::text(out, 1, &other.to_string()),
    });
}

/// An `AnyValue` that is an array of others.
fn list<T>(out: &mut Vec<u8>, values: &[T], value: impl Fn(&mut Vec<u8>, &T)) {
    write::message(out, 5, |out| {
        for item in values {
            write::message(out, 1, |out| value(out, item));
        }
    });
}

fn bool(out: &mut Vec<u8>, value: bool) {
    write::varint(out, 2, value.into());
}

fn int(out: &mut Vec<u8>, value: i64) {
    write::varint(out, 3, value.cast_unsigned());
}

fn double(out: &mut Vec<u8>, value: f64) {
    write::fixed64(out, 4, value.to_bits());
}

/// A text of a field that is left out where there is none.
fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    if !value.is_empty() {
        write::text(out, number, value);
    }
}

fn count(out: &mut Vec<u8>, number: u32, value: u32) {
    if value > 0 {
        write::varint(out, number, value.into());
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::{Event, Link, TraceFlags};
    use prost::Message;

    use super::*;

    #[test]
    fn a_span_of_the_sdk_keeps_all_that_it_says() {
        let context = |span: u64, is_remote: bool| {
            let state = TraceState::from_key_value([("a", "1")]).unwrap();
            let ids = (TraceId::from(7_u128), SpanId::from(span));
            SpanContext::new(ids.0, ids.1, TraceFlags::SAMPLED, is_remote, state)
        };
        let mut events = opentelemetry_sdk::trace::SpanEvents::default();
        let time = UNIX_EPOCH + Duration::from_nanos(5);
        events.events.push(Event::new("retried", time, vec![KeyValue::new("n", 2)], 0));
        let mut links = opentelemetry_sdk::trace::SpanLinks::default();
        links.links.push(Link::new(context(9, false), vec![], 0));
        links.links.push(Link::new(context(10, true), vec![], 0));
        let data = SpanData {
            span_context: context(8, false),
            parent_span_id: SpanId::from(6_u64),
            parent_span_is_remote: true,
            span_kind: SpanKind::Server,
            name: "GET /".into(),
            start_time: UNIX_EPOCH + Duration::from_nanos(3),
            end_time: UNIX_EPOCH + Duration::from_nanos(4),
            attributes: vec![KeyValue::new("cached", true)],
            dropped_attributes_count: 1,
            events,
            links,
            status: Status::error("no"),
            instrumentation_scope: InstrumentationScope::builder("lib")
                .with_version("2")
                .with_schema_url("https://example.org/lib")
                .with_attributes([KeyValue::new("of", "lib")])
                .build(),
        };
        let of = resource(&Resource::builder_empty().with_service_name("shop").build());
        let pieces = parts(&[data], &of).pieces;
        assert_eq!((pieces[0].trace_id[15], pieces[0].flags), (7, 0x301));
        let request = otlp::put_together(pieces.iter().map(Piece::part));
        let request = otlp::ExportTraceServiceRequest::decode(request).unwrap();
        let of = &request.resource_spans[0];
        assert_eq!(of.resource.as_ref().unwrap().service_name(), "shop");
        let scope = of.scope_spans[0].scope.as_ref().unwrap();
        assert_eq!((scope.name.as_str(), scope.version.as_str()), ("lib", "2"));
        assert_eq!(
            scope.attributes,
            [otlp::KeyValue::new("of", otlp::Value::String("lib".into()))]
        );
        assert_eq!(of.scope_spans[0].schema_url, "https://example.org/lib");
        let span = &of.scope_spans[0].spans[0];
        assert_eq!((span.trace_id[15], span.span_id[7], span.parent_span_id[7]), (7, 8, 6));
        assert_eq!(
            (span.kind(), span.flags, span.trace_state.as_str()),
            (otlp::SpanKind::Server, 0x301, "a=1")
        );
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (3, 4));
        assert_eq!((span.dropped_attributes_count, span.links[0].span_id[7]), (1, 9));
        assert_eq!((span.links[0].flags, span.links[1].flags), (0x101, 0x301));
        assert_eq!(span.events[0].attributes[0], otlp::KeyValue::new("n", otlp::Value::Int(2)));
        assert_eq!(span.status.as_ref().unwrap().message, "no");
    }
}
