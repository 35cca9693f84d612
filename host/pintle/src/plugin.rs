//! Plugins: loaded from a directory, each incarnation in a store of its own, supervised.
mod actor;
mod bindings;
mod cache;
mod engine;
mod file;
mod grants;
mod guest;
mod http;
mod limits;
mod loader;
mod network;
mod output;
mod scrub;
mod sockets;
mod tls;
