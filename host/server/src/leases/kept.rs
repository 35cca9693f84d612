//! One lease that is kept for a client.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pintle::lock::{Lease as HostLease, LeaseRef, LeaseStatus as HostStatus};
use pintle_api::{
    lock::{Acquire, Lease, LeaseStatus},
    problem::code,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{DRAIN_MAX, LeaseName, released};
use crate::{
    convert::{lock as convert, milliseconds},
    failure::{Answer, Failure},
    state::Stopping,
};

/// A lease that is, or was, held for a client.
pub(super) struct Kept {
    pub(super) name: LeaseName,
    pub(super) terms: Acquire,
    /// Gone when the lease has ended. Never cloned, so that it can be given up.
    lease: Mutex<Option<Arc<HostLease>>>,
    /// Also held while the phase changes or is answered for: nobody is told that it is held after
    /// it was decided that it is not.
    times: Mutex<Times>,
    phase: watch::Sender<Phase>,
    release: Notify,
}

/// How it stands for the client.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Held,
    /// The client has given it up, and waits to hear whether it was held until then.
    Releasing,
    /// Final, and why. The backend may still hold it, until the client surely knows.
    Lost(Arc<str>),
    /// Final: whether it was held until then.
    Released(Result<bool, pintle::Error>),
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// When the client has to have been heard again.
    deadline: Instant,
    /// Until when a client may believe that it holds the lock.
    promised: Instant,
}

impl Kept {
    pub(super) fn new(name: LeaseName, terms: Acquire, lease: &Arc<HostLease>) -> Self {
        let phase = watch::Sender::new(Phase::Held);
        Self::with(name, terms, Some(Arc::clone(lease)), phase)
    }

    /// Released before it was held.
    pub(super) fn never_held(name: LeaseName, terms: Acquire) -> Self {
        Self::with(name, terms, None, watch::Sender::new(Phase::Released(Ok(false))))
    }

    fn with(
        name: LeaseName,
        terms: Acquire,
        lease: Option<Arc<HostLease>>,
        phase: watch::Sender<Phase>,
    ) -> Self {
        let now = Instant::now();
        let deadline = now + Duration::from_millis(terms.ttl_ms);
        Self {
            name,
            terms,
            lease: Mutex::new(lease),
            times: Mutex::new(Times { deadline, promised: now }),
            phase,
            release: Notify::new(),
        }
    }

    /// Prolongs it and describes it.
    pub(super) fn renew(&self, received: Instant) -> Answer<Lease> {
        let mut times = self.times();
        self.check()?;
        times.deadline = Instant::now() + Duration::from_millis(self.terms.ttl_ms);
        self.promise(&mut times, received)
    }

    /// Describes it, for a request that was received then.
    pub(super) fn describe(&self, received: Instant) -> Answer<Lease> {
        let mut times = self.times();
        self.check()?;
        self.promise(&mut times, received)
    }

    fn promise(&self, times: &mut Times, received: Instant) -> Answer<Lease> {
        let (token, status, remaining) = {
            let lease = self.lease();
            let Some(lease) = &*lease else { return Err(self.lost("it has ended")) };
            (lease.token().map(convert::token), lease.status(), lease.remaining())
        };
        let status = match status {
            HostStatus::Held => LeaseStatus::Held,
            HostStatus::Suspect(_) => LeaseStatus::Suspect,
            HostStatus::Lost(reason) => return Err(self.lost(&reason)),
            HostStatus::Released => return Err(released()),
        };
        let now = Instant::now();
        let valid = remaining.min(times.deadline.saturating_duration_since(now));
        if valid.is_zero() {
            return Err(self.lost("its time has passed"));
        }
        times.promised = times.promised.max(now + valid);
        Ok(Lease {
            name: self.name.lock.clone(),
            id: self.name.id.clone(),
            status,
            token,
            // The client counts from before `received`: the time spent here comes on top.
            valid_for_ms: milliseconds(valid + now.saturating_duration_since(received)),
        })
    }

