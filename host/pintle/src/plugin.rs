//! Plugins: loaded from a directory, each incarnation in a store of its own, supervised.
mod actor;
mod bindings;
mod cache;
mod engine;
mod file;
mod guest;
mod limits;
mod loader;
mod output;
mod scrub;
