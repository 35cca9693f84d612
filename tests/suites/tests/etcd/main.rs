//! The etcd plugin against real servers, through the library, as services use it.
//!
//! What it does is looked at from outside as well: by `etcdctl`, and by the native crate
//! `etcd-client`. Connections are broken by a proxy, members by signals.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not there fails the test, and says where"
)]

mod auth;
mod config;
mod failover;
mod from_version;
mod history;
mod interop;
mod lock;
mod lock_faults;
mod lock_recipe;
mod program;
mod promises;
mod recovery;
mod registry;
mod stage;
mod tls;
mod versions;
mod watch;
mod watch_faults;
