//! The part of OTLP traces that a ring of spans needs: bytes in, records out.

mod otlp;

pub use otlp::{Batch, Group, Malformed, Span, TraceWriter, decode};
