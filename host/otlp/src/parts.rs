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

    pub(crate) fn too_deep() -> Self {
        Self("values stand in each other too deep")
    }

    pub(crate) fn too_short() -> Self {
        Self("it ends within a field")
    }
}

/// What spans have in common: resource, scope, schemas. Two that are equal come from one sender.
///
/// It has bytes of its own: whoever keeps it does not keep the request.
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

impl Piece {
    /// What [`put_together`] wants of it.
    pub fn part(&self) -> (&Origin, &[u8]) {
        (&self.origin, &self.bytes)
    }
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
    /// The parent's id is neither 8 bytes nor absent.
    ParentId,
    /// An id of a link has another length than ids have.
    LinkId,
}

impl Defect {
    /// The reason that senders are given.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "the span is no OTLP span",
            Self::TraceId => "the trace id is not 16 bytes, or all of them are zero",
            Self::SpanId => "the span id is not 8 bytes, or all of them are zero",
            Self::ParentId => "the parent's id is not 8 bytes",
            Self::LinkId => "an id of a link is not 16 bytes for the trace, and 8 for the span",
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
    let resource = without(&message, 2)?;
    crate::check::check_resource_spans(&resource)?;
    for scope_spans in only(message, 2) {
        let scope_spans = scope_spans?;
        let scope = without(&scope_spans, 2)?;
        crate::check::check_scope_spans(&scope)?;
        let origin = Arc::new(Origin { resource: resource.clone(), scope });
        for span in only(scope_spans, 2) {
            match piece(&origin, span?) {
                Ok(piece) => parts.pieces.push(piece),
                Err(defect) => parts.defects.push(defect),
            }
        }
    }
    Ok(())
}

/// A copy of a message without the fields that have this number.
fn without(message: &Bytes, number: u32) -> Result<Bytes, Malformed> {
    let mut others = BytesMut::new();
    for field in wire::fields(message.clone()) {
        let field = field?;
        if field.number != number {
            others.put_slice(&field.whole);
        }
    }
    Ok(others.freeze())
}

/// The messages that stand in the fields with this number, one by one: a request may consist of
/// millions that are empty.
fn only(message: Bytes, number: u32) -> impl Iterator<Item = Result<Bytes, Malformed>> {
    wire::fields(message).filter_map(move |field| match field {
        Ok(field) if field.number != number => None,
        Ok(field) => Some(field.content.ok_or(Malformed("a list is no list of messages"))),
        Err(error) => Some(Err(error)),
    })
}

fn piece(origin: &Arc<Origin>, bytes: Bytes) -> Result<Piece, Defect> {
    check_span(&bytes).map_err(|_| Defect::Malformed)?;
    let (trace_id, flags) = trace_of(&bytes)?;
    Ok(Piece { origin: Arc::clone(origin), bytes, trace_id, flags })
}

/// How many spans a request has, and whether each has ids that receivers can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// How many spans there are.
    pub spans: u64,
    /// Whether no id is missing or has a wrong length.
    pub ids_are_sound: bool,
}

/// Looks over a request without looking into what its spans say, at a fraction of what it costs to
/// [take it apart](take_apart): for those who get it from somebody who has.
///
/// # Errors
/// [`Malformed`] when the bytes are no request.
pub fn survey(request: &[u8]) -> Result<Survey, Malformed> {
    let mut survey = Survey { spans: 0, ids_are_sound: true };
    each(request, 1, &mut |resource_spans| {
        each(resource_spans, 2, &mut |scope_spans| {
            each(scope_spans, 2, &mut |span| {
                survey.spans += 1;
                survey.ids_are_sound &= trace_of(span).is_ok();
                Ok(())
            })
        })
    })?;
    Ok(survey)
}

