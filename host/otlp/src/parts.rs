//! A request taken apart into spans and where they come from, and put together again. What this
//! does not know stays as it is.

use crate::check::check_span;
use crate::wire::{self, Raw, put_bytes, put_key};
use prost::bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// The bytes are no such message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no OTLP trace request: {0}")]
pub struct Malformed(&'static str);

impl Malformed {
    pub(crate) fn new(reason: &'static str) -> Self {
        Self(reason)
    }

    pub(crate) fn too_short() -> Self {
        Self("it ends within a field")
    }
}

/// What spans have in common: resource, scope, schemas. Two that are equal come from one sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Everything of a `ResourceSpans` but its `scope_spans`.
    pub resource: Bytes,
    /// Everything of a `ScopeSpans` but its `spans`.
    pub scope: Bytes,
}

/// One span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it comes from.
    pub origin: Arc<Origin>,
    /// The `Span`.
    pub bytes: Bytes,
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Its flags; see [`crate::messages::flags`].
    pub flags: u32,
}

/// Why a span cannot be passed on although its neighbours can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// The bytes are no span.
    Malformed,
    /// The trace's id is not 16 bytes, or all of them are zero.
    TraceId,
    /// The span's id is not 8 bytes, or all of them are zero.
    SpanId,
}

impl Defect {
    /// The reason that senders are given.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "the span is no OTLP span",
            Self::TraceId => "the trace id is not 16 bytes, or all of them are zero",
            Self::SpanId => "the span id is not 8 bytes, or all of them are zero",
        }
    }
}

/// A request, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Spans that can be passed on, in their order.
    pub pieces: Vec<Piece>,
    /// The others.
    pub defects: Vec<Defect>,
}

/// Takes a request apart. Spans are checked one by one, so that a broken one does not spoil the
/// batches that others are put into.
///
/// # Errors
/// [`Malformed`] when the bytes are no request at all.
pub fn take_apart(request: Bytes) -> Result<Parts, Malformed> {
    let mut parts = Parts::default();
    for field in wire::fields(request) {
        let field = field?;
        if field.number == 1 {
            let content = field.content.ok_or(Malformed("`resource_spans` is no message"))?;
            take_resource_apart(content, &mut parts)?;
        }
    }
    Ok(parts)
}

fn take_resource_apart(message: Bytes, parts: &mut Parts) -> Result<(), Malformed> {
    let (head, scopes) = split_off(message, 2)?;
    crate::check::check_resource_spans(&head)?;
    for scope in scopes {
        let (scope_head, spans) = split_off(scope, 2)?;
        crate::check::check_scope_spans(&scope_head)?;
        let origin = Arc::new(Origin { resource: head.clone(), scope: scope_head });
        for bytes in spans {
            match piece(&origin, bytes) {
                Ok(piece) => parts.pieces.push(piece),
                Err(defect) => parts.defects.push(defect),
            }
        }
    }
    Ok(())
}

/// The contents of all fields with this number, and all other fields as they are.
fn split_off(message: Bytes, number: u64) -> Result<(Bytes, Vec<Bytes>), Malformed> {
    let mut others: Vec<Bytes> = Vec::new();
    let mut contents = Vec::new();
    for field in wire::fields(message) {
        let field = field?;
        if field.number == number {
            contents.push(field.content.ok_or(Malformed("a list is no list of messages"))?);
        } else {
            others.push(field.whole);
        }
    }
    let mut others = others.into_iter();
    let head = match (others.next(), others.len()) {
        (None, _) => Bytes::new(),
        (Some(only), 0) => only,
        (Some(first), _) => {
            let mut joined = BytesMut::from(first);
            others.for_each(|field| joined.put_slice(&field));
            joined.freeze()
        }
    };
    Ok((head, contents))
}

fn piece(origin: &Arc<Origin>, bytes: Bytes) -> Result<Piece, Defect> {
    check_span(&bytes).map_err(|_| Defect::Malformed)?;
    let (mut trace_id, mut span_id, mut flags) = (&[][..], &[][..], 0);
    let mut rest: &[u8] = &bytes;
    while !rest.is_empty() {
        match wire::next_raw(&mut rest).map_err(|_| Defect::Malformed)? {
            (1, Raw::Bytes(id)) => trace_id = id,
            (2, Raw::Bytes(id)) => span_id = id,
            (16, Raw::Fixed32(bits)) => flags = bits,
            _ => {}
        }
    }
    let trace_id: [u8; 16] = trace_id.try_into().map_err(|_| Defect::TraceId)?;
    if trace_id == [0; 16] {
        return Err(Defect::TraceId);
    }
    let span_id: [u8; 8] = span_id.try_into().map_err(|_| Defect::SpanId)?;
    if span_id == [0; 8] {
        return Err(Defect::SpanId);
    }
    Ok(Piece { origin: Arc::clone(origin), bytes, trace_id, flags })
}

/// Puts a request together. Spans that follow each other from one origin share their resource and
/// scope.
#[derive(Debug, Default)]
pub struct Writer {
    out: BytesMut,
    /// Spans of one origin that are not written yet.
    pending: Option<(Arc<Origin>, BytesMut)>,
    spans: usize,
}

