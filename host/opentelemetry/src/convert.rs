//! The SDK's spans as OTLP's.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::{
    Array, InstrumentationScope, KeyValue, Value,
    trace::{Event, Link, SpanKind, Status},
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use pintle_otlp as otlp;

/// Where the spans come from: a `ResourceSpans` without any.
pub(crate) fn resource(resource: &Resource) -> otlp::ResourceSpans {
    let attribute = |(key, value): (&opentelemetry::Key, &Value)| otlp::KeyValue {
        key: key.as_str().to_owned(),
        value: Some(any_value(value)),
    };
    let mut attributes: Vec<_> = resource.iter().map(attribute).collect();
    attributes.sort_by(|one, other| one.key.cmp(&other.key));
    otlp::ResourceSpans {
        resource: Some(otlp::Resource { attributes, dropped_attributes_count: 0 }),
        scope_spans: Vec::new(),
        schema_url: resource.schema_url().unwrap_or_default().to_owned(),
    }
}

pub(crate) fn request(
    batch: Vec<SpanData>,
    resource: &otlp::ResourceSpans,
) -> otlp::ExportTraceServiceRequest {
    let mut scopes: Vec<(InstrumentationScope, Vec<otlp::Span>)> = Vec::new();
    for data in batch {
        let place = scopes.iter().position(|(scope, _)| *scope == data.instrumentation_scope);
        let scope = data.instrumentation_scope.clone();
        let span = span(data);
        match place.and_then(|place| scopes.get_mut(place)) {
            Some((_, spans)) => spans.push(span),
            None => scopes.push((scope, vec![span])),
        }
    }
    let scope_spans = scopes.into_iter().map(|(scope, spans)| otlp::ScopeSpans {
        scope: Some(otlp::InstrumentationScope {
            name: scope.name().to_owned(),
            version: scope.version().unwrap_or_default().to_owned(),
            attributes: scope.attributes().map(attribute).collect(),
            dropped_attributes_count: 0,
        }),
        spans,
        schema_url: scope.schema_url().unwrap_or_default().to_owned(),
    });
    let of = otlp::ResourceSpans { scope_spans: scope_spans.collect(), ..resource.clone() };
    otlp::ExportTraceServiceRequest { resource_spans: vec![of] }
}

