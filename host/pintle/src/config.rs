//! Configuration.
mod types;
pub use types::*;
