//! OTLP `ExportTraceServiceRequest` and `TracesData`, which have the same form: resources, their
//! scopes, and spans. Field numbers are those of `opentelemetry/proto/trace/v1/trace.proto`.
//!
//! A resource, a scope and a span are kept as the bytes that they came in, so that nothing of them
//! is lost, whatever later versions of the protocol add; only what is searched for is read.

use prost::Message;
use prost::bytes::Bytes;
use std::rc::Rc;

/// A batch, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Spans of one resource and one scope each, in the order of the batch.
    pub groups: Vec<Group>,
}

/// Spans that share a resource and a scope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The `Resource`; none if there was none.
    pub resource: Option<Bytes>,
    /// The resource's `service.name`; empty if it has none. As the schema, it is in memory once for all
    /// scopes of a resource: there may be thousands, and either may be long.
    pub service: Rc<str>,
    /// Schema of the resource's attributes.
    pub resource_schema: Rc<str>,
    /// The `InstrumentationScope`; none if there was none.
    pub scope: Option<Bytes>,
    /// Schema of the scope's and the spans' attributes.
    pub scope_schema: String,
    /// The spans.
    pub spans: Vec<Span>,
}

/// One span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// The `Span`.
    pub bytes: Bytes,
    /// Its trace; 16 bytes unless the sender broke the rules.
    pub trace_id: Bytes,
    /// Its own id; 8 bytes unless the sender broke the rules.
    pub span_id: Bytes,
}

/// The bytes are no such message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no OTLP trace request: {0}")]
pub struct Malformed(prost::DecodeError);

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self(error)
    }
}

#[derive(Clone, PartialEq, Message)]
struct TracesData {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(bytes = "bytes", optional, tag = "1")]
    resource: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(bytes = "bytes", optional, tag = "1")]
    scope: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    spans: Vec<Bytes>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

/// What of a span is read, so that a span that is no message is noticed.
#[derive(Clone, PartialEq, Message)]
struct SpanHead {
    #[prost(bytes = "bytes", tag = "1")]
    trace_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    span_id: Bytes,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// Of the kinds of values only text; the others are skipped.
#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// Takes an `ExportTraceServiceRequest` or a `TracesData` apart.
///
/// # Errors
///
/// [`Malformed`] when the bytes are neither.
pub fn decode(batch: impl Into<Bytes>) -> Result<Batch, Malformed> {
    let data = TracesData::decode(batch.into())?;
    let mut groups = Vec::new();
    for resource_spans in data.resource_spans {
        let service = service_name(resource_spans.resource.as_ref())?;
        let resource_schema: Rc<str> = resource_spans.schema_url.into();
        for scope_spans in resource_spans.scope_spans {
            if let Some(scope) = &scope_spans.scope {
                Scope::decode(scope.clone())?;
            }
            groups.push(Group {
                resource: resource_spans.resource.clone(),
                service: Rc::clone(&service),
                resource_schema: Rc::clone(&resource_schema),
                scope: scope_spans.scope,
                scope_schema: scope_spans.schema_url,
                spans: scope_spans.spans.into_iter().map(span).collect::<Result<_, _>>()?,
            });
        }
    }
    Ok(Batch { groups })
}

fn service_name(resource: Option<&Bytes>) -> Result<Rc<str>, Malformed> {
    let Some(resource) = resource else { return Ok("".into()) };
    let resource = Resource::decode(resource.clone())?;
    let named = resource.attributes.into_iter().find(|attribute| attribute.key == "service.name");
    Ok(named.and_then(|attribute| attribute.value?.string).unwrap_or_default().into())
}

fn span(bytes: Bytes) -> Result<Span, Malformed> {
    let SpanHead { trace_id, span_id, .. } = SpanHead::decode(bytes.clone())?;
    Ok(Span { bytes, trace_id, span_id })
}

/// Puts one `TracesData` together.
#[derive(Clone, Debug, Default)]
pub struct TraceWriter {
    data: TracesData,
}

impl TraceWriter {
    /// Adds spans of one resource and scope.
    pub fn add(&mut self, group: Group) {
        let scope = ScopeSpans {
            scope: group.scope,
            spans: group.spans.into_iter().map(|span| span.bytes).collect(),
            schema_url: group.scope_schema,
        };
        self.data.resource_spans.push(ResourceSpans {
            resource: group.resource,
            scope_spans: vec![scope],
            schema_url: String::from(&*group.resource_schema),
        });
    }

    /// The message's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.data.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch written down by hand: one resource with `service.name` = "shop", one scope "lib",
    /// one span with an attribute, and field 99 at the end, which nobody knows yet.
    const GOLDEN: &str = "0a4a\
        0a180a160a0c736572766963652e6e616d6512060a0473686f70\
        1229\
        0a050a036c6962\
        1220\
        0a1000112233445566778899aabbccddeeff\
        12080102030405060708\
        9a0601\
        78\
        1a03\
        75726c";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn a_batch_is_taken_apart_and_put_together_again_without_loss() {
        let golden = bytes(GOLDEN);
        let batch = decode(golden.clone()).unwrap();
        assert_eq!(batch.groups.len(), 1);
        let group = &batch.groups[0];
        assert_eq!(&*group.service, "shop");
        assert_eq!(&*group.resource_schema, "url");
        assert_eq!(group.spans.len(), 1);
        assert_eq!(&group.spans[0].trace_id[..], &bytes("00112233445566778899aabbccddeeff")[..]);
        assert_eq!(&group.spans[0].span_id[..], &bytes("0102030405060708")[..]);
        let mut writer = TraceWriter::default();
        writer.add(group.clone());
        assert_eq!(writer.finish(), golden);
    }

    #[test]
    fn an_empty_batch_has_no_spans() {
        assert_eq!(decode(Vec::new()).unwrap(), Batch::default());
    }

    #[test]
    fn a_batch_that_is_cut_off_is_malformed_wherever_it_is_cut() {
        let golden = bytes(GOLDEN);
        for length in 1..golden.len() {
            assert!(decode(golden[..length].to_vec()).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn a_span_that_is_no_message_is_malformed() {
        let mut writer = TraceWriter::default();
        let span = Span { bytes: Bytes::from_static(&[0x0A, 0xFF]), ..Span::default() };
        writer.add(Group { spans: vec![span], ..Group::default() });
        assert!(decode(writer.finish()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(input);
        }

        #[test]
        fn no_damage_makes_the_decoder_panic(at in any::<prop::sample::Index>(), with: u8) {
            let mut damaged = bytes(GOLDEN);
            let at = at.index(damaged.len());
            damaged[at] = with;
            let _ = decode(damaged);
        }

        #[test]
        fn what_is_put_together_is_taken_apart_the_same(
            spans in prop::collection::vec((prop::array::uniform16(any::<u8>()), any::<[u8; 8]>()), 0..5),
        ) {
            let spans: Vec<_> = spans
                .into_iter()
                .map(|(trace_id, span_id)| {
                    let head = SpanHead {
                        trace_id: Bytes::copy_from_slice(&trace_id),
                        span_id: Bytes::copy_from_slice(&span_id),
                        ..SpanHead::default()
                    };
                    let bytes = Bytes::from(head.encode_to_vec());
                    Span { bytes, trace_id: head.trace_id, span_id: head.span_id }
                })
                .collect();
            let group = Group { spans, ..Group::default() };
            let mut writer = TraceWriter::default();
            writer.add(group.clone());
            prop_assert_eq!(decode(writer.finish()).unwrap(), Batch { groups: vec![group] });
        }
    }
}
