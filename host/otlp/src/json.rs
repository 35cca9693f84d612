//! Requests that came as JSON, by the rules of OTLP/JSON: names in lowerCamelCase, ids as
//! hexadecimal digits, numbers of 64 bits also as texts, enumerations as numbers, `null` for what is
//! left out, and unknown members skipped.

use crate::messages::{
    AnyValue, ArrayValue, Event, ExportTraceServiceRequest, InstrumentationScope, KeyValue,
    KeyValueList, Link, Resource, ResourceSpans, ScopeSpans, Span, Status, Value,
};
use base64::Engine as _;
use serde_json::{Map, Value as Json};

/// The text is no request; names the member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no OTLP trace request in JSON: {0}")]
pub struct Unreadable(String);

type Read<T> = Result<T, Unreadable>;

/// Most values in a text: lists, objects, and what stands in them. It is some five thousand spans of
/// ten attributes.
///
/// Two bytes of text can become hundreds in memory, so the size of a text bounds nothing.
pub const VALUES_MAX: usize = 1 << 18;

/// Whether a text in JSON has at most [`VALUES_MAX`] values. It may be looked at before it is read,
/// and need not be JSON.
pub fn is_small(text: &[u8]) -> bool {
    let (mut values, mut in_text, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => values += 1,
            _ => {}
        }
    }
    values <= VALUES_MAX
}

/// Reads a request.
///
/// # Errors
/// [`Unreadable`] names the first member that is not what it has to be.
///
/// # Limits
/// [`VALUES_MAX`] values.
pub fn read_request(text: &[u8]) -> Read<ExportTraceServiceRequest> {
    if !is_small(text) {
        let reason = format!("it has more than {VALUES_MAX} values; send fewer spans at once");
        return Err(Unreadable(reason));
    }
    let json: Json = serde_json::from_slice(text).map_err(|error| Unreadable(error.to_string()))?;
    let object = object(&json, "the request")?;
    let resource_spans = list(object, "resourceSpans", resource_spans)?;
    Ok(ExportTraceServiceRequest { resource_spans })
}

fn resource_spans(json: &Json) -> Read<ResourceSpans> {
    let of = object(json, "resourceSpans")?;
    let resource = optional(of, "resource", |json| {
        let of = object(json, "resource")?;
        Ok(Resource {
            attributes: list(of, "attributes", key_value)?,
            dropped_attributes_count: count(of, "droppedAttributesCount")?,
        })
    });
    Ok(ResourceSpans {
        resource: resource?,
        scope_spans: list(of, "scopeSpans", scope_spans)?,
        schema_url: text(of, "schemaUrl")?,
    })
}

fn scope_spans(json: &Json) -> Read<ScopeSpans> {
    let of = object(json, "scopeSpans")?;
    let scope = optional(of, "scope", |json| {
        let of = object(json, "scope")?;
        Ok(InstrumentationScope {
            name: text(of, "name")?,
            version: text(of, "version")?,
            attributes: list(of, "attributes", key_value)?,
            dropped_attributes_count: count(of, "droppedAttributesCount")?,
        })
    });
    Ok(ScopeSpans {
        scope: scope?,
        spans: list(of, "spans", span)?,
        schema_url: text(of, "schemaUrl")?,
    })
}

fn span(json: &Json) -> Read<Span> {
    let of = object(json, "spans")?;
    let status = optional(of, "status", |json| {
        let of = object(json, "status")?;
        let codes = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];
        Ok(Status { message: text(of, "message")?, code: enumeration(of, "code", &codes)? })
    });
    let kinds = [
        "SPAN_KIND_UNSPECIFIED",
        "SPAN_KIND_INTERNAL",
        "SPAN_KIND_SERVER",
        "SPAN_KIND_CLIENT",
        "SPAN_KIND_PRODUCER",
        "SPAN_KIND_CONSUMER",
    ];
    Ok(Span {
        trace_id: id(of, "traceId")?,
        span_id: id(of, "spanId")?,
        trace_state: text(of, "traceState")?,
        parent_span_id: id(of, "parentSpanId")?,
        name: text(of, "name")?,
        kind: enumeration(of, "kind", &kinds)?,
        start_time_unix_nano: unsigned(of, "startTimeUnixNano")?,
        end_time_unix_nano: unsigned(of, "endTimeUnixNano")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: count(of, "droppedAttributesCount")?,
        events: list(of, "events", event)?,
        dropped_events_count: count(of, "droppedEventsCount")?,
        links: list(of, "links", link)?,
        dropped_links_count: count(of, "droppedLinksCount")?,
        status: status?,
        flags: count(of, "flags")?,
    })
}

