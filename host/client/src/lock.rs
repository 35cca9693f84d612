//! Locks over HTTP.

use std::time::Duration;

use pintle_api::{
    address,
    leader::Election,
    lock::{Acquire, Claim, Lease, LeaseQuery, ListQuery, LockState, LocksPage, Released},
    problem::code,
};

use crate::{
    error::ClientError,
    lease::HeldLease,
    transport::{Call, Client},
    watch::Watch,
};

/// Locks of one backend.
#[derive(Debug, Clone)]
pub struct Lock {
    client: Client,
    backend: String,
}

/// How an attempt went.
#[derive(Debug)]
pub enum AcquireOutcome<T> {
    /// It is held.
    Held(T),
    /// It was not free in time; who holds it.
    Busy(Vec<Claim>),
}

/// Names one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseName {
    /// Name of the lock.
    pub lock: String,
    /// The id that the client chose.
    pub id: String,
}

impl Lock {
    pub(crate) fn new(client: Client, backend: &str) -> Self {
        Self { client, backend: backend.into() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Acquires a lock under an id of its own and keeps the lease until the guard is dropped.
    ///
    /// # Errors
    /// Any of [`ClientError`]. The lock is then not held: what a lost answer may have granted is
    /// given back.
    ///
    /// # Cancellation
    /// Dropping the future gives back what it may have been granted.
    pub async fn acquire(
        &self,
        name: &str,
        acquire: Acquire,
    ) -> Result<AcquireOutcome<HeldLease>, ClientError> {
        HeldLease::acquire(self.clone(), name, acquire).await
    }

    /// Asks for a lease: one request. The same id and parameters answer for the same lease.
    ///
    /// # Errors
    /// Any of [`ClientError`]. With [`pintle_api::Effect::Unknown`] ask again, or release.
    pub async fn put(
        &self,
        lease: &LeaseName,
        acquire: &Acquire,
    ) -> Result<AcquireOutcome<Lease>, ClientError> {
        let timeout = self.client.timeout() + Duration::from_millis(acquire.wait_ms);
        let call = Call::put(self.path(lease)).json(acquire)?.timeout(timeout);
        match self.client.json(call).await {
            Ok(lease) => Ok(AcquireOutcome::Held(lease)),
            Err(ClientError::Problem(problem)) if problem.code() == code::LOCK_BUSY => {
                Ok(AcquireOutcome::Busy(problem.holders))
            }
            Err(error) => Err(error),
        }
    }

    /// Prolongs a lease.
    ///
    /// # Errors
    /// Any of [`ClientError`]; see [`is_gone`].
    pub async fn keepalive(&self, lease: &LeaseName) -> Result<Lease, ClientError> {
        self.client.json(Call::post(format!("{}/keepalive", self.path(lease)))).await
    }

    /// Reads a lease; waits for its loss up to `wait`.
    ///
    /// # Errors
    /// Any of [`ClientError`]; see [`is_gone`].
    pub async fn lease(&self, lease: &LeaseName, wait: Duration) -> Result<Lease, ClientError> {
        let query = LeaseQuery { wait_ms: u64::try_from(wait.as_millis()).ok() };
        let timeout = self.client.timeout() + wait;
        self.client.json(Call::get(self.path(lease)).query(&query)?.timeout(timeout)).await
    }

    /// Releases a lease.
    ///
    /// # Errors
    /// Any of [`ClientError`]; the server gives it back by itself after its TTL.
    pub async fn release(&self, lease: &LeaseName) -> Result<Released, ClientError> {
        self.client.json(Call::delete(self.path(lease))).await
    }

    /// Who holds a lock, and who waits.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn inspect(&self, name: &str) -> Result<LockState, ClientError> {
        self.client.json(Call::get(address::lock(&self.backend, name))).await
    }

    /// One page of the names of locks that somebody holds or waits for.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn list(&self, query: &ListQuery) -> Result<LocksPage, ClientError> {
        self.client.json(Call::get(address::locks(&self.backend)).query(query)?).await
    }

    /// Takes a claim away from whoever has it.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn force_release(&self, name: &str, claim_id: &str) -> Result<Released, ClientError> {
        self.client.json(Call::delete(address::claim(&self.backend, name, claim_id))).await
    }

    /// Watches who holds a lock.
    ///
    /// # Errors
    /// Any of [`ClientError`], if the first connection does not come about.
    pub async fn watch(&self, name: &str) -> Result<Watch<LockState>, ClientError> {
        let target = format!("{}/watch", address::lock(&self.backend, name));
        Watch::open(self.client.clone(), target).await
    }

    /// Who leads an election, and who would like to.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn election(&self, name: &str) -> Result<Election, ClientError> {
        self.client.json(Call::get(address::leader(&self.backend, name))).await
    }

    fn path(&self, lease: &LeaseName) -> String {
        address::lease(&self.backend, &lease.lock, &lease.id)
    }
}

/// Whether an error says that a lease is not held: lost, released, or not known to the server.
#[must_use]
pub fn is_gone(error: &ClientError) -> bool {
    matches!(error.code(), code::LEASE_LOST | code::LEASE_RELEASED | code::LEASE_UNKNOWN)
}