fn span(data: SpanData) -> otlp::Span {
    let remote = if data.parent_span_is_remote { otlp::flags::IS_REMOTE } else { 0 };
    let context = &data.span_context;
    let parent = data.parent_span_id.to_bytes();
    otlp::Span {
        trace_id: context.trace_id().to_bytes().into(),
        span_id: context.span_id().to_bytes().into(),
        trace_state: context.trace_state().header(),
        parent_span_id: if parent == [0; 8] { Vec::new() } else { parent.into() },
        name: data.name.into_owned(),
        kind: kind(&data.span_kind).into(),
        start_time_unix_nano: nanos(data.start_time),
        end_time_unix_nano: nanos(data.end_time),
        attributes: data.attributes.iter().map(attribute).collect(),
        dropped_attributes_count: data.dropped_attributes_count,
        dropped_events_count: data.events.dropped_count,
        events: data.events.events.iter().map(event).collect(),
        dropped_links_count: data.links.dropped_count,
        links: data.links.links.iter().map(link).collect(),
        status: status(data.status),
        flags: u32::from(context.trace_flags().to_u8()) | otlp::flags::HAS_IS_REMOTE | remote,
    }
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

fn event(event: &Event) -> otlp::Event {
    otlp::Event {
        time_unix_nano: nanos(event.timestamp),
        name: event.name.to_string(),
        attributes: event.attributes.iter().map(attribute).collect(),
        dropped_attributes_count: event.dropped_attributes_count,
    }
}

fn link(link: &Link) -> otlp::Link {
    otlp::Link {
        trace_id: link.span_context.trace_id().to_bytes().into(),
        span_id: link.span_context.span_id().to_bytes().into(),
        trace_state: link.span_context.trace_state().header(),
        attributes: link.attributes.iter().map(attribute).collect(),
        dropped_attributes_count: link.dropped_attributes_count,
        flags: link.span_context.trace_flags().to_u8().into(),
    }
}

fn status(status: Status) -> Option<otlp::Status> {
    let (code, message) = match status {
        Status::Unset => return None,
        Status::Ok => (otlp::StatusCode::Ok, String::new()),
        Status::Error { description } => (otlp::StatusCode::Error, description.into_owned()),
    };
    Some(otlp::Status { message, code: code.into() })
}

fn attribute(attribute: &KeyValue) -> otlp::KeyValue {
    let KeyValue { key, value, .. } = attribute;
    otlp::KeyValue { key: key.as_str().to_owned(), value: Some(any_value(value)) }
}

fn any_value(value: &Value) -> otlp::AnyValue {
    let list = |values: Vec<otlp::Value>| {
        let values = values.into_iter().map(|value| otlp::AnyValue { value: Some(value) });
        otlp::Value::Array(otlp::ArrayValue { values: values.collect() })
    };
    let value = match value {
        Value::Bool(value) => otlp::Value::Bool(*value),
        Value::I64(value) => otlp::Value::Int(*value),
        Value::F64(value) => otlp::Value::Double(*value),
        Value::String(value) => otlp::Value::String(value.as_str().to_owned()),
        Value::Array(Array::Bool(values)) => {
            list(values.iter().copied().map(otlp::Value::Bool).collect())
        }
        Value::Array(Array::I64(values)) => {
            list(values.iter().copied().map(otlp::Value::Int).collect())
        }
        Value::Array(Array::F64(values)) => {
            list(values.iter().copied().map(otlp::Value::Double).collect())
        }
        Value::Array(Array::String(values)) => {
            let text =
                |value: &opentelemetry::StringValue| otlp::Value::String(value.as_str().to_owned());
            list(values.iter().map(text).collect())
        }
        // A kind that a later version adds still says what it is.
        other => otlp::Value::String(other.to_string()),
    };
    otlp::AnyValue { value: Some(value) }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    #[test]
    fn a_span_of_the_sdk_keeps_all_that_it_says() {
        let context = |span: u64| {
            let state = TraceState::from_key_value([("a", "1")]).unwrap();
            let ids = (TraceId::from(7_u128), SpanId::from(span));
            SpanContext::new(ids.0, ids.1, TraceFlags::SAMPLED, false, state)
        };
        let mut events = opentelemetry_sdk::trace::SpanEvents::default();
        let time = UNIX_EPOCH + Duration::from_nanos(5);
        events.events.push(Event::new("retried", time, vec![KeyValue::new("n", 2)], 0));
        let mut links = opentelemetry_sdk::trace::SpanLinks::default();
        links.links.push(Link::new(context(9), vec![], 0));
        let data = SpanData {
            span_context: context(8),
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
            instrumentation_scope: InstrumentationScope::builder("lib").with_version("2").build(),
        };
        let of = resource(&Resource::builder_empty().with_service_name("shop").build());
        let request = request(vec![data], &of);
        let of = &request.resource_spans[0];
        assert_eq!(of.resource.as_ref().unwrap().service_name(), "shop");
        let scope = of.scope_spans[0].scope.as_ref().unwrap();
        assert_eq!((scope.name.as_str(), scope.version.as_str()), ("lib", "2"));
        let span = &of.scope_spans[0].spans[0];
        assert_eq!((span.trace_id[15], span.span_id[7], span.parent_span_id[7]), (7, 8, 6));
        assert_eq!(
            (span.kind(), span.flags, span.trace_state.as_str()),
            (otlp::SpanKind::Server, 0x301, "a=1")
        );
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (3, 4));
        assert_eq!((span.dropped_attributes_count, span.links[0].span_id[7]), (1, 9));
        assert_eq!(span.events[0].attributes[0], otlp::KeyValue::new("n", otlp::Value::Int(2)));
        assert_eq!(span.status.as_ref().unwrap().message, "no");
    }
}
