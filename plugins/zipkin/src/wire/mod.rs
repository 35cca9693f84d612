//! OTLP spans as Zipkin's: the model of <https://zipkin.io/zipkin-api/zipkin2-api.yaml>, mapped as
//! OpenTelemetry's specification says (`specification/trace/sdk_exporters/zipkin.md`).

use pintle_otlp::text::{hex, value_text};
use pintle_otlp::{
    Event, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Link, Resource, Span,
    SpanKind, StatusCode, find,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

/// What stands for a service that has no name.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// Attributes that name the other side, the best first, and those that hold its port.
const PEERS: [(&str, Option<&str>); 10] = [
    ("peer.service", None),
    ("server.address", Some("server.port")),
    ("net.peer.name", Some("net.peer.port")),
    ("network.peer.address", Some("network.peer.port")),
    ("server.socket.domain", None),
    ("server.socket.address", Some("server.socket.port")),
    ("net.sock.peer.name", None),
    ("net.sock.peer.addr", Some("net.sock.peer.port")),
    ("peer.hostname", None),
    ("db.name", None),
];

/// A span in Zipkin's version 2 model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZipkinSpan {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The same of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// What was done. Servers show it in small letters.
    pub name: String,
    /// `CLIENT`, `SERVER`, `PRODUCER` or `CONSUMER`; absent within a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Its beginning in microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// In microseconds, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// Who reports the span.
    pub local_endpoint: ZipkinEndpoint,
    /// The other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_endpoint: Option<ZipkinEndpoint>,
    /// What happened meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<Annotation>,
    /// What else is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A process on the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZipkinEndpoint {
    /// Its service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Something that happened at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Annotation {
    /// In microseconds since 1970.
    pub timestamp: u64,
    /// What.
    pub value: String,
}

/// A span as it stands in a body, in ASCII: Zipkin's server damages other characters in bodies that
/// are compressed, where they fall on the ends of its buffers.
///
/// # Errors
///
/// None that is known: every span can be written.
pub fn to_json(span: &ZipkinSpan) -> serde_json::Result<String> {
    let json = serde_json::to_string(span)?;
    if json.is_ascii() {
        return Ok(json);
    }
    let mut ascii = String::with_capacity(json.len() * 2);
    for character in json.chars() {
        if character.is_ascii() {
            ascii.push(character);
            continue;
        }
        // Outside of texts there are none.
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    Ok(ascii)
}

/// The body of a request with these spans.
pub fn body(spans: &[String]) -> Vec<u8> {
    let mut body =
        String::with_capacity(2 + spans.iter().map(|span| span.len() + 1).sum::<usize>());
    body.push('[');
    for (position, span) in spans.iter().enumerate() {
        if position > 0 {
            body.push(',');
        }
        body.push_str(span);
    }
    body.push(']');
    body.into_bytes()
}

/// Converts a batch, in its order; an error is the reason why Zipkin has no place for a span.
///
/// One span after the other: each repeats what OTLP says once for all spans of a resource and scope, so
/// that all together may take far more memory than the batch.
pub fn convert(
    request: ExportTraceServiceRequest,
) -> impl Iterator<Item = Result<ZipkinSpan, &'static str>> {
    request.resource_spans.into_iter().flat_map(|resource_spans| {
        let resource = Rc::new(resource_spans.resource.unwrap_or_default());
        resource_spans.scope_spans.into_iter().flat_map(move |scope_spans| {
            let scope = scope_spans.scope.unwrap_or_default();
            let resource = Rc::clone(&resource);
            scope_spans.spans.into_iter().map(move |span| match defect(&span) {
                Some(reason) => Err(reason),
                None => Ok(zipkin_span(&resource, &scope, span)),
            })
        })
    })
}

fn defect(span: &Span) -> Option<&'static str> {
    let is_id = |id: &[u8], length| id.len() == length && id.iter().any(|byte| *byte != 0);
    if !is_id(&span.trace_id, 16) {
        Some("the trace id is not 16 bytes, or all of them are zero")
    } else if !is_id(&span.span_id, 8) {
        Some("the span id is not 8 bytes, or all of them are zero")
    } else if !span.parent_span_id.is_empty() && span.parent_span_id.len() != 8 {
        Some("the parent's id is not 8 bytes")
    } else {
        None
    }
}

