//! What goes over the wire: pure, without any input or output.

use bytes::{Buf, BufMut, Bytes};
use pintle_otlp::{
    ExportTraceServiceResponse, Malformed, Piece,
    parts::{Survey, survey, take_apart},
    put_together,
};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

/// A request that stays as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passed(pub Bytes);

/// It is only written, never read.
impl Message for Passed {
    fn encode_raw(&self, out: &mut impl BufMut) {
        out.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        rest: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, rest, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0 = Bytes::new();
    }
}

/// A batch, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The request, without spans that no receiver can take.
    pub request: Bytes,
    /// How many spans are in it.
    pub spans: u64,
    /// The others, by reason.
    pub rejected: Vec<(&'static str, u64)>,
}

/// Looks over a batch, which mostly comes from a pipeline that has looked into it. One without fault
/// stays as it is, byte for byte.
///
/// # Errors
///
/// [`Malformed`] when the bytes are no request.
pub fn prepare(batch: Bytes) -> Result<Prepared, Malformed> {
    let Survey { spans, ids_are_sound } = survey(&batch)?;
    if ids_are_sound {
        return Ok(Prepared { request: batch, spans, rejected: Vec::new() });
    }
    sift(batch)
}

/// Looks into every span of a batch.
///
/// # Errors
///
/// [`Malformed`] when the bytes are no request.
pub fn sift(batch: Bytes) -> Result<Prepared, Malformed> {
    let parts = take_apart(batch.clone())?;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let spans = count(parts.pieces.len());
    if parts.defects.is_empty() {
        return Ok(Prepared { request: batch, spans, rejected: Vec::new() });
    }
    let mut rejected: Vec<(&'static str, u64)> = Vec::new();
    for defect in parts.defects {
        match rejected.iter_mut().find(|(reason, _)| *reason == defect.reason()) {
            Some((_, spans)) => *spans += 1,
            None => rejected.push((defect.reason(), 1)),
        }
    }
    Ok(Prepared { request: put_together(parts.pieces.iter().map(Piece::part)), spans, rejected })
}

/// How many of `sent` spans a receiver did not take, and why.
pub fn partial_success(answer: &ExportTraceServiceResponse, sent: u64) -> Option<(String, u64)> {
    let partial = answer.partial_success.as_ref()?;
    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0).min(sent);
    let reason = if partial.error_message.is_empty() {
        "the receiver does not say why"
    } else {
        &partial.error_message
    };
    (rejected > 0).then(|| (reason.to_owned(), rejected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_otlp::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ResourceSpans, ScopeSpans, Span,
    };
    use proptest::prelude::*;

    fn batch(spans: Vec<Span>) -> Bytes {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
    }

    fn span() -> Span {
        Span { trace_id: vec![1; 16], span_id: vec![1; 8], ..Span::default() }
    }

    #[test]
    fn a_batch_without_fault_stays_as_it_is() {
        let bytes = batch(vec![span(), span()]);
        let prepared = prepare(bytes.clone()).unwrap();
        assert_eq!((prepared.request.clone(), prepared.spans), (bytes.clone(), 2));
        assert_eq!(Passed(prepared.request).encode_to_vec(), bytes);
    }

    #[test]
    fn spans_that_no_receiver_takes_are_left_out_and_counted() {
        let prepared = prepare(batch(vec![Span::default(), span(), Span::default()])).unwrap();
        assert_eq!((prepared.spans, prepared.rejected[0].1), (1, 2));
        assert_eq!(prepared.request, batch(vec![span()]));
    }

    #[test]
    fn what_spans_say_is_looked_into_where_it_is_asked_for() {
        let mut broken = span().encode_to_vec();
        // A name that is no text.
        broken.extend([5 << 3 | 2, 1, 0xff]);
        let good = batch(vec![span()]);
        let mut scope = Vec::new();
        pintle_otlp::write::bytes(&mut scope, 2, &broken);
        pintle_otlp::write::bytes(&mut scope, 2, &span().encode_to_vec());
        let mut resource = Vec::new();
        pintle_otlp::write::bytes(&mut resource, 2, &scope);
        let mut mixed = Vec::new();
        pintle_otlp::write::bytes(&mut mixed, 1, &resource);
        let mixed = Bytes::from(mixed);
        assert_eq!(prepare(mixed.clone()).unwrap().spans, 2);
        let sifted = sift(mixed).unwrap();
        assert_eq!((sifted.spans, sifted.rejected[0].1), (1, 1));
        assert_eq!(sifted.request, good);
    }

    #[test]
    fn a_partial_success_counts_no_more_than_was_sent() {
        let answer = |rejected_spans, text: &str| ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: text.into(),
            }),
        };
        assert_eq!(partial_success(&answer(2, "full"), 5), Some(("full".into(), 2)));
        assert_eq!(partial_success(&answer(9, "full"), 5), Some(("full".into(), 5)));
        assert_eq!(partial_success(&answer(-1, "odd"), 5), None);
        assert_eq!(partial_success(&answer(0, "a warning"), 5), None);
        assert_eq!(partial_success(&ExportTraceServiceResponse::default(), 5), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = prepare(input.clone().into());
            let _ = sift(input.into());
        }
    }
}
