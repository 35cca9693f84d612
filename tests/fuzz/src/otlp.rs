//! Requests of OTLP, as bytes and as JSON, and the answers to them.

use crate::in_proportion;
use bytes::Bytes;
use pintle_otlp::json::read_request;
use pintle_otlp::parts::{Piece, put_together, survey, take_apart};
use pintle_otlp::redact::Redaction;
use pintle_otlp::status::retry_delay;
use pintle_otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use pintle_plugin_otlp::wire::{partial_success, prepare, sift};
use prost::Message;

/// A span that is empty takes 2 bytes on the wire.
const BYTES_PER_BYTE: u64 = 64;
/// `{}` becomes a span, all of whose members have a place in it.
const BYTES_PER_BYTE_OF_JSON: u64 = 512;
/// What the value of an attribute becomes may be longer than all of the attribute was.
const BYTES_PER_BYTE_REDACTED: u64 = 32;

pub(crate) fn read(input: &[u8]) {
    let surveyed = survey(input);
    let take = |input: &[u8]| take_apart(Bytes::copy_from_slice(input));
    if let Ok(parts) = in_proportion(BYTES_PER_BYTE, input, take) {
        let spans = (parts.pieces.len() + parts.defects.len()) as u64;
        assert_eq!(surveyed.map(|it| it.spans), Ok(spans), "both count the same");
        pass_on(&parts.pieces);
    }
    redact(input);
    retry_delay(input);
    if let Ok(answer) = ExportTraceServiceResponse::decode(input) {
        partial_success(&answer, 1);
    }
}

/// What passes is a request for each receiver, with all of its spans.
fn pass_on(pieces: &[Piece]) {
    let request = put_together(pieces.iter().map(Piece::part));
    let decoded = ExportTraceServiceRequest::decode(request.clone()).expect("it passed");
    let scopes = decoded.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    assert_eq!(scopes.map(|scope| scope.spans.len()).sum::<usize>(), pieces.len());
    let again = take_apart(request.clone()).expect("it passed");
    assert_eq!((again.pieces.as_slice(), again.defects.len()), (pieces, 0), "nothing is lost");
    let prepared = prepare(request.clone()).expect("it passed");
    assert_eq!((&prepared.request, prepared.rejected.len()), (&request, 0), "byte for byte");
    assert_eq!(sift(request), Ok(prepared));
}

/// What was redacted has nothing more to redact.
fn redact(input: &[u8]) {
    let redaction = Redaction::new(["secret*", "*y"]);
    let rewrite = |input: &[u8]| redaction.span(Bytes::copy_from_slice(input));
    if let Ok(once) = in_proportion(BYTES_PER_BYTE_REDACTED, input, rewrite) {
        assert_eq!(redaction.span(once.clone()), Ok(once));
    }
}

pub(crate) fn read_json(input: &[u8]) {
    let read = |input: &[u8]| read_request(input);
    if let Ok(request) = in_proportion(BYTES_PER_BYTE_OF_JSON, input, read) {
        let bytes = request.encode_to_vec();
        let again = ExportTraceServiceRequest::decode(bytes.as_slice()).expect("it was written");
        // Not compared as it is: a number may be none, which is not equal to itself.
        assert_eq!(again.encode_to_vec(), bytes, "written and read again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::request;
    use pintle_otlp::{AnyValue, ArrayValue, KeyValue, Span, Value};

    #[test]
    fn values_that_stand_deep_in_each_other_take_memory_once_to_be_redacted() {
        let mut value = Value::String("x".repeat(100_000));
        for _ in 0..20 {
            value = Value::Array(ArrayValue { values: vec![AnyValue { value: Some(value) }] });
        }
        let span = Span { attributes: vec![KeyValue::new("v", value)], ..Span::default() };
        let bytes = Bytes::from(span.encode_to_vec());
        let redacted = in_proportion(4, &bytes, |_| Redaction::new(["secret"]).span(bytes.clone()));
        assert_eq!(redacted, Ok(bytes));
    }

    #[test]
    fn what_spans_share_takes_memory_once() {
        read(&request("service.name", ""));
    }
}
