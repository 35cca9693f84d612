//! B3 (<https://github.com/openzipkin/b3-propagation>), in several headers or in one.

use super::{Carried, Headers, SpanContext, header, hex_of, padded_id};

pub(super) fn read(headers: &Headers<'_>) -> Option<SpanContext> {
    let (sampled, debug) = sampling(headers);
    let span = context(
        headers.one("x-b3-traceid")?,
        headers.one("x-b3-spanid")?,
        headers.one("x-b3-parentspanid"),
    )?;
    Some(SpanContext { sampled, debug, ..span })
}

/// What headers decide that name no span: `b3: 0`, or `X-B3-Sampled` without ids.
pub(super) fn read_decision(headers: &Headers<'_>) -> Option<bool> {
    let single = headers.one("b3").and_then(state).map(|(sampled, _)| sampled);
    single.or(sampling(headers).0)
}

fn sampling(headers: &Headers<'_>) -> (Option<bool>, bool) {
    if headers.one("x-b3-flags") == Some("1") {
        return (Some(true), true);
    }
    let sampled = headers.one("x-b3-sampled").and_then(state).map(|(sampled, _)| sampled);
    (sampled, false)
}

/// Whether the trace is recorded, and whatever the ratio is.
fn state(text: &str) -> Option<(bool, bool)> {
    match text {
        "1" | "true" => Some((true, false)),
        "0" | "false" => Some((false, false)),
        "d" => Some((true, true)),
        _ => None,
    }
}

pub(super) fn read_single(headers: &Headers<'_>) -> Option<SpanContext> {
    let mut parts = headers.one("b3")?.split('-');
    let (trace_id, span_id) = (parts.next()?, parts.next()?);
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some(text) => state(text).map(|(sampled, debug)| (Some(sampled), debug))?,
    };
    let span = context(trace_id, span_id, parts.next())?;
    Some(SpanContext { sampled, debug, ..span }).filter(|_| parts.next().is_none())
}

fn context(trace_id: &str, span_id: &str, parent_id: Option<&str>) -> Option<SpanContext> {
    if !matches!(trace_id.len(), 16 | 32) || span_id.len() != 16 {
        return None;
    }
    let span = SpanContext::new(padded_id(trace_id)?, padded_id(span_id)?, None)?;
    let parent_id = parent_id.and_then(padded_id).filter(|parent| *parent != [0; 8]);
    Some(SpanContext { parent_id, ..span })
}

pub(super) fn write(carried: &Carried) -> Vec<(String, String)> {
    let digit = |sampled| if sampled { "1" } else { "0" };
    let Some(span) = &carried.span else {
        let decision = carried.sampled.map(|sampled| header("X-B3-Sampled", digit(sampled)));
        return decision.into_iter().collect();
    };
    let mut headers = vec![
        header("X-B3-TraceId", hex_of(&span.trace_id)),
        header("X-B3-SpanId", hex_of(&span.span_id)),
    ];
    if let Some(parent_id) = &span.parent_id {
        headers.push(header("X-B3-ParentSpanId", hex_of(parent_id)));
    }
    if span.debug {
        headers.push(header("X-B3-Flags", "1"));
    } else if let Some(sampled) = span.sampled {
        headers.push(header("X-B3-Sampled", digit(sampled)));
    }
    headers
}

pub(super) fn write_single(carried: &Carried) -> Vec<(String, String)> {
    let Some(span) = &carried.span else {
        let decision = carried.sampled.map(|sampled| header("b3", if sampled { "1" } else { "0" }));
        return decision.into_iter().collect();
    };
    let mut text = format!("{}-{}", hex_of(&span.trace_id), hex_of(&span.span_id));
    let state = match (span.debug, span.sampled) {
        (true, _) => Some("d"),
        (false, Some(true)) => Some("1"),
        (false, Some(false)) => Some("0"),
        (false, None) => None,
    };
    if let Some(state) = state {
        text = format!("{text}-{state}");
        // Without the state there is no place for it.
        if let Some(parent_id) = &span.parent_id {
            text = format!("{text}-{}", hex_of(parent_id));
        }
    }
    vec![header("b3", text)]
}
