//! Zipkin's spans as OTLP's, as OpenTelemetry's specification maps them the other way round.

use std::collections::{BTreeMap, HashMap};

use pintle_otlp::{
    Event, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, SpanKind, Status, StatusCode, Value, text::from_hex,
};
use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ZipkinSpan {
    trace_id: String,
    id: String,
    parent_id: Option<String>,
    name: Option<String>,
    kind: Option<String>,
    timestamp: Option<u64>,
    duration: Option<u64>,
    local_endpoint: Option<Endpoint>,
    remote_endpoint: Option<Endpoint>,
    annotations: Option<Vec<Annotation>>,
    tags: Option<BTreeMap<String, String>>,
    shared: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    service_name: Option<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Annotation {
    timestamp: u64,
    value: String,
}

/// Reads a list of spans. Ids that are none are left to be refused span by span.
///
/// # Errors
///
/// Says what is wrong with the text.
pub(super) fn read(text: &[u8]) -> Result<ExportTraceServiceRequest, String> {
    let spans: Vec<ZipkinSpan> = serde_json::from_slice(text)
        .map_err(|error| format!("this is no list of Zipkin spans in JSON: {error}"))?;
    let mut by_process: Vec<(Endpoint, Vec<ZipkinSpan>)> = Vec::new();
    for mut span in spans {
        let endpoint = span.local_endpoint.take().unwrap_or_default();
        let same = |(known, _): &&mut (Endpoint, _)| {
            (&known.service_name, &known.ipv4, &known.ipv6, known.port)
                == (&endpoint.service_name, &endpoint.ipv4, &endpoint.ipv6, endpoint.port)
        };
        match by_process.iter_mut().find(same) {
            Some((_, spans)) => spans.push(span),
            None => by_process.push((endpoint, vec![span])),
        }
    }
    let resource_spans = by_process.into_iter().map(|(endpoint, spans)| {
        // A server may use the id of its caller's span; with OTLP each span has its own.
        let shared: HashMap<String, String> = spans
            .iter()
            .filter(|span| span.shared == Some(true))
            .map(|span| (span.id.clone(), own_id(&span.id)))
            .collect();
        ResourceSpans {
            resource: Some(resource(&endpoint)),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "zipkin".into(), ..Default::default() }),
                spans: spans.into_iter().map(|span| convert(span, &shared)).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }
    });
    Ok(ExportTraceServiceRequest { resource_spans: resource_spans.collect() })
}

/// The id of a server's half of a span that it shares with its caller.
fn own_id(id: &str) -> String {
    let number = u64::from_str_radix(id, 16).unwrap_or_default();
    // Any reversible change does; the same span gets the same id in every host.
    let own = number.rotate_left(32) ^ 0x5a5a_5a5a_5a5a_5a5a;
    format!("{:016x}", if own == 0 { 1 } else { own })
}

fn resource(endpoint: &Endpoint) -> Resource {
    let mut attributes = Vec::new();
    let service = endpoint.service_name.as_deref().filter(|name| !name.is_empty());
    attributes.push(KeyValue::text("service.name", service.unwrap_or("unknown_service")));
    if let Some(address) = endpoint.ipv4.as_ref().or(endpoint.ipv6.as_ref()) {
        let instance = match endpoint.port {
            Some(port) => format!("{address}:{port}"),
            None => address.clone(),
        };
        attributes.push(KeyValue::text("service.instance.id", instance));
        attributes.push(KeyValue::text("host.ip", address.as_str()));
    }
    Resource { attributes, dropped_attributes_count: 0 }
}

fn convert(span: ZipkinSpan, shared: &HashMap<String, String>) -> Span {
    let is_shared = span.shared == Some(true);
    let parent = if is_shared { Some(span.id.clone()) } else { span.parent_id.clone() };
    let own = |id: &str| shared.get(id).cloned().unwrap_or_else(|| id.to_owned());
    let parent = match parent {
        Some(parent) if !is_shared => own(&parent),
        Some(parent) => parent,
        None => String::new(),
    };
    let id = if is_shared { own(&span.id) } else { span.id.clone() };
    let start = span.timestamp.unwrap_or_default().saturating_mul(1_000);
    let end = start.saturating_add(span.duration.unwrap_or_default().saturating_mul(1_000));
    let mut tags = span.tags.unwrap_or_default();
    let error = tags.remove("error");
    let status_code = tags.remove("otel.status_code");
    let code = match (&error, status_code.as_deref()) {
        (Some(_), _) | (None, Some("ERROR")) => StatusCode::Error,
        (None, Some("OK")) => StatusCode::Ok,
        (None, _) => StatusCode::Unset,
    };
    let message = error.filter(|text| text != "true").unwrap_or_default();
    let trace_state = tags.remove("w3c.tracestate").unwrap_or_default();
    let mut attributes: Vec<_> =
        tags.into_iter().map(|(key, value)| KeyValue::text(key, value)).collect();
    if let Some(peer) = &span.remote_endpoint {
        attributes.extend(peer_attributes(peer));
    }
    let events = span.annotations.unwrap_or_default().into_iter().map(|annotation| Event {
        time_unix_nano: annotation.timestamp.saturating_mul(1_000),
        name: annotation.value,
        ..Event::default()
    });
    Span {
        trace_id: trace_id(&span.trace_id),
        span_id: from_hex::<8>(&id).map(Vec::from).unwrap_or_default(),
        trace_state,
        parent_span_id: from_hex::<8>(&parent).map(Vec::from).unwrap_or_default(),
        name: span.name.unwrap_or_default(),
        kind: kind(span.kind.as_deref()).into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        attributes,
        events: events.collect(),
        status: (code != StatusCode::Unset).then(|| Status { message, code: code.into() }),
        // Reporters send only what is recorded.
        flags: pintle_otlp::flags::SAMPLED,
        ..Span::default()
    }
}

