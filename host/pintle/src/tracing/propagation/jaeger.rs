//! Jaeger's own headers
//! (<https://www.jaegertracing.io/docs/1.62/client-libraries/#propagation-format>).

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Carried, Headers, SpanContext, header, hex_of, padded_id};

const BAGGAGE_PREFIX: &str = "uberctx-";
const SAMPLED: u8 = 1;
const DEBUG: u8 = 2;

pub(super) fn read(headers: &Headers<'_>) -> Option<SpanContext> {
    // Some senders escape the colons.
    let text = percent_decode_str(headers.one("uber-trace-id")?).decode_utf8().ok()?;
    let mut parts = text.split(':');
    let (trace_id, span_id, parent_id, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let debug = flags & DEBUG != 0;
    let sampled = Some(debug || flags & SAMPLED != 0);
    let span = SpanContext::new(padded_id(trace_id)?, padded_id(span_id)?, sampled)?;
    let parent_id = padded_id(parent_id).filter(|parent| *parent != [0; 8]);
    Some(SpanContext { parent_id, debug, ..span })
}

pub(super) fn read_baggage(headers: &Headers<'_>) -> Vec<(String, String)> {
    let read = headers.prefixed(BAGGAGE_PREFIX).filter_map(|(name, value)| {
        let value = percent_decode_str(value).decode_utf8().ok()?;
        Some((name.to_ascii_lowercase(), value.into_owned()))
    });
    read.collect()
}

pub(super) fn write(carried: &Carried) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    if let Some(span) = &carried.span {
        let parent = span.parent_id.map_or_else(|| "0".to_owned(), |parent| hex_of(&parent));
        let flags = u8::from(span.is_sampled()) * SAMPLED + u8::from(span.debug) * DEBUG;
        let ids = format!("{}:{}", hex_of(&span.trace_id), hex_of(&span.span_id));
        headers.push(header("uber-trace-id", format!("{ids}:{parent}:{flags:x}")));
    }
    for (name, value) in &carried.baggage {
        // Names become names of headers.
        let is_name = name.bytes().all(|byte| {
            byte.is_ascii_digit() || byte.is_ascii_lowercase() || b"-_.".contains(&byte)
        });
        if is_name && !name.is_empty() {
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
            headers.push(header(&format!("{BAGGAGE_PREFIX}{name}"), value));
        }
    }
    headers
}
