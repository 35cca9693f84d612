//! Hosts with the ZooKeeper plugin on real servers, seen as well through a client that is not ours.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not there fails the test, and says where"
)]

mod bounds;
mod config;
mod curator;
mod ensemble;
mod faults;
mod layout;
mod lock;
mod registry;
mod secure;
mod support;
mod versions;
mod watch;
