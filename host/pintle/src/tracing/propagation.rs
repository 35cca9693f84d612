//! How a trace goes on in another process: headers of five conventions, read and written.
//!
//! Everything here is pure. What cannot be understood is left out, as the conventions ask for: a
//! header of somebody else never fails a request.
//!
//! ```
//! use pintle::tracing::propagation::{Format, extract, inject};
//!
//! let carried = extract([("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1")]);
//! let headers = inject(&carried, Format::W3c);
//! assert_eq!(headers[0].0, "traceparent");
//! assert_eq!(headers[0].1, "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01");
//! ```

use std::fmt;
use std::str::FromStr;

use pintle_otlp::text::hex;

use super::TraceHeaders;

mod b3;
mod jaeger;
mod skywalking;
mod w3c;

#[cfg(test)]
mod tests;

pub use skywalking::SkyWalkingContext;

/// Most members of baggage, and most bytes of it: what W3C lets everybody rely on.
const BAGGAGE_MEMBERS_MAX: usize = 64;
const BAGGAGE_BYTES_MAX: usize = 8_192;

/// A convention of headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `traceparent`, `tracestate` and `baggage` of W3C.
    W3c,
    /// `X-B3-TraceId` and its companions, of Zipkin.
    B3,
    /// The same in one header, `b3`.
    B3Single,
    /// `uber-trace-id` and `uberctx-…`, of Jaeger.
    Jaeger,
    /// `sw8` and `sw8-correlation`, of SkyWalking.
    SkyWalking,
}

/// The span that a request was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanContext {
    /// Not all zero.
    pub trace_id: [u8; 16],
    /// Not all zero.
    pub span_id: [u8; 8],
    /// The parent of the span, where the convention tells it.
    pub parent_id: Option<[u8; 8]>,
    /// Whether the caller records the trace; nothing where it leaves that to us.
    pub sampled: Option<bool>,
    /// Record it whatever the ratio is.
    pub debug: bool,
}

/// What headers carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// The caller's span.
    pub span: Option<SpanContext>,
    /// Whether the trace is to be recorded that begins here, where the caller decided that without
    /// naming a span: B3 can.
    pub sampled: Option<bool>,
    /// What vendors add to it: the header `tracestate` of W3C.
    pub state: String,
    /// Names and values that go along with the request.
    pub baggage: Vec<(String, String)>,
    /// The caller's span in SkyWalking's words.
    pub skywalking: Option<SkyWalkingContext>,
}

impl Format {
    /// All formats, in the order in which [`extract`] believes them.
    pub const ALL: [Self; 5] =
        [Self::W3c, Self::SkyWalking, Self::B3Single, Self::B3, Self::Jaeger];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::W3c => "w3c",
            Self::B3 => "b3",
            Self::B3Single => "b3-single",
            Self::Jaeger => "jaeger",
            Self::SkyWalking => "skywalking",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such format; there are w3c, b3, b3-single, jaeger and skywalking")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.as_str() == name).ok_or(UnknownFormat)
    }
}

impl SpanContext {
    /// A span of which no more is known.
    ///
    /// None when an id is all zero.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], sampled: Option<bool>) -> Option<Self> {
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, parent_id: None, sampled, debug: false })
    }

    /// Whether it is recorded, as far as is known.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.decision() == Some(true)
    }

    /// What the caller decided, if it did.
    fn decision(&self) -> Option<bool> {
        if self.debug { Some(true) } else { self.sampled }
    }
}

impl Carried {
    /// Whether the caller records the trace; none where it leaves that to us.
    #[must_use]
    pub fn decision(&self) -> Option<bool> {
        match &self.span {
            Some(span) => span.decision(),
            None => self.sampled,
        }
    }

    /// The headers with which calls go on: see [`super::in_trace`]. A trace of which the caller left
    /// the decision to us is recorded like one that begins here; W3C has no word for that.
    #[must_use]
    pub fn trace_headers(&self) -> Option<TraceHeaders> {
        let Some(span) = &self.span else {
            let sampled = Some(self.sampled?);
            return Some(TraceHeaders { sampled, ..TraceHeaders::default() });
        };
        Some(TraceHeaders {
            traceparent: w3c::traceparent(span),
            tracestate: self.state.clone(),
            sampled: if span.decision().is_none() { Some(true) } else { None },
        })
    }
}

/// Headers by name, whatever their case.
pub(crate) struct Headers<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Headers<'a> {
    /// The only value of a header: of two that differ none can be believed.
    fn one(&self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    }

    fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a str> + 'b {
        let named = move |(header, _): &&(&str, &str)| header.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|(_, value)| value.trim())
    }

    /// Headers whose names begin so, without that beginning.
    fn prefixed<'b>(&'b self, prefix: &'b str) -> impl Iterator<Item = (&'a str, &'a str)> + 'b {
        self.0.iter().filter_map(move |(header, value)| {
            let (begin, rest) = header.split_at_checked(prefix.len())?;
            let fits = begin.eq_ignore_ascii_case(prefix) && !rest.is_empty();
            fits.then(|| (rest, value.trim()))
        })
    }
}

/// Reads what headers carry, in whatever convention. Where several tell of a span, the first of
/// [`Format::ALL`] is believed; baggage comes from all.
pub fn extract<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Carried {
    let headers = Headers(headers.into_iter().collect());
    let mut carried = Carried { skywalking: skywalking::read(&headers), ..Carried::default() };
    for format in Format::ALL {
        let span = match format {
            Format::W3c => {
                let span = w3c::read(&headers);
                if span.is_some() {
                    carried.state = w3c::read_state(&headers);
                }
                span
            }
            Format::SkyWalking => carried.skywalking.as_ref().and_then(SkyWalkingContext::span),
            Format::B3Single => b3::read_single(&headers),
            Format::B3 => b3::read(&headers),
            Format::Jaeger => jaeger::read(&headers),
        };
        carried.span = carried.span.or(span);
    }
    if carried.span.is_none() {
        carried.sampled = b3::read_decision(&headers);
    }
    let baggage = w3c::read_baggage(&headers)
        .into_iter()
        .chain(jaeger::read_baggage(&headers))
        .chain(skywalking::read_correlation(&headers));
    let mut bytes = 0;
    for (name, value) in baggage {
        bytes += name.len() + value.len() + 2;
        let full = carried.baggage.len() >= BAGGAGE_MEMBERS_MAX || bytes > BAGGAGE_BYTES_MAX;
        if full {
            break;
        }
        if !carried.baggage.iter().any(|(known, _)| *known == name) {
            carried.baggage.push((name, value));
        }
    }
    carried
}

/// Writes headers in one convention. What it has no place for is left out.
#[must_use]
pub fn inject(carried: &Carried, format: Format) -> Vec<(String, String)> {
    match format {
        Format::W3c => w3c::write(carried),
        Format::B3 => b3::write(carried),
        Format::B3Single => b3::write_single(carried),
        Format::Jaeger => jaeger::write(carried),
        Format::SkyWalking => skywalking::write(carried),
    }
}

/// An id of up to `N` bytes in hexadecimal digits, filled up with zeros from the left.
fn padded_id<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.is_empty() || text.len() > N * 2 || !text.is_ascii() {
        return None;
    }
    let padded = format!("{text:0>width$}", width = N * 2);
    pintle_otlp::text::from_hex(&padded)
}

fn header(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn hex_of(id: &[u8]) -> String {
    hex(id)
}
