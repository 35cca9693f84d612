//! Which traces are passed on.

use pintle_otlp::{flags, parts::Piece};

use super::{Sampling, count::reason};

/// Decides by the trace's id, as SDKs of OpenTelemetry do, so that hosts and SDKs with the same ratio
/// keep the same traces, each with all its spans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampler {
    sampling: Sampling,
    /// Traces whose number is below are kept; none means all.
    below: Option<u64>,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling, ratio: f64) -> Self {
        // 2^63: the lowest bit of the id is not used.
        const ALL: f64 = 9_223_372_036_854_775_808.0;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the ratio lies between 0 and 1, and a cast saturates"
        )]
        let below = (ratio < 1.0).then_some((ratio.max(0.0) * ALL) as u64);
        Self { sampling, below }
    }

    /// Why a span is not passed on, if it is not.
    pub(super) fn drops(&self, piece: &Piece) -> Option<&'static str> {
        match self.sampling {
            Sampling::Always => None,
            Sampling::Never => Some(reason::NEVER),
            Sampling::Parent if is_sampled(piece.flags) => None,
            Sampling::Parent | Sampling::Ratio => {
                let below = self.below?;
                let [.., a, b, c, d, e, f, g, h] = piece.trace_id;
                let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
                (number >= below).then_some(reason::RATIO)
            }
        }
    }
}

/// Whether the sender records the trace, as far as it tells. Many SDKs do not fill the flags of
/// `traceparent` in, and none exports a span that it does not record.
fn is_sampled(flags: u32) -> bool {
    let of_parent = flags & 0xff;
    of_parent == 0 || of_parent & flags::SAMPLED != 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn piece(trace_id: [u8; 16], flags: u32) -> Piece {
        Piece { origin: Arc::default(), bytes: bytes::Bytes::new(), trace_id, flags }
    }

    fn kept(sampler: Sampler, trace_id: [u8; 16]) -> bool {
        sampler.drops(&piece(trace_id, 0)).is_none()
    }

    #[test]
    fn a_ratio_keeps_that_part_of_the_traces() {
        let sampler = Sampler::new(Sampling::Ratio, 0.25);
        let trace = |number: u64| {
            let mut id = [7; 16];
            let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            id[8..].copy_from_slice(&spread);
            id
        };
        let count = (0..40_000).filter(|number| kept(sampler, trace(*number))).count();
        assert!((9_000..11_000).contains(&count), "{count} of 40,000");
    }

    #[test]
    fn the_ends_keep_all_and_none() {
        for id in [[0xFF; 16], [0; 16], [9; 16]] {
            assert!(kept(Sampler::new(Sampling::Ratio, 1.0), id));
            assert!(!kept(Sampler::new(Sampling::Ratio, 0.0), id));
            assert!(kept(Sampler::new(Sampling::Always, 0.0), id));
            assert!(!kept(Sampler::new(Sampling::Never, 1.0), id));
        }
    }

    proptest! {
        #[test]
        fn a_caller_that_samples_is_followed(trace_id: [u8; 16]) {
            let sampler = Sampler::new(Sampling::Parent, 0.0);
            prop_assert_eq!(sampler.drops(&piece(trace_id, 0x101)), None);
            prop_assert_eq!(sampler.drops(&piece(trace_id, 0x102)), Some(reason::RATIO));
        }

        #[test]
        fn a_sender_that_leaves_the_flags_out_samples(trace_id: [u8; 16], with_parent: bool) {
            let flags = if with_parent { 0x100 } else { 0 };
            let sampler = Sampler::new(Sampling::Parent, 0.0);
            prop_assert_eq!(sampler.drops(&piece(trace_id, flags)), None);
        }

        #[test]
        fn a_larger_ratio_keeps_what_a_smaller_one_keeps(trace_id: [u8; 16], one in 0.0..1.0_f64, other in 0.0..1.0_f64) {
            let (small, large) = (one.min(other), one.max(other));
            let keeps = |ratio| kept(Sampler::new(Sampling::Ratio, ratio), trace_id);
            prop_assert!(!keeps(small) || keeps(large));
        }
    }
}
