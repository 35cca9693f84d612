//! Registry.
mod types;
pub use types::*;