    /// What names it to a precondition, while it is held.
    pub(super) fn reference(&self) -> Option<LeaseRef> {
        self.check().ok()?;
        self.lease().as_ref().map(|lease| lease.reference())
    }

    /// Its token, while it is held and has one.
    pub(super) fn token(&self) -> Option<u64> {
        self.lease()
            .as_ref()
            .and_then(|lease| lease.token())
            .map(|token| convert::token(token).value)
    }

    /// Waits until it has ended for the client.
    pub(super) async fn ended(&self) {
        let mut phase = self.phase.subscribe();
        // Fails only when the sender is gone, which `self` has.
        let _ = phase.wait_for(|phase| !matches!(phase, Phase::Held | Phase::Releasing)).await;
    }

    /// Asks for its end, and waits for it; answers false when it was not held any more.
    pub(super) async fn release(&self) -> Answer<bool> {
        self.release.notify_one();
        self.ended().await;
        match &*self.phase.borrow() {
            Phase::Released(outcome) => Ok(outcome.clone()?),
            Phase::Held | Phase::Releasing | Phase::Lost(_) => Ok(false),
        }
    }

    /// Keeps the lease until it is lost or released, or its client is silent for too long, or the
    /// server stops.
    pub(super) async fn keep(&self, lease: Arc<HostLease>, stopping: &Stopping) {
        let lost = tokio::select! {
            reason = lease.lost() => self.end(Some(reason)),
            () = self.release.notified() => self.end(None),
            reason = self.silence() => Some(reason),
            () = stopping.begun() => {
                let lost = self.end(Some("the host is shutting down".into()));
                self.promise_kept(&lease).await;
                lost
            }
        };
        // From here on nobody is told that it is held.
        if let Some(reason) = &lost {
            tracing::debug!(lock = self.name.lock, id = self.name.id, %reason, "lease ended");
        }
        drop(self.lease().take());
        let outcome = match Arc::into_inner(lease) {
            Some(lease) => lease.release().await,
            // Cannot be: the other one was dropped above.
            None => Ok(false),
        };
        match (lost, outcome) {
            (None, outcome) => {
                self.phase.send_replace(Phase::Released(outcome));
            }
            (Some(_), Err(error)) => {
                tracing::warn!(lock = self.name.lock, %error, "not released; it will expire");
            }
            (Some(_), Ok(_)) => {}
        }
    }

    /// Ends it for the client: as lost if there is a reason, and else as released.
    fn end(&self, lost: Option<Arc<str>>) -> Option<Arc<str>> {
        let _decided = self.times();
        self.phase.send_replace(lost.clone().map_or(Phase::Releasing, Phase::Lost));
        lost
    }

    /// Completes when the client was silent for too long; it is lost then.
    async fn silence(&self) -> Arc<str> {
        loop {
            let deadline = {
                let times = self.times();
                // A keepalive comes before this, or after it and too late.
                if times.deadline <= Instant::now() {
                    let reason: Arc<str> =
                        format!("no keepalive came within {} ms", self.terms.ttl_ms).into();
                    self.phase.send_replace(Phase::Lost(Arc::clone(&reason)));
                    return reason;
                }
                times.deadline
            };
            sleep_until(deadline).await;
        }
    }

    /// Completes when the client knows that the lease has ended, or can tell by its clock.
    async fn promise_kept(&self, lease: &HostLease) {
        let promised = self.times().promised.min(Instant::now() + DRAIN_MAX);
        tokio::select! {
            () = sleep_until(promised) => {}
            () = self.release.notified() => {}
            _ = lease.lost() => {}
        }
    }

    fn check(&self) -> Answer<()> {
        match &*self.phase.borrow() {
            Phase::Held => Ok(()),
            Phase::Lost(reason) => Err(self.lost(reason)),
            Phase::Releasing | Phase::Released(_) => Err(released()),
        }
    }

    fn lost(&self, reason: &str) -> Failure {
        Failure::of(code::LEASE_LOST, format!("the lease on {} is lost: {reason}", self.name.lock))
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> MutexGuard<'_, Option<Arc<HostLease>>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
