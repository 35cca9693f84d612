//! Looking at a node that a session keeps, so that the look says that the session is alive.

use super::client::{Client, Failure};
use crate::wire::{Exists, Stat};
use pintle_plugin_sdk::time::{Elapsed, timeout};
use std::time::Duration;

/// Least time that the quorum is given.
const PATIENCE_MIN: Duration = Duration::from_millis(500);

/// Looks at a node of its own session, and has the next change to it told.
///
/// The session's clock runs on the leader. A follower that is cut off from it goes on answering reads
/// and pings until it notices, which takes longer than many sessions live. So a request that the
/// quorum has to agree to goes ahead: when it is answered, the leader has heard this follower, and of
/// this session through it, since it was sent.
///
/// # Errors
///
/// `Lost` when the quorum does not answer within a sixth of the session: another server may still be
/// found in time.
pub(crate) async fn look_at_own(client: &Client, path: &str) -> Result<Stat, Failure> {
    let proof = client.barrier();
    let look = client.call(&Exists { path, watch: true });
    let patience = (client.identity().timeout / 6).max(PATIENCE_MIN);
    match timeout(patience, proof).await {
        Ok(proof) => proof?,
        Err(Elapsed) => {
            let waited_ms = patience.as_millis();
            let reason = format!("no word of the quorum within {waited_ms} ms");
            return Err(Failure::Lost { reason: reason.into(), sent: false });
        }
    }
    look.await
}
