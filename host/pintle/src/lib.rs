//! Pintle: governance for clusters over sandboxed plugins.
pub mod config;
pub mod error;
pub mod lock;
pub mod registry;

pub use error::{Effect, Error};
