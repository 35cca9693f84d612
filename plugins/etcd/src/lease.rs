//! etcd leases: one for each lock and registration, all renewed over one stream.

mod ids;
mod keep_alive;

pub(crate) use ids::LeaseIds;

use crate::client::{Client, LEASE_GRANT, LEASE_REVOKE, Lane};
use crate::error::is_passing;
use crate::wire::messages::{LeaseGrantRequest, LeaseRevokeRequest};
use keep_alive::KeepAlive;
use pintle_plugin_sdk::session::Renewal;
use pintle_plugin_sdk::time::{Instant, sleep};
use pintle_plugin_sdk::{Context, Effect, Error, Validity, spawn};
use std::rc::Rc;
use std::time::Duration;

/// Wait between attempts to revoke a lease in the background.
const REVOKE_PAUSE: Duration = Duration::from_millis(500);
/// How long giving a lease back may keep a call that is over; then it goes on in the background.
const GIVE_BACK_LIMIT: Duration = Duration::from_millis(700);
/// How long one attempt in the background may take.
const REVOKE_LIMIT: Duration = Duration::from_secs(3);
/// Attempts to grant one lease.
const GRANT_ATTEMPTS_MAX: u32 = 4;

/// How many leases are asked for that end before they are used.
const LEASES_MAX: usize = 4;

/// A lease that the server has granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) id: i64,
    pub(crate) validity: Validity,
}

/// All leases of this incarnation.
pub(crate) struct Leases {
    client: Rc<Client>,
    ids: LeaseIds,
    keep_alive: Rc<KeepAlive>,
}

impl Leases {
    pub(crate) fn new(client: Rc<Client>, ids: LeaseIds) -> Self {
        let keep_alive = KeepAlive::new(Rc::clone(&client));
        Self { client, ids, keep_alive }
    }

    /// The ids that this incarnation gives.
    pub(crate) fn ids(&self) -> &LeaseIds {
        &self.ids
    }

    /// Asks for a lease. Its id is chosen here, so that an answer that is lost leaves nothing that
    /// nobody knows.
    ///
    /// # Errors
    ///
    /// With effect `unknown` a lease without keys may be left, which ends by itself.
    pub(crate) async fn grant(&self, cx: &Context, ttl: Duration) -> Result<Granted, Error> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let mut request = LeaseGrantRequest { ttl: seconds, id: self.ids.next() };
        let mut lost_answers = 0;
        for _ in 0..GRANT_ATTEMPTS_MAX {
            let sent_at = Instant::now();
            match self.client.call_in_time(cx, Lane::Lease, LEASE_GRANT, request).await {
                Ok(answer) => {
                    let validity = validity(sent_at, answer.ttl);
                    return Ok(Granted { id: request.id, validity });
                }
                // An earlier attempt came through: it is ours, granted some time ago. Its age is
                // not known, so it is used once it has been renewed.
                Err(error) if error.code() == "conflict" && lost_answers > 0 => {
                    if let Renewal::Renewed(validity) = self.renew(request.id, ttl).await? {
                        return Ok(Granted { id: request.id, validity });
                    }
                }
                // Somebody else has this number.
                Err(error) if error.code() == "conflict" => request.id = self.ids.next(),
                Err(error) if error.effect() == Effect::Unknown && cx.ended().is_none() => {
                    tracing::debug!(%error, "asking again for a lease");
                    lost_answers += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable("the server did not grant a lease").effect_unknown())
    }

    /// Grants a lease and does `work` with it. Again with another one where the lease has ended before
    /// `work` came to the server, because this host or the network stood still for longer than its
    /// TTL: nothing was done then.
    ///
    /// # Errors
    ///
    /// As [`grant`](Self::grant), and what `work` says; then the lease is given back.
    pub(crate) async fn with_lease<T>(
        self: &Rc<Self>,
        cx: &Context,
        ttl: Duration,
        work: impl AsyncFn(Granted) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..LEASES_MAX {
            let granted = self.grant(cx, ttl).await?;
            match work(granted).await {
                Err(error) if error.code() == "not-found" => {
                    tracing::debug!(%error, "asking for another lease");
                }
                Err(error) => return Err(self.give_back(granted.id, ttl, error).await),
                done => return done,
            }
        }
        let message = format!(
            "{LEASES_MAX} leases of {} ms in a row ended before they were used: this host or the way \
             to the server is too slow for such a TTL",
            ttl.as_millis()
        );
        Err(Error::unavailable(message))
    }

    /// Renews a lease that was asked for with this TTL.
    ///
    /// # Errors
    ///
    /// When the server did not answer.
    pub(crate) async fn renew(&self, id: i64, ttl: Duration) -> Result<Renewal, Error> {
        self.keep_alive.renew(id, ttl).await
    }

    /// Waits until the connection is lost over which leases are renewed, and answers why.
    pub(crate) async fn doubt(&self) -> String {
        match self.client.link(Lane::Lease) {
            Ok(link) => link.lost().await,
            Err(error) => error.message().to_owned(),
        }
    }

    /// Ends a lease, and with it every key that is attached. Answers whether it was there.
    ///
    /// # Errors
    ///
    /// When the server did not answer; the lease may be gone.
    pub(crate) async fn revoke(&self, cx: &Context, id: i64) -> Result<bool, Error> {
        let request = LeaseRevokeRequest { id };
        match self.client.call_in_time(cx, Lane::Lease, LEASE_REVOKE, request).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == "not-found" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a lease because of an error, so that what it keeps is in nobody's way; answers the error,
    /// whose effect says whether that is certain.
    pub(crate) async fn give_back(self: &Rc<Self>, id: i64, ttl: Duration, error: Error) -> Error {
        let cx = Context::background("revoking a lease", GIVE_BACK_LIMIT);
        match self.revoke(&cx, id).await {
            Ok(_) => error.effect_none(),
            Err(_) => {
                self.revoke_later(id, ttl);
                error.effect_unknown()
            }
        }
    }

    /// Ends a lease in the background, trying until the server would have ended it itself.
    pub(crate) fn revoke_later(self: &Rc<Self>, id: i64, ttl: Duration) {
        let leases = Rc::clone(self);
        spawn(async move {
            let until = Instant::now().after(ttl);
            while !until.remaining().is_zero() {
                // Each attempt ends soon: an answer that never comes speaks against the server.
                let cx = Context::background("revoking a lease", REVOKE_LIMIT);
                match leases.revoke(&cx, id).await {
                    Ok(_) => return,
                    Err(error) if is_passing(&error) => {
                        tracing::debug!(%error, "a lease is revoked later");
                    }
                    Err(error) => return tracing::warn!(%error, "a lease cannot be revoked"),
                }
                sleep(REVOKE_PAUSE).await;
            }
        })
        .detach();
    }
}

/// What the server granted when it answered a request that was sent at this moment.
fn validity(sent_at: Instant, ttl_seconds: i64) -> Validity {
    let valid_for = Duration::from_secs(u64::try_from(ttl_seconds).unwrap_or_default());
    Validity { sent_at, valid_for }
}