/// Does something with each message in the fields with this number.
fn each(
    mut message: &[u8],
    number: u32,
    act: &mut dyn FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !message.is_empty() {
        match wire::next_raw(&mut message)? {
            (found, Raw::Bytes(content)) if found == number => act(content)?,
            (found, _) if found == number => {
                return Err(Malformed("a list is no list of messages"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Trace and flags of a span whose ids are all as receivers want them.
fn trace_of(span: &[u8]) -> Result<([u8; 16], u32), Defect> {
    let (mut trace_id, mut span_id, mut flags) = ([0; 16], [0; 8], 0);
    let mut rest = span;
    while !rest.is_empty() {
        match wire::next_raw(&mut rest).map_err(|_| Defect::Malformed)? {
            (1, Raw::Bytes(id)) => trace_id = id.try_into().map_err(|_| Defect::TraceId)?,
            (2, Raw::Bytes(id)) => span_id = id.try_into().map_err(|_| Defect::SpanId)?,
            (4, Raw::Bytes(id)) if !matches!(id.len(), 0 | 8) => return Err(Defect::ParentId),
            (13, Raw::Bytes(link)) => check_link(link)?,
            (16, Raw::Fixed32(bits)) => flags = bits,
            _ => {}
        }
    }
    if trace_id == [0; 16] {
        return Err(Defect::TraceId);
    }
    if span_id == [0; 8] {
        return Err(Defect::SpanId);
    }
    Ok((trace_id, flags))
}

/// Receivers refuse a whole batch over an id of a wrong length, wherever it stands; that there is
/// none they let pass.
fn check_link(mut link: &[u8]) -> Result<(), Defect> {
    while !link.is_empty() {
        match wire::next_raw(&mut link).map_err(|_| Defect::Malformed)? {
            (1, Raw::Bytes(id)) if !matches!(id.len(), 0 | 16) => return Err(Defect::LinkId),
            (2, Raw::Bytes(id)) if !matches!(id.len(), 0 | 8) => return Err(Defect::LinkId),
            _ => {}
        }
    }
    Ok(())
}

/// Puts a request together. Spans that follow each other from one origin share their resource and
/// scope, and scopes that follow each other their resource.
pub fn put_together<'a>(spans: impl IntoIterator<Item = (&'a Origin, &'a [u8])>) -> Bytes {
    let mut runs: Vec<Run<'a>> = Vec::new();
    for (origin, span) in spans {
        match runs.last_mut() {
            Some(run) if std::ptr::eq(run.origin, origin) || run.origin.is(origin) => run.add(span),
            _ => {
                let mut run = Run { origin, spans: Vec::new(), len: origin.scope.len() };
                run.add(span);
                runs.push(run);
            }
        }
    }
    let resources =
        || runs.chunk_by(|one, next| is_same(&one.origin.resource, &next.origin.resource));
    let len_of = |scopes: &[Run<'_>]| {
        let resource = scopes.first().map_or(0, |run| run.origin.resource.len());
        resource + scopes.iter().map(|run| wire::field_len(2, run.len)).sum::<usize>()
    };
    // Known before the first byte is written: nothing is moved.
    let len = resources().map(|scopes| wire::field_len(1, len_of(scopes))).sum();
    let mut out = BytesMut::with_capacity(len);
    for scopes in resources() {
        put_key(&mut out, 1, len_of(scopes));
        if let Some(first) = scopes.first() {
            out.put_slice(&first.origin.resource);
        }
        for run in scopes {
            put_key(&mut out, 2, run.len);
            out.put_slice(&run.origin.scope);
            run.spans.iter().for_each(|span| put_bytes(&mut out, 2, span));
        }
    }
    out.freeze()
}

/// Spans that follow each other from one origin.
struct Run<'a> {
    origin: &'a Origin,
    spans: Vec<&'a [u8]>,
    /// Bytes of the `ScopeSpans`.
    len: usize,
}

impl<'a> Run<'a> {
    fn add(&mut self, span: &'a [u8]) {
        self.len += wire::field_len(2, span.len());
        self.spans.push(span);
    }
}

impl Origin {
    /// Bytes that a request takes for it when its spans follow those of `before`: what they do not
    /// have in common.
    pub fn len_after(&self, before: Option<&Self>) -> usize {
        match before {
            Some(before) if self.is(before) => 0,
            Some(before) if is_same(&self.resource, &before.resource) => self.scope.len(),
            _ => self.resource.len() + self.scope.len(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        is_same(&self.resource, &other.resource) && is_same(&self.scope, &other.scope)
    }
}

/// Whether bytes are equal. Thousands of origins may share one large resource: it is not compared
/// with itself.
fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr_range() == other.as_ptr_range() || one == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{
        ExportTraceServiceRequest, InstrumentationScope, KeyValue, Link, Resource, ResourceSpans,
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
        super::put_together(pieces.iter().map(Piece::part))
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
    fn scopes_that_follow_each_other_share_their_resource() {
        let mut request = request(&[("shop", vec![span(1)])]);
        let scope_spans = &mut request.resource_spans[0].scope_spans;
        scope_spans.push(ScopeSpans { spans: vec![span(2), span(3)], ..ScopeSpans::default() });
        let bytes = Bytes::from(request.encode_to_vec());
        let parts = take_apart(bytes).unwrap();
        let again = ExportTraceServiceRequest::decode(put_together(&parts.pieces)).unwrap();
        assert_eq!(again, request);

        let [first, second, third] = [0, 1, 2].map(|index: usize| &*parts.pieces[index].origin);
        assert_eq!(first.len_after(None), first.resource.len() + first.scope.len());
        assert_eq!(second.len_after(Some(first)), second.scope.len());
        assert_eq!(third.len_after(Some(second)), 0);
    }

    #[test]
    fn where_spans_come_from_is_kept_without_the_request() {
        let bytes = Bytes::from(request(&[("shop", vec![span(1)])]).encode_to_vec());
        let parts = take_apart(bytes.clone()).unwrap();
        let Origin { resource, scope } = &*parts.pieces[0].origin;
        let request = bytes.as_ptr_range();
        assert!(!request.contains(&resource.as_ptr()) && !request.contains(&scope.as_ptr()));
    }

    #[test]
    fn a_span_with_an_id_that_receivers_choke_on_is_refused_alone() {
        let link = |trace: usize, id: usize| Span {
            links: vec![Link { trace_id: vec![1; trace], span_id: vec![1; id], ..Link::default() }],
            ..span(1)
        };
        let parent = |length| Span { parent_span_id: vec![1; length], ..span(1) };
        let broken = vec![parent(3), link(16, 7), link(15, 8)];
        let fine = vec![parent(0), parent(8), link(16, 8), link(0, 0)];
        let count = fine.len();
        let request = request(&[("shop", [broken, fine].concat())]);
        let parts = take_apart(request.encode_to_vec().into()).unwrap();
        assert_eq!(parts.defects, [Defect::ParentId, Defect::LinkId, Defect::LinkId]);
        assert_eq!(parts.pieces.len(), count);
    }

    #[test]
    fn a_survey_counts_spans_and_sees_ids_that_receivers_choke_on() {
        let all = [("shop", vec![span(1), span(2)]), ("bank", vec![span(3)])];
        let sound = Survey { spans: 3, ids_are_sound: true };
        assert_eq!(survey(&request(&all).encode_to_vec()), Ok(sound));
        for broken in [
            Span { trace_id: vec![0; 16], ..span(1) },
            Span { span_id: vec![1; 7], ..span(1) },
            Span { parent_span_id: vec![1; 3], ..span(1) },
        ] {
            let all = [("shop", vec![span(1)]), ("bank", vec![broken])];
            let found = survey(&request(&all).encode_to_vec()).unwrap();
            assert_eq!(found, Survey { spans: 2, ids_are_sound: false });
        }
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
            let surveyed = survey(&input);
            let parts = take_apart(input.into());
            // What is no request is none for either; within its spans only one of them looks.
            if let Ok(parts) = parts {
                let spans = (parts.pieces.len() + parts.defects.len()) as u64;
                prop_assert_eq!(surveyed.map(|it| it.spans), Ok(spans));
            }
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
