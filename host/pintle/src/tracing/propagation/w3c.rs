//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>) and Baggage
//! (<https://www.w3.org/TR/baggage/>).

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::{Carried, Headers, SpanContext, header, hex_of};

/// Most members of `tracestate`, and the bytes that everybody passes on.
const STATE_MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 512;
/// Members that are longer are the first to be left out.
const STATE_MEMBER_BYTES: usize = 128;

/// What may not stand in a value of baggage as it is.
const BAGGAGE_ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\').add(b'%').add(b'=');

pub(super) fn read(headers: &Headers<'_>) -> Option<SpanContext> {
    let text = headers.one("traceparent")?;
    let mut parts = text.split('-');
    let (version, trace_id, span_id, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Only small letters: others must be refused.
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let well_formed = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace_id, 32)
        && is_hex(span_id, 16)
        && is_hex(flags, 2);
    // Later versions may add parts; this one has none.
    if !well_formed || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    SpanContext::new(
        pintle_otlp::text::from_hex(trace_id)?,
        pintle_otlp::text::from_hex(span_id)?,
        Some(flags & 1 == 1),
    )
}

pub(super) fn read_state(headers: &Headers<'_>) -> String {
    let members = headers.all("tracestate").flat_map(|value| value.split(','));
    let mut members: Vec<_> = members.map(str::trim).filter(|member| !member.is_empty()).collect();
    let is_member = |member: &&str| {
        member.split_once('=').is_some_and(|(key, value)| {
            !key.is_empty()
                && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'))
                && !value.is_empty()
                && value.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'=')
        })
    };
    if members.len() > STATE_MEMBERS_MAX || !members.iter().all(is_member) {
        return String::new();
    }
    // The newest stand at the front.
    while members.iter().map(|member| member.len() + 1).sum::<usize>() > STATE_BYTES_MAX + 1 {
        let long = members.iter().rposition(|member| member.len() > STATE_MEMBER_BYTES);
        members.remove(long.unwrap_or(members.len() - 1));
    }
    members.join(",")
}

pub(super) fn read_baggage(headers: &Headers<'_>) -> Vec<(String, String)> {
    let members = headers.all("baggage").flat_map(|value| value.split(','));
    let read = members.filter_map(|member| {
        // Properties behind a semicolon mean nothing to us.
        let (name, value) = member.split(';').next()?.split_once('=')?;
        let name = name.trim();
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        is_token(name).then(|| (name.to_owned(), value.into_owned()))
    });
    read.collect()
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

pub(super) fn traceparent(span: &SpanContext) -> String {
    let flags = u8::from(span.is_sampled());
    format!("00-{}-{}-{flags:02x}", hex_of(&span.trace_id), hex_of(&span.span_id))
}

pub(super) fn write(carried: &Carried) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    if let Some(span) = &carried.span {
        headers.push(header("traceparent", traceparent(span)));
        if !carried.state.is_empty() {
            headers.push(header("tracestate", carried.state.as_str()));
        }
    }
    let members = carried.baggage.iter().filter(|(name, _)| is_token(name));
    let members: Vec<_> = members
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, BAGGAGE_ESCAPED)))
        .collect();
    if !members.is_empty() {
        headers.push(header("baggage", members.join(",")));
    }
    headers
}
