//! Keeping what a server ends by itself: when to renew, until when it is certainly ours, and what to
//! tell the host.
//!
//! The clock starts when a request is *sent*, not when its answer comes: that is the earliest moment
//! at which the server can have begun to count. Past the deadline a lease is lost without asking.

use crate::Error;
use crate::backoff::Backoff;
use crate::lock::{LeaseReporter, Validity};
use crate::registry::{InstanceState, RegistrationReporter};
use crate::time::{Instant, sleep_until, timeout_at};
use futures::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// When to renew, and when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseClock {
    validity: Validity,
    margin: Duration,
    is_due: bool,
}

impl LeaseClock {
    /// A clock with the usual margin: 500 ms or a tenth of the TTL, whichever is more.
    pub fn new(validity: Validity) -> Self {
        let margin = (validity.valid_for / 10).max(Duration::from_millis(500));
        Self::with_margin(validity, margin)
    }

    /// A clock that gives up `margin` before the server may.
    pub fn with_margin(validity: Validity, margin: Duration) -> Self {
        Self { validity, margin, is_due: false }
    }

    /// The same, to be renewed right away the first time.
    #[must_use]
    pub fn due_now(mut self) -> Self {
        self.is_due = true;
        self
    }

    /// The server has granted it anew.
    pub fn renewed(&mut self, validity: Validity) {
        self.validity = validity;
        self.is_due = false;
    }

    /// What the server granted last.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// When to renew: a third into the grant.
    pub fn renew_at(&self) -> Instant {
        if self.is_due {
            return self.validity.sent_at;
        }
        self.validity.sent_at.after(self.validity.valid_for / 3)
    }

    /// From when on it is lost.
    pub fn deadline(&self) -> Instant {
        self.validity.sent_at.after(self.validity.valid_for.saturating_sub(self.margin))
    }

    /// Whether it is lost.
    pub fn is_lost(&self) -> bool {
        Instant::now() >= self.deadline()
    }
}

/// What the server said to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It is ours for longer.
    Renewed(Validity),
    /// The server has ended it, and why.
    Gone(String),
}

/// How a lease is while it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The server has renewed it.
    Renewed(Validity),
    /// A renewal failed; it is tried again until the deadline.
    Suspect(String),
}

/// Renews until it is lost, and answers why it was lost.
///
/// A failed renewal is told at once and repeated with growing pauses; one that is still pending at
/// the deadline is dropped. `doubt` resolves with a reason when the connection is gone over which
/// renewals go (see [`Link::lost`](crate::link::Link::lost)): that too is told at once, and a renewal
/// is tried without waiting for its time.
///
/// # Cancellation
///
/// Dropping the future stops renewing.
pub async fn keep_alive(
    mut clock: LeaseClock,
    mut renew: impl AsyncFnMut() -> Result<Renewal, Error>,
    mut doubt: impl AsyncFnMut() -> String,
    mut tell: impl FnMut(Status),
) -> String {
    let mut pauses = pauses_of(&clock);
    let mut attempt_at = clock.renew_at();
    loop {
        let due = sleep_until(attempt_at.min(clock.deadline()));
        if let Either::Right((reason, _)) = select(due, pin!(doubt())).await {
            tell(Status::Suspect(reason));
        }
        if clock.is_lost() {
            return "it was not renewed in time".to_owned();
        }
        // In a box while it lasts: thousands of leases wait, and few are renewed at a time.
        match timeout_at(clock.deadline(), Box::pin(renew())).await {
            Ok(Ok(Renewal::Renewed(validity))) => {
                clock.renewed(validity);
                pauses.reset();
                attempt_at = clock.renew_at();
                tell(Status::Renewed(validity));
            }
            Ok(Ok(Renewal::Gone(reason))) => return reason,
            Ok(Err(error)) => {
                tell(Status::Suspect(error.message().to_owned()));
                attempt_at = Instant::now().after(pauses.next_pause());
            }
            Err(_) => return "it was not renewed in time: no answer".to_owned(),
        }
    }
}

/// Pauses that fit several attempts into what is left of the TTL.
fn pauses_of(clock: &LeaseClock) -> Backoff {
    let ttl = clock.validity.valid_for;
    Backoff::new((ttl / 30).min(Duration::from_millis(250)), ttl / 6)
}

/// Keeps a lock's lease until it is lost, released or closed, and reports.
///
/// Spawn it before `acquire` returns the lease.
pub async fn keep_lease(
    reporter: LeaseReporter,
    clock: LeaseClock,
    renew: impl AsyncFnMut() -> Result<Renewal, Error>,
    doubt: impl AsyncFnMut() -> String,
) {
    let tell = |status| match status {
        Status::Renewed(validity) => reporter.renewed(validity),
        Status::Suspect(reason) => reporter.suspect(&reason),
    };
    let kept = pin!(keep_alive(clock, renew, doubt, tell));
    if let Either::Left((reason, _)) = select(kept, pin!(reporter.over())).await {
        reporter.lost(&reason);
    }
}

/// How registering again went.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one value per attempt, moved at once")]
pub enum Again {
    /// It is registered again.
    Registered(Validity),
    /// Another live owner has the name now.
    Taken(InstanceState),
}

/// Keeps a registration until it is taken, deregistered or closed; registers again when it was
/// lost, for as long as it takes, and reports each loss and each recovery.
///
/// Spawn it before `register` returns.
pub async fn keep_registered(
    reporter: RegistrationReporter,
    mut clock: LeaseClock,
    mut renew: impl AsyncFnMut() -> Result<Renewal, Error>,
    mut doubt: impl AsyncFnMut() -> String,
    mut register: impl AsyncFnMut() -> Result<Again, Error>,
) {
    let over = reporter.clone();
    let kept = pin!(async {
        loop {
            let tell = |status| match status {
                Status::Renewed(validity) => reporter.registered(validity),
                Status::Suspect(reason) => reporter.suspect(&reason),
            };
            let reason = keep_alive(clock, &mut renew, &mut doubt, tell).await;
            reporter.lost(&reason);
            match register_again(&mut register).await {
                Again::Registered(validity) => {
                    clock.renewed(validity);
                    reporter.registered(validity);
                }
                Again::Taken(by) => return reporter.taken(by),
            }
        }
    });
    select(kept, pin!(over.over())).await;
}

async fn register_again(register: &mut impl AsyncFnMut() -> Result<Again, Error>) -> Again {
    let mut backoff = Backoff::default();
    loop {
        // In a box, as a renewal.
        match Box::pin(register()).await {
            Ok(outcome) => return outcome,
            Err(error) => tracing::debug!(%error, "could not register again"),
        }
        backoff.wait().await;
    }
}

#[cfg(test)]
mod tests;
