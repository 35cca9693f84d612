//! Locks in short.

use std::time::Duration;

use pintle::direct::{
    Call,
    lock::{AcquireOutcome, AcquireRequest, Claim, Event, Lease, LockState, Mode},
};

use super::{Owner, call};
use crate::check::{Outcome, PROMPT, Stop};

/// A lease that was granted.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// The number under which it was asked for.
    pub(crate) id: u64,
    pub(crate) lease: Lease,
}

/// Asks once for an exclusive lease of ten seconds.
pub(crate) fn asking(name: &str) -> AcquireRequest {
    AcquireRequest {
        name: name.to_owned(),
        mode: Mode::Exclusive,
        ttl_ms: 10_000,
        wait_ms: 0,
        owner: "the suite".to_owned(),
    }
}

impl Owner {
    /// Asks for a lease: granted, or who has it.
    pub(crate) async fn acquire(
        &self,
        request: AcquireRequest,
    ) -> Outcome<Result<Grant, Vec<Claim>>> {
        let id = self.id();
        let limit = PROMPT + Duration::from_millis(request.wait_ms.into());
        let ask = |ttl_ms| {
            let request = AcquireRequest { ttl_ms, ..request.clone() };
            self.raw.lock_acquire(Call::within(limit), id, request)
        };
        Ok(match self.with_ttl(request.ttl_ms, ask).await? {
            AcquireOutcome::Held(lease) => Ok(Grant { id, lease }),
            AcquireOutcome::Busy(claims) => Err(claims),
        })
    }

    /// Asks for a lease that has to be granted.
    pub(crate) async fn hold(&self, request: AcquireRequest) -> Outcome<Grant> {
        let name = request.name.clone();
        self.acquire(request).await?.map_err(|claims| {
            Stop::Broken(format!("{name} was to be had, and an acquire answers busy: {claims:?}"))
        })
    }

    /// Ends a lease; answers whether it was still held.
    pub(crate) async fn release(&self, grant: &Grant) -> Outcome<bool> {
        Ok(self.raw.lock_release(call(), grant.id).await?)
    }

    /// Who has a lock, and who waits.
    pub(crate) async fn inspect(&self, name: &str) -> Outcome<LockState> {
        Ok(self.raw.lock_inspect(call(), name.to_owned()).await?)
    }

    /// Waits until a lease is reported lost, and answers why.
    pub(crate) async fn lost(&self, grant: &Grant, within: Duration) -> Outcome<String> {
        self.lock
            .wait(grant.id, within, "the loss of a lease is reported", |events| {
                events.iter().find_map(|arrived| match &arrived.event {
                    Event::Lost(reason) => Some(reason.clone()),
                    _ => None,
                })
            })
            .await
    }
}
