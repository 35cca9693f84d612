//! Spans as host and plugins hand them to each other: OTLP's `ExportTraceServiceRequest`.
//!
//! [`messages`] is the whole of what a span says. [`parts`] takes a request apart without reading
//! the spans, so that what passes through keeps every byte, also of later versions of the protocol.
//! [`write`] writes spans that are not built as messages first, [`redact`] overwrites values of attributes in a message that is otherwise left as it is, and
//! `json` reads requests that came as JSON.
//!
//! Everything here is pure: bytes in, records out.

mod check;

pub mod messages;
pub mod parts;
pub mod redact;
pub mod status;
pub mod text;
pub mod wire;
pub mod write;

#[cfg(feature = "json")]
pub mod json;

pub use messages::*;
pub use parts::{Malformed, Origin, Piece, put_together};
