//! What goes over the wire: pure, without any input or output.

pub mod json;
pub mod messages;
pub mod span;
