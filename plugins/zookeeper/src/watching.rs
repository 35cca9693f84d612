//! What the watches of all capabilities share.

use crate::session::{Client, Failure, Session};
use crate::wire::{AddWatch, ErrorCode};
use crate::zookeeper::ZooKeeper;
use pintle_plugin_sdk::time::{Instant, sleep};
use pintle_plugin_sdk::{Context, Error};
use std::time::Duration;

/// How long a watch waits for a connection before it asks again.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// Wait after a refusal that will not last.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a watch asks whether it has missed anything.
const PROOF_PERIOD: Duration = Duration::from_secs(10);

impl ZooKeeper {
    /// A connection to watch on, as soon as there is one, however long that takes.
    ///
    /// # Errors
    ///
    /// When the server refuses who we are: that will not change by itself.
    pub(crate) async fn watching_client(&self) -> Result<Client, Error> {
        loop {
            let cx = Context::background("watching", CONNECT_PATIENCE);
            match self.main.client(&cx).await {
                Ok(client) => return Ok(client),
                Err(error) if matches!(error.code(), "unauthenticated" | "denied") => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "a watch waits for a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits before a watch asks again that the server was too busy for; answers the reason.
    pub(crate) async fn pause_throttled(&self) -> String {
        sleep(PAUSE).await;
        "the server was too busy to answer".to_owned()
    }

    /// When a watch has to ask next whether it has missed anything. It is the same moment for all
    /// watches, so that they share one barrier.
    pub(crate) fn next_proof(&self) -> Instant {
        let periods = self.started.elapsed().as_secs() / PROOF_PERIOD.as_secs();
        let seconds = (periods + 1).saturating_mul(PROOF_PERIOD.as_secs());
        self.started.after(Duration::from_secs(seconds))
    }

    /// Has the server tell of all changes on this connection, where it knows lasting watches.
    pub(crate) async fn arm(&self, client: &Client, path: &str) -> Result<(), Failure> {
        if !self.main.has_lasting_watches() {
            return Ok(());
        }
        let mode = self.main.watches().mode_of(path);
        match client.call(&AddWatch { path, mode }).await {
            Err(failure) if failure.is(ErrorCode::UNIMPLEMENTED) => {
                tracing::info!("this server is older than 3.6: watches read all again");
                self.main.lacks_lasting_watches();
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// What a watch for one change was set by; nothing where the node is missing or not ours to read. Any
/// other refusal leaves no watch behind.
pub(crate) fn if_readable<T>(read: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(failure) if failure.is(ErrorCode::NO_NODE) || failure.is(ErrorCode::NO_AUTH) => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

impl Session {
    /// Has the next call wait for another connection than one that has failed, also where the server
    /// refused on it and did not hang up.
    pub(crate) fn settle(&self, failed: &Client) {
        if self.client_now().is_some_and(|current| current.is(failed)) {
            self.leave("the server does not serve this session any more");
        }
    }
}