fn event(json: &Json) -> Read<Event> {
    let of = object(json, "events")?;
    Ok(Event {
        time_unix_nano: unsigned(of, "timeUnixNano")?,
        name: text(of, "name")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: count(of, "droppedAttributesCount")?,
    })
}

fn link(json: &Json) -> Read<Link> {
    let of = object(json, "links")?;
    Ok(Link {
        trace_id: id(of, "traceId")?,
        span_id: id(of, "spanId")?,
        trace_state: text(of, "traceState")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: count(of, "droppedAttributesCount")?,
        flags: count(of, "flags")?,
    })
}

fn key_value(json: &Json) -> Read<KeyValue> {
    let of = object(json, "attributes")?;
    Ok(KeyValue { key: text(of, "key")?, value: optional(of, "value", any_value)? })
}

/// As deep as the text may be, which the parser bounds.
fn any_value(json: &Json) -> Read<AnyValue> {
    let of = object(json, "value")?;
    let mut value = None;
    for (name, json) in of.iter().filter(|(_, json)| !json.is_null()) {
        let wrong = || wrong(name, json);
        value = Some(match name.as_str() {
            "stringValue" => Value::String(json.as_str().ok_or_else(wrong)?.to_owned()),
            "boolValue" => Value::Bool(json.as_bool().ok_or_else(wrong)?),
            "intValue" => Value::Int(signed(json).ok_or_else(wrong)?),
            "doubleValue" => Value::Double(double(json).ok_or_else(wrong)?),
            "arrayValue" => {
                let of = object(json, "arrayValue")?;
                Value::Array(ArrayValue { values: list(of, "values", any_value)? })
            }
            "kvlistValue" => {
                let of = object(json, "kvlistValue")?;
                Value::KeyValues(KeyValueList { values: list(of, "values", key_value)? })
            }
            "bytesValue" => {
                let text = json.as_str().ok_or_else(wrong)?;
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                Value::Bytes(bytes.map_err(|_| wrong())?)
            }
            _ => continue,
        });
    }
    Ok(AnyValue { value })
}

fn object<'a>(json: &'a Json, name: &str) -> Read<&'a Map<String, Json>> {
    json.as_object().ok_or_else(|| wrong(name, json))
}

fn member<'a>(of: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    of.get(name).filter(|json| !json.is_null())
}

fn optional<T>(
    of: &Map<String, Json>,
    name: &str,
    read: impl Fn(&Json) -> Read<T>,
) -> Read<Option<T>> {
    member(of, name).map(read).transpose()
}

fn list<T>(of: &Map<String, Json>, name: &str, read: impl Fn(&Json) -> Read<T>) -> Read<Vec<T>> {
    match member(of, name) {
        None => Ok(Vec::new()),
        Some(Json::Array(list)) => list.iter().map(read).collect(),
        Some(other) => Err(wrong(name, other)),
    }
}

fn text(of: &Map<String, Json>, name: &str) -> Read<String> {
    match member(of, name) {
        None => Ok(String::new()),
        Some(json) => json.as_str().map(str::to_owned).ok_or_else(|| wrong(name, json)),
    }
}

fn id(of: &Map<String, Json>, name: &str) -> Read<Vec<u8>> {
    let text = text(of, name)?;
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        u8::try_from(digit(0)? << 4 | digit(1)?).ok()
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes.ok_or_else(|| Unreadable(format!("`{name}` is not hexadecimal digits")))
}

fn unsigned(of: &Map<String, Json>, name: &str) -> Read<u64> {
    match member(of, name) {
        None => Ok(0),
        Some(json) => match json {
            Json::String(text) => text.parse().ok(),
            json => json.as_u64(),
        }
        .ok_or_else(|| wrong(name, json)),
    }
}

fn count(of: &Map<String, Json>, name: &str) -> Read<u32> {
    let number = unsigned(of, name)?;
    u32::try_from(number)
        .map_err(|_| Unreadable(format!("`{name}` is {number}, which is too much")))
}

