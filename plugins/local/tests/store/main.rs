//! The store, as its callers see it: against models, over crashes, on a clock that tests set.

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
mod watch;
