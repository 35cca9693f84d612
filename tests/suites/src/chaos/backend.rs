//! What a backend has to give so that its promises can be tried under faults: servers to break, and a
//! client that is not ours.

use std::{future::Future, net::SocketAddr};

use anyhow::Result;
use pintle_test_history::Entry;
use pintle_test_proxy::{Framing, Rule};

/// What loses its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A registration.
    Register,
    /// A claim on a lock.
    Acquire,
    /// A put.
    Put,
}

/// A backend under test: its servers, and what is known of its protocol.
pub trait Backend: 'static {
    /// The plugin's name, which the ids of rows end with.
    const NAME: &'static str;
    /// The plugin's settings, `key = value, …`.
    const SETTINGS: &'static str;
    /// Watches promise each change once; then there is history, too, that can be compacted. Otherwise
    /// they promise final states, and a resync for each gap.
    const EVERY_CHANGE: bool;
    /// Operations on registers between two faults.
    const PACE: usize;

    /// One server.
    type Server;
    /// Three servers, of which one can be cut off from the others.
    type Cluster;
    /// A client that is not ours.
    type Control: Control;

    /// The id of one of its rows.
    #[must_use]
    fn id(row: &str) -> String {
        format!("{row}-{}", Self::NAME)
    }

    /// How its messages are told apart.
    fn framing() -> Framing;

    /// The reply by which the plugin learns that what has `name` in its name was done.
    fn reply_of(kind: Kind, name: &str) -> Rule;

    /// Starts a server that keeps leases for as long as they are asked for.
    fn start() -> impl Future<Output = Result<Self::Server>>;

    /// Where it is reached.
    fn address(server: &Self::Server) -> SocketAddr;

    /// Kills it; its data stay.
    ///
    /// # Errors
    ///
    /// Fails when it does not run.
    fn kill(server: &mut Self::Server) -> Result<()>;

    /// Starts it again, and waits until it serves.
    fn restart(server: &mut Self::Server) -> impl Future<Output = Result<()>>;

    /// Stops it from running; connections stay open.
    ///
    /// # Errors
    ///
    /// Fails when it does not run.
    fn pause(server: &mut Self::Server) -> Result<()>;

    /// Lets it run again.
    ///
    /// # Errors
    ///
    /// Fails when it does not run.
    fn resume(server: &mut Self::Server) -> Result<()>;

    /// Starts three servers.
    fn start_cluster() -> impl Future<Output = Result<Self::Cluster>>;

    /// Its members.
    fn members(cluster: &mut Self::Cluster) -> &mut [Self::Server];

    /// Where its leader is reached, as soon as there is one.
    fn leader(cluster: &mut Self::Cluster) -> impl Future<Output = Result<SocketAddr>>;

    /// Cuts a follower off from the others; clients reach it all the same.
    fn cut_off(cluster: &mut Self::Cluster) -> impl Future<Output = Result<()>>;

    /// All members reach each other again.
    fn heal(cluster: &mut Self::Cluster) -> impl Future<Output = Result<()>>;
}

/// A client that is not ours. Keys are those of the configuration; names are the server's own.
pub trait Control: Clone + Send + Sync + 'static {
    /// Connects to any of these.
    fn connect(endpoints: &[String]) -> impl Future<Output = Result<Self>> + Send;

    /// Reads a key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>>> + Send;

    /// Writes a key; its version, where it is told.
    fn put(&self, key: &str, value: &str) -> impl Future<Output = Result<Option<String>>> + Send;

    /// Deletes a key that is there.
    fn delete(&self, key: &str) -> impl Future<Output = Result<()>> + Send;

    /// How often a key was written since it was created.
    fn writes(&self, key: &str) -> impl Future<Output = Result<u64>> + Send;

    /// The names of what hangs on leases: registrations and claims.
    fn leased(&self) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// Whether one of [`leased`](Self::leased) is still there.
    fn is_there(&self, name: &str) -> impl Future<Output = Result<bool>> + Send;

    /// Forgets all versions before the present; false where there are none, or another just did.
    fn compact(&self) -> impl Future<Output = Result<bool>> + Send;
}
