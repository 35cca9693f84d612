//! The store, as its callers see it: against models, over crashes, on a clock that tests set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod config;
mod crash;
mod disk;
mod file;
mod layout;
mod lock;
mod model;
mod registry;
mod retention;
mod support;
mod wal;
mod watch;