impl Writer {
    /// Adds a span.
    pub fn add(&mut self, origin: &Arc<Origin>, span: &[u8]) {
        let same =
            |(pending, _): &(Arc<Origin>, _)| Arc::ptr_eq(pending, origin) || pending == origin;
        if !self.pending.as_ref().is_some_and(same) {
            self.flush();
        }
        let (_, spans) = self.pending.get_or_insert_with(|| (Arc::clone(origin), BytesMut::new()));
        put_bytes(spans, 2, span);
        self.spans += 1;
    }

    /// How many spans were added.
    pub fn spans(&self) -> usize {
        self.spans
    }

    /// The request.
    pub fn finish(mut self) -> Bytes {
        self.flush();
        self.out.freeze()
    }

    fn flush(&mut self) {
        let Some((origin, spans)) = self.pending.take() else { return };
        let scope_len = origin.scope.len() + spans.len();
        let resource_len = origin.resource.len() + wire::field_len(2, scope_len);
        put_key(&mut self.out, 1, resource_len);
        self.out.put_slice(&origin.resource);
        put_key(&mut self.out, 2, scope_len);
        self.out.put_slice(&origin.scope);
        self.out.put_slice(&spans);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{
        ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
        ScopeSpans, Span,
    };
    use proptest::prelude::*;
    use prost::Message;

    fn span(number: u8) -> Span {
        Span {
            trace_id: vec![number.max(1); 16],
            span_id: vec![number.max(1); 8],
            name: format!("span {number}"),
            attributes: vec![KeyValue::text("k", "v")],
            flags: 0x101,
            ..Span::default()
        }
    }

    fn request(services: &[(&str, Vec<Span>)]) -> ExportTraceServiceRequest {
        let resource_spans = services.iter().map(|(service, spans)| ResourceSpans {
            resource: Some(Resource {
                attributes: vec![KeyValue::text("service.name", *service)],
                dropped_attributes_count: 0,
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "lib".into(), ..Default::default() }),
                spans: spans.clone(),
                schema_url: "schema".into(),
            }],
            schema_url: String::new(),
        });
        ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
    }

    fn put_together(pieces: &[Piece]) -> Bytes {
        let mut writer = Writer::default();
        for piece in pieces {
            writer.add(&piece.origin, &piece.bytes);
        }
        writer.finish()
    }

    #[test]
    fn a_request_is_put_together_as_it_was() {
        let request = request(&[("shop", vec![span(1), span(2)]), ("bank", vec![span(3)])]);
        let parts = take_apart(request.encode_to_vec().into()).unwrap();
        assert!(parts.defects.is_empty());
        assert_eq!(parts.pieces.len(), 3);
        assert_eq!(parts.pieces[2].trace_id, [3; 16]);
        assert_eq!(parts.pieces[0].flags, 0x101);
        let again = ExportTraceServiceRequest::decode(put_together(&parts.pieces)).unwrap();
        assert_eq!(again, request);
    }

    #[test]
    fn what_later_versions_add_is_kept_at_every_level() {
        let mut bytes = BytesMut::from(&span(1).encode_to_vec()[..]);
        put_bytes(&mut bytes, 99, b"in the span");
        let mut scope = BytesMut::new();
        put_bytes(&mut scope, 2, &bytes);
        put_bytes(&mut scope, 98, b"in the scope");
        let mut resource = BytesMut::new();
        put_bytes(&mut resource, 2, &scope);
        put_bytes(&mut resource, 97, b"in the resource");
        let mut request = BytesMut::new();
        put_bytes(&mut request, 1, &resource);
        let parts = take_apart(request.freeze()).unwrap();
        let again = put_together(&parts.pieces);
        for text in ["in the span", "in the scope", "in the resource"] {
            assert!(again.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_broken_span_does_not_spoil_its_neighbours() {
        let no_trace = Span { trace_id: vec![0; 16], ..span(1) };
        let short = Span { span_id: vec![1; 7], ..span(1) };
        let request = request(&[("shop", vec![no_trace, span(1), short])]);
        let parts = take_apart(request.encode_to_vec().into()).unwrap();
        assert_eq!(parts.pieces.len(), 1);
        assert_eq!(parts.defects, [Defect::TraceId, Defect::SpanId]);

        let mut scope = BytesMut::new();
        put_bytes(&mut scope, 2, &[0x0a, 0xff]);
        put_bytes(&mut scope, 2, &span(1).encode_to_vec());
        let mut resource = BytesMut::new();
        put_bytes(&mut resource, 2, &scope);
        let mut request = BytesMut::new();
        put_bytes(&mut request, 1, &resource);
        let parts = take_apart(request.freeze()).unwrap();
        assert_eq!((parts.pieces.len(), parts.defects.as_slice()), (1, &[Defect::Malformed][..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = take_apart(input.into());
        }

        /// What is passed on can be read by a plugin, whatever the damage was.
        #[test]
        fn what_passes_is_a_request(at in any::<prop::sample::Index>(), with: u8, cut in any::<prop::sample::Index>()) {
            let request = request(&[("shop", vec![span(1), span(2)]), ("bank", vec![span(3)])]);
            let mut bytes = request.encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(parts) = take_apart(bytes.into()) {
                let again = ExportTraceServiceRequest::decode(put_together(&parts.pieces));
                let spans: usize = again.unwrap().resource_spans.iter()
                    .flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum();
                prop_assert_eq!(spans, parts.pieces.len());
            }
        }
    }
}
