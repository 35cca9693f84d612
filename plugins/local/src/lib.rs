//! The embedded backend: durable, single node, all four capabilities.

pub mod store;