fn enumeration(of: &Map<String, Json>, name: &str, names: &[&str]) -> Read<i32> {
    match member(of, name) {
        None => Ok(0),
        Some(Json::String(text)) => {
            let position = names.iter().position(|known| known == text);
            let number = position.and_then(|position| i32::try_from(position).ok());
            number.ok_or_else(|| Unreadable(format!("`{name}` has none of its values")))
        }
        Some(json) => signed(json)
            .and_then(|number| i32::try_from(number).ok())
            .ok_or_else(|| wrong(name, json)),
    }
}

fn signed(json: &Json) -> Option<i64> {
    match json {
        Json::String(text) => text.parse().ok(),
        json => json.as_i64(),
    }
}

fn double(json: &Json) -> Option<f64> {
    match json {
        Json::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        json => json.as_f64(),
    }
}

/// Names the kind of what is there, never its content: it may be a secret.
fn wrong(name: &str, json: &Json) -> Unreadable {
    let kind = match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    };
    Unreadable(format!("`{name}` is {kind}, which is not what it has to be"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_of_the_specification_is_read() {
        let text = br#"{"resourceSpans":[{"resource":{"attributes":[
            {"key":"service.name","value":{"stringValue":"my.service"}}]},
            "scopeSpans":[{"scope":{"name":"my.library","version":"1.0.0","future":{}},
            "spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",
            "parentSpanId":"eee19b7ec3c1b173","name":"I'm a server span",
            "startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,
            "kind":2,"status":null,"flags":257,
            "attributes":[{"key":"n","value":{"intValue":"-9"}},{"key":"d","value":{"doubleValue":0.5}},
            {"key":"b","value":{"bytesValue":"AP8="}},
            {"key":"l","value":{"arrayValue":{"values":[{"boolValue":true},{}]}}}],
            "events":[{"timeUnixNano":"1","name":"e"}],"links":[{"traceId":"00","spanId":""}]
            }]}]}]}"#;
        let request = read_request(text).unwrap();
        let resource = &request.resource_spans[0];
        assert_eq!(resource.resource.as_ref().unwrap().service_name(), "my.service");
        let span = &resource.scope_spans[0].spans[0];
        assert_eq!((span.trace_id.len(), span.span_id[0], span.kind), (16, 0xEE, 2));
        assert_eq!(span.start_time_unix_nano, 1_544_712_660_000_000_000);
        assert_eq!(span.end_time_unix_nano, 1_544_712_661_000_000_000);
        assert_eq!(span.attributes[0], KeyValue::new("n", Value::Int(-9)));
        assert_eq!(span.attributes[2], KeyValue::new("b", Value::Bytes(vec![0, 255])));
        assert_eq!((span.events.len(), span.links[0].trace_id.len()), (1, 1));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        let refuse = |text: &str| read_request(text.as_bytes()).unwrap_err().to_string();
        let secret = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"k","value":{"intValue":"hunter2"}}]}}]}"#;
        assert!(refuse(secret).contains("intValue") && !refuse(secret).contains("hunter2"));
        let ids = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz"}]}]}]}"#;
        assert!(refuse(ids).contains("traceId"));
        assert!(refuse("[]").contains("a list"));
        refuse("{");
    }

    #[test]
    fn an_empty_request_has_no_spans() {
        assert!(read_request(b"{}").unwrap().resource_spans.is_empty());
    }

    #[test]
    fn a_text_whose_values_would_fill_the_memory_is_refused_before_it_is_read() {
        let spans = |count| {
            let spans = vec!["{}"; count].join(",");
            format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#)
        };
        assert!(read_request(spans(1_000).as_bytes()).is_ok());
        let refusal = read_request(spans(VALUES_MAX).as_bytes()).unwrap_err().to_string();
        assert!(refusal.contains("fewer spans"), "{refusal}");
        let punctuation = format!("{{\"a\\\\\\\"{}\":1}}", "[{,".repeat(VALUES_MAX));
        assert!(is_small(punctuation.as_bytes()), "within texts nothing counts");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[\{\}\[\]",:a-zA-Z0-9]{0,200}"#) {
            let _ = read_request(text.as_bytes());
        }
    }
}
