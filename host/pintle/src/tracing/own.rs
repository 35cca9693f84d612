//! What this host itself does, as spans of the service `pintle`: requests to its API, and calls on
//! its plugins. Off unless the settings say otherwise.
//!
//! They go through the host's own pipeline. Calls that deliver spans make none, or they would never
//! end.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, OnceLock, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use pintle_otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span, SpanKind, Status, StatusCode, flags, text::hex,
};
use prost::Message;

use super::{
    TraceHeaders,
    context::current,
    pipeline::{Pipeline, WeakPipeline},
    propagation::{SpanContext, extract},
};

/// Begins spans, where they are wanted.
#[derive(Default)]
pub(crate) struct OwnSpans {
    to: OnceLock<To>,
}

struct To {
    pipeline: WeakPipeline,
    resource: Resource,
}

/// A span of this host; it ends when it is dropped.
pub struct OwnSpan {
    to: Weak<OwnSpans>,
    context: SpanContext,
    state: String,
    span: Span,
}

/// What a span is about: [`OwnSpan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Somebody asks this host.
    Server,
    /// This host asks a plugin.
    Client,
}

impl OwnSpans {
    /// From now on spans go there.
    pub(crate) fn report_to(&self, pipeline: &Pipeline, node: &str) {
        let attributes = vec![
            KeyValue::text("service.name", "pintle"),
            KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::text("service.instance.id", node),
            KeyValue::text("telemetry.sdk.language", "rust"),
        ];
        let resource = Resource { attributes, dropped_attributes_count: 0 };
        // Said twice, the first counts.
        let _ = self.to.set(To { pipeline: pipeline.downgrade(), resource });
    }

    /// Begins a span in the trace that the caller belongs to, or in a new one. None when spans are not
    /// wanted, or the caller does not record its trace.
    pub(crate) fn begin(
        self: &Arc<Self>,
        role: Role,
        name: impl FnOnce() -> String,
    ) -> Option<OwnSpan> {
        self.to.get()?;
        let headers = current();
        let parent = headers
            .as_ref()
            .and_then(|headers| extract([("traceparent", headers.traceparent.as_str())]).span);
        let decided = headers.as_ref().and_then(|headers| headers.sampled);
        // What this host does of its own accord belongs to nobody's trace.
        let is_wanted = match (decided, &parent) {
            (Some(decided), _) => decided,
            (None, Some(parent)) => parent.is_sampled(),
            (None, None) => role == Role::Server,
        };
        if !is_wanted {
            return None;
        }
        let trace_id = match &parent {
            Some(parent) => parent.trace_id,
            None => (u128::from(random()) << 64 | u128::from(random())).max(1).to_be_bytes(),
        };
        let span_id = random().max(1).to_be_bytes();
        let context = SpanContext::new(trace_id, span_id, Some(true))?;
        let is_remote = role == Role::Server && parent.is_some();
        let remote = if is_remote { flags::IS_REMOTE } else { 0 };
        let kind = match role {
            Role::Server => SpanKind::Server,
            Role::Client => SpanKind::Client,
        };
        let span = Span {
            trace_id: trace_id.into(),
            span_id: span_id.into(),
            parent_span_id: parent.map(|parent| parent.span_id.into()).unwrap_or_default(),
            name: name(),
            kind: kind.into(),
            start_time_unix_nano: now(),
            flags: flags::SAMPLED | flags::HAS_IS_REMOTE | remote,
            ..Span::default()
        };
        let state = headers.map(|headers| headers.tracestate).unwrap_or_default();
        Some(OwnSpan { to: Arc::downgrade(self), context, state, span })
    }

    fn end(&self, span: Span) {
        let Some(To { pipeline, resource }) = self.to.get() else { return };
        let Some(pipeline) = pipeline.upgrade() else { return };
        let scope = InstrumentationScope { name: "pintle".into(), ..Default::default() };
        let scope_spans =
            vec![ScopeSpans { scope: Some(scope), spans: vec![span], schema_url: String::new() }];
        let resource_spans = vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans,
            schema_url: String::new(),
        }];
        let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        // What finds no room is counted; after the end of the host there is nobody to tell.
        let _ = pipeline.offer(request.into());
    }
}

impl OwnSpan {
    /// Headers for what is done in this span.
    #[must_use]
    pub fn headers(&self) -> TraceHeaders {
        let carried = super::propagation::Carried {
            span: Some(self.context),
            state: self.state.clone(),
            ..Default::default()
        };
        carried.trace_headers().unwrap_or_default()
    }

    /// The trace that it belongs to, in hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex(&self.context.trace_id)
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, key: &str, value: impl Into<String>) {
        self.span.attributes.push(KeyValue::text(key, value));
    }

    /// It failed, with this code.
    pub fn fail(&mut self, code: &str) {
        self.attribute("error.type", code);
        let status = Status { message: String::new(), code: StatusCode::Error.into() };
        self.span.status = Some(status);
    }
}

impl Drop for OwnSpan {
    fn drop(&mut self) {
        self.span.end_time_unix_nano = now();
        if let Some(to) = self.to.upgrade() {
            to.end(std::mem::take(&mut self.span));
        }
    }
}

impl std::fmt::Debug for OwnSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnSpan").field("name", &self.span.name).finish_non_exhaustive()
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
