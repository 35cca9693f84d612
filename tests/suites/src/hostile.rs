//! Plugins that attack their host: what the suite `sandbox` and `cargo xtask chaos sandbox` share.

pub mod bytes;
pub mod log;
mod stage;

pub use stage::{Door, Options, SECRET, Server, Stage, impatient};
