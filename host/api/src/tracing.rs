//! Spans on their way, and how a trace goes on in another process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What came in and what became of it, at one moment: `GET /v1/tracing/status`.
///
/// It adds up: `received` is all of `rejected`, all of `sampled_out`, and `passed`; and for each sink
/// `passed` is `delivered`, all of `rejected`, all of `dropped`, and `pending`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = TracingStatus))]
pub struct Status {
    /// Spans that came in.
    pub received: u64,
    /// Spans of requests that found no room and are to be sent again; not in `received`.
    pub turned_away: u64,
    /// Spans that are none, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Spans that were not chosen, by reason.
    pub sampled_out: BTreeMap<String, u64>,
    /// Spans that were passed on to every sink.
    pub passed: u64,
    /// What became of them.
    pub sinks: Vec<Sink>,
}

/// What became of the spans that were passed on to one backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = TracingSink))]
pub struct Sink {
    /// The backend.
    pub backend: String,
    /// Spans that it took.
    pub delivered: u64,
    /// Spans that it refused, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Spans that the host dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Spans that wait or are under way.
    pub pending: u64,
    /// Bytes of them.
    pub pending_bytes: u64,
    /// Exports that were answered.
    pub batches: u64,
    /// Exports that were tried again.
    pub retries: u64,
    /// Why the last export failed, unless one succeeded since.
    pub last_error: Option<String>,
}

/// Headers by name: the body of `POST /v1/tracing/extract`, and what `POST /v1/tracing/inject`
/// answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = TraceHeaders))]
pub struct Headers {
    /// In any order.
    pub headers: BTreeMap<String, String>,
}

/// What headers carry, whatever convention they follow: the answer to `POST /v1/tracing/extract`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = TraceContext))]
pub struct Carried {
    /// 32 hexadecimal digits; absent when no header tells of a span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// The same of the span's parent, where the convention tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Whether the caller records the trace; absent where it leaves that open. B3 can say so without
    /// telling of a span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<bool>,
    /// Record it whatever the ratio is.
    #[serde(default)]
    pub debug: bool,
    /// The header `tracestate`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Names and values that go along.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baggage: BTreeMap<String, String>,
}

/// What is to be written, and how: the body of `POST /v1/tracing/inject`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = InjectTrace))]
pub struct Inject {
    /// `w3c`, `b3`, `b3-single`, `jaeger` or `skywalking`.
    pub format: String,
    /// What the headers shall carry.
    pub carried: Carried,
}
