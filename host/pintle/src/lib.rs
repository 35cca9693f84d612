//! Pintle: governance for clusters over sandboxed plugins.
pub mod config;
pub mod error;
pub mod lock;
pub mod registry;
pub mod secret;
pub mod settings;

pub use error::{Effect, Error};
mod clock;
mod mirror;
mod plugin;