fn zipkin_span(resource: &Resource, scope: &InstrumentationScope, span: Span) -> ZipkinSpan {
    let has_parent = span.parent_span_id.iter().any(|byte| *byte != 0);
    let start = micros(span.start_time_unix_nano);
    let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let service = Some(resource.service_name()).filter(|name| !name.is_empty());
    ZipkinSpan {
        trace_id: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent_id: has_parent.then(|| hex(&span.parent_span_id)),
        kind: kind(span.kind()),
        timestamp: (start > 0).then_some(start),
        // Zero would mean that it is not known.
        duration: (span.end_time_unix_nano > 0).then(|| nanos.div_ceil(1_000).max(1)),
        local_endpoint: ZipkinEndpoint {
            service_name: service.unwrap_or(UNKNOWN_SERVICE).to_owned(),
            ..ZipkinEndpoint::default()
        },
        remote_endpoint: remote_endpoint(span.kind(), &span.attributes),
        annotations: span.events.iter().map(annotation).collect(),
        tags: tags(resource, scope, &span),
        name: span.name,
    }
}

fn kind(kind: SpanKind) -> Option<&'static str> {
    match kind {
        SpanKind::Client => Some("CLIENT"),
        SpanKind::Server => Some("SERVER"),
        SpanKind::Producer => Some("PRODUCER"),
        SpanKind::Consumer => Some("CONSUMER"),
        SpanKind::Internal | SpanKind::Unspecified => None,
    }
}

fn remote_endpoint(kind: SpanKind, attributes: &[KeyValue]) -> Option<ZipkinEndpoint> {
    if !matches!(kind, SpanKind::Client | SpanKind::Producer) {
        return None;
    }
    let (name, port) = PEERS.iter().find_map(|(name, port)| {
        let name = value_text(find(attributes, name)?.value.as_ref());
        (!name.is_empty()).then_some((name, port))
    })?;
    let port =
        port.and_then(|port| value_text(find(attributes, port)?.value.as_ref()).parse().ok());
    let mut endpoint = ZipkinEndpoint { port, ..ZipkinEndpoint::default() };
    match name.parse() {
        Ok(std::net::IpAddr::V4(address)) => endpoint.ipv4 = Some(address.to_string()),
        Ok(std::net::IpAddr::V6(address)) => endpoint.ipv6 = Some(address.to_string()),
        Err(_) => endpoint.service_name = name,
    }
    Some(endpoint)
}

fn annotation(event: &Event) -> Annotation {
    let value = if event.attributes.is_empty() {
        event.name.clone()
    } else {
        let values: BTreeMap<&str, String> = event
            .attributes
            .iter()
            .map(|attribute| (attribute.key.as_str(), value_text(attribute.value.as_ref())))
            .collect();
        serde_json::json!({ event.name.as_str(): values }).to_string()
    };
    Annotation { timestamp: micros(event.time_unix_nano), value }
}

fn tags(
    resource: &Resource,
    scope: &InstrumentationScope,
    span: &Span,
) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(tags.insert(key.to_owned(), value));
    for attribute in resource.attributes.iter().filter(|attribute| attribute.key != "service.name")
    {
        put(&attribute.key, value_text(attribute.value.as_ref()));
    }
    for attribute in &span.attributes {
        put(&attribute.key, value_text(attribute.value.as_ref()));
    }
    if !scope.name.is_empty() {
        put("otel.scope.name", scope.name.clone());
    }
    if !scope.version.is_empty() {
        put("otel.scope.version", scope.version.clone());
    }
    if !span.trace_state.is_empty() {
        put("w3c.tracestate", span.trace_state.clone());
    }
    for (key, count) in [
        ("otel.dropped_attributes_count", span.dropped_attributes_count),
        ("otel.dropped_events_count", span.dropped_events_count),
        ("otel.dropped_links_count", span.dropped_links_count),
    ] {
        if count > 0 {
            put(key, count.to_string());
        }
    }
    for (index, link) in span.links.iter().enumerate() {
        put(&format!("otlp.link.{index}"), link_text(link));
    }
    let status = span.status.clone().unwrap_or_default();
    match status.code() {
        StatusCode::Unset => {}
        StatusCode::Ok => put("otel.status_code", "OK".to_owned()),
        StatusCode::Error => put("otel.status_code", "ERROR".to_owned()),
    }
    // Zipkin marks a span by the presence of this tag, whatever its value is.
    if status.code() == StatusCode::Error {
        put("error", status.message);
    } else if tags.get("error").is_some_and(|error| error == "false") {
        tags.remove("error");
    }
    tags
}

