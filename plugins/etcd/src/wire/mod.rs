//! What goes over the wire, and what is stored: pure, without any input or output.

pub mod layout;
pub mod messages;
pub mod version;