fn kind(text: Option<&str>) -> SpanKind {
    match text {
        Some("CLIENT") => SpanKind::Client,
        Some("SERVER") => SpanKind::Server,
        Some("PRODUCER") => SpanKind::Producer,
        Some("CONSUMER") => SpanKind::Consumer,
        _ => SpanKind::Internal,
    }
}

fn peer_attributes(peer: &Endpoint) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    if let Some(service) = peer.service_name.as_ref().filter(|name| !name.is_empty()) {
        attributes.push(KeyValue::text("peer.service", service.as_str()));
    }
    if let Some(address) = peer.ipv4.as_ref().or(peer.ipv6.as_ref()) {
        attributes.push(KeyValue::text("network.peer.address", address.as_str()));
        if let Some(port) = peer.port {
            attributes.push(KeyValue::new("network.peer.port", Value::Int(port.into())));
        }
    }
    attributes
}

/// Ids of 64 bits are filled up.
fn trace_id(text: &str) -> Vec<u8> {
    let padded = if text.len() == 16 { format!("{:0>32}", text) } else { text.to_owned() };
    from_hex::<16>(&padded).map(Vec::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (Resource, Span) {
        let mut request = read(text.as_bytes()).unwrap();
        let mut of = request.resource_spans.remove(0);
        (of.resource.unwrap(), of.scope_spans.remove(0).spans.remove(0))
    }

    #[test]
    fn a_span_of_zipkins_documentation_is_read() {
        let (resource, span) = one(
            r#"[{"id":"352bff9a74ca9ad2","traceId":"5af7183fb1d4cf5f","parentId":"6b221d5bc9e6496c",
            "name":"get /api","timestamp":1556604172355737,"duration":1431,"kind":"SERVER",
            "localEndpoint":{"serviceName":"backend","ipv4":"192.168.99.1","port":3306},
            "remoteEndpoint":{"ipv4":"172.19.0.2","port":58648},
            "annotations":[{"timestamp":1556604172355740,"value":"mr"}],
            "tags":{"http.method":"GET","error":"it broke"},"future":1}]"#,
        );
        assert_eq!(resource.service_name(), "backend");
        assert_eq!(span.trace_id[..8], [0; 8]);
        assert_eq!(
            (span.kind(), span.start_time_unix_nano),
            (SpanKind::Server, 1_556_604_172_355_737_000)
        );
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_431_000);
        assert_eq!(span.status.unwrap().message, "it broke");
        assert_eq!(span.events[0].name, "mr");
        assert!(span.attributes.contains(&KeyValue::text("network.peer.address", "172.19.0.2")));
        assert!(!span.attributes.iter().any(|attribute| attribute.key == "error"));
    }

    #[test]
    fn a_servers_half_of_a_shared_span_becomes_a_child_of_its_callers() {
        let request = read(
            br#"[{"traceId":"5af7183fb1d4cf5f","id":"1","parentId":"2"},
            {"traceId":"5af7183fb1d4cf5f","id":"352bff9a74ca9ad2","parentId":"6b221d5bc9e6496c","kind":"SERVER","shared":true},
            {"traceId":"5af7183fb1d4cf5f","id":"452bff9a74ca9ad2","parentId":"352bff9a74ca9ad2"}]"#,
        )
        .unwrap();
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        let caller = from_hex::<8>("352bff9a74ca9ad2").unwrap();
        assert_eq!(spans[1].parent_span_id, caller);
        assert_ne!(spans[1].span_id, caller);
        assert_eq!(spans[2].parent_span_id, spans[1].span_id, "and its own children hang on it");
        assert!(spans[0].span_id.is_empty(), "what is no id is refused later, alone");
    }

    #[test]
    fn what_is_no_list_of_spans_is_refused() {
        for text in ["", "{}", "[1]", "[{\"traceId\":1}]"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(b"[]").unwrap().resource_spans.is_empty());
    }
}
