//! Zipkin's spans as OTLP's, as OpenTelemetry's specification maps them the other way round.

use std::collections::{BTreeMap, HashMap, HashSet};

use pintle_otlp::{
    Event, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, SpanKind, Status, StatusCode, Value,
    json::{VALUES_MAX, is_small},
    text::from_hex,
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

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
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

/// What a span says of itself where its ids are none: no id of OpenTelemetry has one byte, so the
/// pipeline refuses the span, and only it.
const NO_ID: [u8; 1] = [0];

/// Reads a list of spans. Ids that are none are left to be refused span by span.
///
/// # Errors
///
/// Says what is wrong with the text.
pub(super) fn read(text: &[u8]) -> Result<ExportTraceServiceRequest, String> {
    if !is_small(text) {
        return Err(format!(
            "the list has more than {VALUES_MAX} values; send fewer spans at once"
        ));
    }
    let spans: Vec<ZipkinSpan> = serde_json::from_slice(text)
        .map_err(|error| format!("this is no list of Zipkin spans in JSON: {error}"))?;
    let mut by_process: Vec<(Endpoint, Vec<ZipkinSpan>)> = Vec::new();
    let mut places: HashMap<Endpoint, usize> = HashMap::new();
    for mut span in spans {
        let endpoint = span.local_endpoint.take().unwrap_or_default();
        let place = *places.entry(endpoint).or_insert_with_key(|endpoint| {
            by_process.push((endpoint.clone(), Vec::new()));
            by_process.len() - 1
        });
        if let Some((_, spans)) = by_process.get_mut(place) {
            spans.push(span);
        }
    }
    let resource_spans = by_process.into_iter().map(|(endpoint, spans)| {
        // A server may use the id of its caller's span; with OTLP each span has its own.
        let shared: HashSet<(Vec<u8>, [u8; 8])> = spans
            .iter()
            .filter(|span| span.shared == Some(true))
            .filter_map(|span| Some((trace_id(&span.trace_id), from_hex(&span.id)?)))
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
fn own_id(id: [u8; 8]) -> [u8; 8] {
    // Any reversible change does; the same span gets the same id in every host.
    let own = u64::from_be_bytes(id).rotate_left(32) ^ 0x5a5a_5a5a_5a5a_5a5a;
    own.max(1).to_be_bytes()
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

fn convert(span: ZipkinSpan, shared: &HashSet<(Vec<u8>, [u8; 8])>) -> Span {
    let trace_id = trace_id(&span.trace_id);
    let (id, parent) = (from_hex::<8>(&span.id), span.parent_id.as_deref().unwrap_or_default());
    let (span_id, parent_span_id) = if span.shared == Some(true) {
        (id.map(|id| own_id(id).into()), id.map(Vec::from))
    } else {
        let own = |id| if shared.contains(&(trace_id.clone(), id)) { own_id(id) } else { id };
        let parent_id = from_hex::<8>(parent).map(|parent| own(parent).into());
        (id.map(Vec::from), if parent.is_empty() { Some(Vec::new()) } else { parent_id })
    };
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
        trace_id,
        span_id: span_id.unwrap_or_else(|| NO_ID.into()),
        trace_state,
        parent_span_id: parent_span_id.unwrap_or_else(|| NO_ID.into()),
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
    from_hex::<16>(&padded).map_or_else(|| NO_ID.into(), Vec::from)
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
        assert_eq!(spans[0].span_id, NO_ID, "what is no id is refused later, alone");
    }

    #[test]
    fn an_id_that_is_none_does_not_become_one() {
        let id = "352bff9a74ca9ad2";
        let (_, shared) = one(&format!(r#"[{{"traceId":"{id}","id":"zzz","shared":true}}]"#));
        assert_eq!((&shared.span_id[..], &shared.parent_span_id[..]), (&NO_ID[..], &NO_ID[..]));
        let child = |parent| {
            let text = format!(r#"[{{"traceId":"{id}","id":"{id}","parentId":{parent}}}]"#);
            one(&text).1.parent_span_id
        };
        assert_eq!(child("\"zzzzzzzz\""), NO_ID, "it is not the first of its trace");
        assert_eq!(child("null"), [0; 0]);
    }

    #[test]
    fn a_list_whose_spans_would_fill_the_memory_is_refused_before_it_is_read() {
        let spans = |count| format!("[{}]", vec!["{}"; count].join(","));
        assert!(read(spans(1_000).as_bytes()).is_ok());
        let refusal = read(spans(VALUES_MAX).as_bytes()).unwrap_err();
        assert!(refusal.contains("fewer spans"), "{refusal}");
    }

    #[test]
    fn spans_of_a_process_stay_together_however_many_processes_report() {
        let span = |service| {
            let service = format!(r#"{{"serviceName":"{service}"}}"#);
            format!(
                r#"{{"traceId":"5af7183fb1d4cf5f","id":"352bff9a74ca9ad2","localEndpoint":{service}}}"#
            )
        };
        let spans: Vec<_> = (0..2).flat_map(|_| (0..3).map(span)).collect();
        let request = read(format!("[{}]", spans.join(",")).as_bytes()).unwrap();
        let services = request.resource_spans.iter().map(|of| {
            (of.resource.as_ref().unwrap().service_name(), of.scope_spans[0].spans.len())
        });
        assert_eq!(services.collect::<Vec<_>>(), [("0", 2), ("1", 2), ("2", 2)]);
    }

    #[test]
    fn what_is_no_list_of_spans_is_refused() {
        for text in ["", "{}", "[1]", "[{\"traceId\":1}]"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(b"[]").unwrap().resource_spans.is_empty());
    }
}
