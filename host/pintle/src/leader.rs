//! Leader election: one recipe over locks, the same on every backend.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};

use crate::{
    error::Error,
    lock::{AcquireOutcome, Claim, Lease, Lock, LockRequest, LockState, Token},
};

/// Locks of elections live below this name, so that an election and a lock never meet.
const PREFIX: &str = "leader";

/// Elections on one backend. Cheap to clone.
#[derive(Clone)]
pub struct Leader {
    lock: Lock,
}

/// How a campaign went.
#[derive(Debug)]
pub enum CampaignOutcome {
    /// We lead, until the leadership is resigned, dropped or lost.
    Elected(Leadership),
    /// Not within the wait; who leads, where it is known.
    Following(Option<Claim>),
}

/// Being the leader.
///
/// Dropping it resigns in the background; [`Leadership::resign`] tells how that went.
#[derive(Debug)]
pub struct Leadership {
    lease: Lease,
}

impl Leader {
    pub(crate) fn new(lock: Lock) -> Self {
        Self { lock }
    }

    /// Tries to become the leader of `election`, and waits up to `wait` for the present one to go.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`].
    ///
    /// # Cancellation
    ///
    /// Safe: a dropped campaign leaves nothing behind.
    pub async fn campaign(
        &self,
        election: &str,
        candidate: &str,
        ttl: Duration,
        wait: Duration,
    ) -> Result<CampaignOutcome, Error> {
        let request = LockRequest::new(lock_name(election)).owner(candidate).ttl(ttl).wait(wait);
        Ok(match self.lock.acquire(request).await? {
            AcquireOutcome::Held(lease) => CampaignOutcome::Elected(Leadership { lease }),
            AcquireOutcome::Busy(holders) => CampaignOutcome::Following(holders.into_iter().next()),
        })
    }

    /// Who leads now.
    ///
    /// # Errors
    ///
    /// As [`Lock::inspect`].
    pub async fn leader(&self, election: &str) -> Result<Option<Claim>, Error> {
        let state = self.lock.inspect(&lock_name(election)).await?;
        Ok(state.holders.into_iter().next())
    }

    /// Who leads, now and after each change (feature `lock.watch`).
    ///
    /// # Errors
    ///
    /// As [`Lock::watch`].
    pub async fn observe(
        &self,
        election: &str,
    ) -> Result<impl Stream<Item = Result<Option<Claim>, Error>> + Send + use<>, Error> {
        let states = self.lock.watch(&lock_name(election)).await?;
        let leader = |state: LockState| state.holders.into_iter().next();
        Ok(states.map(move |state| state.map(leader)))
    }
}

impl Leadership {
    /// Orders the leaders: a later one has a higher value.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.lease.token()
    }

    /// The lease behind it, for preconditions and its status.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Waits until the leadership is lost, and says why.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn lost(&self) -> Arc<str> {
        self.lease.lost().await
    }

    /// Gives the leadership up; answers false when it had been lost.
    ///
    /// # Errors
    ///
    /// As [`Lease::release`].
    pub async fn resign(self) -> Result<bool, Error> {
        self.lease.release().await
    }
}

fn lock_name(election: &str) -> String {
    format!("{PREFIX}/{election}")
}
