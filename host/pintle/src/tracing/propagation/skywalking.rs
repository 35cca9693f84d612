//! SkyWalking's headers, version 3
//! (<https://skywalking.apache.org/docs/main/next/en/api/x-process-propagation-headers-v3/> and
//! <https://skywalking.apache.org/docs/main/next/en/api/x-process-correlation-headers-v1/>).

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{Carried, Headers, SpanContext, header, hex_of};

/// What stands for a name that the caller does not know; none may be empty.
const UNKNOWN: &str = "unknown";

/// The caller's span in SkyWalking's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkyWalkingContext {
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// Any text.
    pub trace_id: String,
    /// The caller's segment.
    pub segment_id: String,
    /// Number of the caller's span in it.
    pub span_index: u32,
    /// The caller's service.
    pub service: String,
    /// Its instance.
    pub instance: String,
    /// The request that the caller works on.
    pub endpoint: String,
    /// The address at which the caller reaches us.
    pub peer: String,
}

impl SkyWalkingContext {
    /// The same as other conventions tell it. A trace id that is no 16 bytes is replaced by a digest
    /// of it, and the span by one of its segment and number: equal ones stay equal.
    #[must_use]
    pub fn span(&self) -> Option<SpanContext> {
        let as_written = pintle_otlp::text::from_hex::<16>(&self.trace_id);
        let trace_id = as_written.unwrap_or_else(|| digest(&[&self.trace_id]));
        let [.., a, b, c, d, e, f, g, h] =
            digest(&[&self.segment_id, &self.span_index.to_string()]);
        SpanContext::new(trace_id, [a, b, c, d, e, f, g, h], Some(self.sampled))
    }

    /// A span that was told in another convention. Its segment is named as the plugin `skywalking`
    /// names that of a span which begins one.
    fn of(span: &SpanContext) -> Self {
        let (trace_id, span_id) = (hex_of(&span.trace_id), hex_of(&span.span_id));
        Self {
            sampled: span.is_sampled(),
            segment_id: format!("{trace_id}.{span_id}"),
            trace_id,
            span_index: 0,
            service: UNKNOWN.into(),
            instance: UNKNOWN.into(),
            endpoint: UNKNOWN.into(),
            peer: UNKNOWN.into(),
        }
    }
}

fn digest(parts: &[&str]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let mut short = [0; 16];
    for (byte, full) in short.iter_mut().zip(hasher.finalize()) {
        *byte = full;
    }
    short
}

fn decoded(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

pub(super) fn read(headers: &Headers<'_>) -> Option<SkyWalkingContext> {
    let mut parts = headers.one("sw8")?.split('-');
    let mut next = || parts.next();
    let sampled = match next()? {
        "1" => true,
        "0" => false,
        _ => return None,
    };
    let context = SkyWalkingContext {
        sampled,
        trace_id: decoded(next()?)?,
        segment_id: decoded(next()?)?,
        span_index: next()?.parse().ok()?,
        service: decoded(next()?)?,
        instance: decoded(next()?)?,
        endpoint: decoded(next()?)?,
        peer: decoded(next()?)?,
    };
    let is_whole = !context.trace_id.is_empty() && !context.segment_id.is_empty();
    (is_whole && parts.next().is_none()).then_some(context)
}

pub(super) fn read_correlation(headers: &Headers<'_>) -> Vec<(String, String)> {
    let members = headers.all("sw8-correlation").flat_map(|value| value.split(','));
    let read = members.filter_map(|member| {
        let (name, value) = member.trim().split_once(':')?;
        Some((decoded(name)?, decoded(value)?)).filter(|(name, _)| !name.is_empty())
    });
    read.collect()
}

pub(super) fn write(carried: &Carried) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let derived = || carried.span.as_ref().map(SkyWalkingContext::of);
    if let Some(of) = carried.skywalking.clone().or_else(derived) {
        let encoded = |text: &str| STANDARD.encode(text);
        let value = [
            u8::from(of.sampled).to_string(),
            encoded(&of.trace_id),
            encoded(&of.segment_id),
            of.span_index.to_string(),
            encoded(&of.service),
            encoded(&of.instance),
            encoded(&of.endpoint),
            encoded(&of.peer),
        ];
        headers.push(header("sw8", value.join("-")));
    }
    let members: Vec<_> = carried
        .baggage
        .iter()
        .map(|(name, value)| format!("{}:{}", STANDARD.encode(name), STANDARD.encode(value)))
        .collect();
    if !members.is_empty() {
        headers.push(header("sw8-correlation", members.join(",")));
    }
    headers
}
