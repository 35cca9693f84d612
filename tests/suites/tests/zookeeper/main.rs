//! Hosts with the ZooKeeper plugin on real servers, seen as well through a client that is not ours.

mod config;
mod ensemble;
mod faults;
mod layout;
mod lock;
mod registry;
mod secure;
mod support;
mod versions;
mod watch;