/// Zipkin knows no links: each becomes a tag, in the form that OpenTelemetry's Collector writes.
fn link_text(link: &Link) -> String {
    let values: BTreeMap<&str, String> = link
        .attributes
        .iter()
        .map(|attribute| (attribute.key.as_str(), value_text(attribute.value.as_ref())))
        .collect();
    let attributes = serde_json::json!(values);
    let (trace_id, span_id) = (hex(&link.trace_id), hex(&link.span_id));
    let Link { trace_state, dropped_attributes_count, .. } = link;
    format!("{trace_id}|{span_id}|{trace_state}|{attributes}|{dropped_attributes_count}")
}

fn micros(nanos: u64) -> u64 {
    nanos / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_otlp::{ResourceSpans, ScopeSpans, Status, Value};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn batch(spans: Vec<Span>) -> ExportTraceServiceRequest {
        let resource = Resource {
            attributes: vec![
                KeyValue::text("service.name", "shop"),
                KeyValue::text("host.name", "a1"),
            ],
            dropped_attributes_count: 0,
        };
        let scope =
            InstrumentationScope { name: "lib".into(), version: "2".into(), ..Default::default() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
        let resource_spans = vec![ResourceSpans {
            resource: Some(resource),
            scope_spans,
            schema_url: String::new(),
        }];
        ExportTraceServiceRequest { resource_spans }
    }

    fn span() -> Span {
        Span {
            trace_id: (1..=16).collect(),
            span_id: vec![0xAB; 8],
            parent_span_id: vec![0xCD; 8],
            name: "GET /".into(),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: 1_700_000_000_000_001_999,
            end_time_unix_nano: 1_700_000_000_000_002_000,
            ..Span::default()
        }
    }

    fn converted(span: Span) -> ZipkinSpan {
        convert(batch(vec![span])).next().unwrap().unwrap()
    }

    #[test]
    fn several_spans_are_one_list() {
        let texts: Vec<_> = ["{}", "{}"].map(str::to_owned).into();
        assert_eq!(body(&texts), b"[{},{}]");
        assert_eq!(body(&[]), b"[]");
    }

    #[test]
    fn a_span_is_written_as_zipkin_reads_it() {
        let span = Span {
            attributes: vec![
                KeyValue::text("server.address", "db.example"),
                KeyValue::new("server.port", Value::Int(5432)),
                KeyValue::new("retried", Value::Bool(true)),
            ],
            events: vec![
                Event { time_unix_nano: 5_000, name: "begun".into(), ..Event::default() },
                Event {
                    time_unix_nano: 6_000,
                    name: "failed".into(),
                    attributes: vec![KeyValue::text("why", "x")],
                    ..Event::default()
                },
            ],
            status: Some(Status { message: "no".into(), code: StatusCode::Error.into() }),
            ..span()
        };
        let span = to_json(&converted(span)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body(&[span])).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "traceId": "0102030405060708090a0b0c0d0e0f10",
                "id": "abababababababab",
                "parentId": "cdcdcdcdcdcdcdcd",
                "name": "GET /",
                "kind": "CLIENT",
                "timestamp": 1_700_000_000_000_001_u64,
                "duration": 1,
                "localEndpoint": { "serviceName": "shop" },
                "remoteEndpoint": { "serviceName": "db.example", "port": 5432 },
                "annotations": [
                    { "timestamp": 5, "value": "begun" },
                    { "timestamp": 6, "value": "{\"failed\":{\"why\":\"x\"}}" }
                ],
                "tags": {
                    "error": "no",
                    "host.name": "a1",
                    "otel.scope.name": "lib",
                    "otel.scope.version": "2",
                    "otel.status_code": "ERROR",
                    "retried": "true",
                    "server.address": "db.example",
                    "server.port": "5432"
                }
            }])
        );
    }

    #[test]
    fn a_first_span_has_no_parent_and_work_within_a_process_no_kind() {
        let first = Span { parent_span_id: vec![0; 8], kind: SpanKind::Internal.into(), ..span() };
        let converted = converted(first);
        assert_eq!((converted.parent_id, converted.kind), (None, None));
        assert_eq!(converted.remote_endpoint, None);
    }

    #[test]
    fn a_span_is_marked_as_failed_only_when_it_failed() {
        let error = |value, code: StatusCode| {
            let attributes = vec![KeyValue::new("error", value)];
            let status = Some(Status { message: "no".into(), code: code.into() });
            let span = Span { attributes, status, ..span() };
            converted(span).tags.remove("error")
        };
        let text = |text: &str| Value::String(text.into());
        assert_eq!(error(Value::Bool(false), StatusCode::Unset), None);
        assert_eq!(error(text("false"), StatusCode::Ok), None);
        assert_eq!(error(Value::Bool(false), StatusCode::Error).as_deref(), Some("no"));
        assert_eq!(error(Value::Bool(true), StatusCode::Unset).as_deref(), Some("true"));
    }

    #[test]
    fn an_address_of_the_other_side_is_told_as_one() {
        let with = |address: &str| {
            let attributes = vec![KeyValue::text("network.peer.address", address)];
            converted(Span { attributes, ..span() }).remote_endpoint.unwrap()
        };
        assert_eq!(with("10.0.0.7").ipv4.unwrap(), "10.0.0.7");
        assert_eq!(with("::1").ipv6.unwrap(), "::1");
    }

    #[test]
    fn links_become_tags() {
        let link = Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..Link::default() };
        let converted = converted(Span { links: vec![link], ..span() });
        let text = &converted.tags["otlp.link.0"];
        assert_eq!(text, &format!("{}|{}||{{}}|0", "01".repeat(16), "02".repeat(8)));
    }

    #[test]
    fn spans_without_whole_ids_are_refused_with_the_reason() {
        let broken = [
            Span { trace_id: vec![], ..span() },
            Span { trace_id: vec![0; 16], ..span() },
            Span { span_id: vec![1; 9], ..span() },
            Span { parent_span_id: vec![1; 3], ..span() },
        ];
        let converted = convert(batch([broken.to_vec(), vec![span()]].concat()));
        let reasons: Vec<_> = converted.map(|span| span.err()).collect();
        assert!(reasons[..4].iter().all(Option::is_some) && reasons[4].is_none(), "{reasons:?}");
        assert_eq!(reasons[0], reasons[1]);
        assert_eq!(reasons.iter().flatten().collect::<BTreeSet<_>>().len(), 3);
    }

    proptest! {
        #[test]
        fn every_span_is_converted_or_refused(
            ids in prop::collection::vec((0..18_usize, 0..10_usize, any::<u8>(), any::<u64>(), any::<u64>(), any::<i32>()), 0..20),
        ) {
            let spans: Vec<_> = ids.into_iter().map(|(trace, id, byte, start, end, kind)| Span {
                trace_id: vec![byte; trace],
                span_id: vec![byte; id],
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                kind,
                ..span()
            }).collect();
            let count = spans.len();
            let converted: Vec<_> = convert(batch(spans)).collect();
            prop_assert_eq!(converted.len(), count);
            prop_assert!(converted.iter().flatten().all(|span| to_json(span).is_ok()));
        }

        #[test]
        fn texts_are_written_in_ascii_and_mean_the_same(name: String, key: String, value: String) {
            let tags = BTreeMap::from([(key.clone(), value.clone())]);
            let span = ZipkinSpan { name: name.clone(), tags, ..ZipkinSpan::default() };
            let json = to_json(&span).unwrap();
            prop_assert!(json.is_ascii());
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read["name"].as_str(), Some(name.as_str()));
            prop_assert_eq!(read["tags"][&key].as_str(), Some(value.as_str()));
        }
    }
}
