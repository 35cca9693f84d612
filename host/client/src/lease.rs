//! A lease that is kept until it is released or lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pintle_api::{
    Effect,
    lock::{Acquire, Lease, Token},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    backoff::Backoff,
    clock::Moment,
    error::ClientError,
    lock::{AcquireOutcome, LeaseName, Lock, is_gone},
};

/// How long one request waits for the loss of a lease.
const LOSS_POLL: Duration = Duration::from_secs(30);
/// How often the clock is looked at, because timers stand still while the machine is suspended.
const CLOCK_TICK: Duration = Duration::from_millis(500);

/// A lease. Dropping it releases in the background.
///
/// It is kept by a keepalive at a third of its TTL. When none succeeds in time, or the server says
/// so, it is lost, once and for all.
#[derive(Debug)]
pub struct HeldLease {
    shared: Arc<Shared>,
    token: Option<Token>,
    /// Why it was lost; none while it is held.
    lost: watch::Receiver<Option<Arc<str>>>,
    keeper: JoinHandle<()>,
    orphan: Orphan,
}

#[derive(Debug)]
struct Shared {
    lock: Lock,
    name: LeaseName,
    ttl: Duration,
    held_until: Mutex<Moment>,
}

/// Releases what may be held, unless it is disarmed.
#[derive(Debug)]
struct Orphan {
    lock: Lock,
    name: LeaseName,
    armed: bool,
}

impl HeldLease {
    pub(crate) async fn acquire(
        lock: Lock,
        name: &str,
        acquire: Acquire,
    ) -> Result<AcquireOutcome<Self>, ClientError> {
        let name = LeaseName { lock: name.into(), id: format!("{:032x}", rand::random::<u128>()) };
        let mut orphan = Orphan { lock: lock.clone(), name: name.clone(), armed: true };
        // Whether an attempt may have been granted without our having heard of it.
        let mut doubt = false;
        let (lease, sent, since) = match ask(&lock, &name, acquire.clone(), &mut doubt).await {
            Ok((AcquireOutcome::Held(lease), sent, since)) => (lease, sent, since),
            Ok((AcquireOutcome::Busy(holders), ..)) => {
                orphan.armed = doubt;
                return Ok(AcquireOutcome::Busy(holders));
            }
            Err(error) => {
                orphan.armed = doubt;
                return Err(error);
            }
        };
        let until = since.after(Duration::from_millis(lease.valid_for_ms));
        let shared = Arc::new(Shared {
            lock,
            name,
            ttl: Duration::from_millis(acquire.ttl_ms),
            held_until: Mutex::new(until),
        });
        let (sender, lost) = watch::channel(None);
        let keeper = tokio::spawn(keep(shared.clone(), sent, sender));
        Ok(AcquireOutcome::Held(Self { shared, token: lease.token, lost, keeper, orphan }))
    }

    /// Name of the lock and id of the lease.
    #[must_use]
    pub fn name(&self) -> &LeaseName {
        &self.shared.name
    }

    /// The fencing token; exclusive leases have one.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// For how long it is certainly held, without another keepalive.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.lost.borrow().is_some() { Duration::ZERO } else { self.shared.remaining() }
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Waits until it is lost, and says why.
    pub async fn lost(&self) -> Arc<str> {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "it is not kept any more".into(),
        }
    }

    /// Releases it, and says whether it was still held.
    ///
    /// # Errors
    /// Any of [`ClientError`]; the server gives it back by itself after its TTL.
    pub async fn release(mut self) -> Result<bool, ClientError> {
        self.keeper.abort();
        let result = self.shared.lock.release(&self.shared.name).await;
        match result {
            Ok(released) => {
                self.orphan.armed = false;
                Ok(released.released)
            }
            Err(error) if is_gone(&error) => {
                self.orphan.armed = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (lock, name) = (self.lock.clone(), self.name.clone());
        self.lock.client().in_background(async move {
            match lock.release(&name).await {
                Err(error) if !is_gone(&error) => {
                    tracing::warn!(lock = name.lock, %error, "lease not released; it will expire");
                }
                _ => {}
            }
        });
    }
}

impl Shared {
    fn remaining(&self) -> Duration {
        self.held_until.lock().unwrap_or_else(PoisonError::into_inner).remaining()
    }

    fn extend(&self, until: Moment) {
        let mut present = self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        *present = until.max(*present);
    }
}

type Asked = (AcquireOutcome<Lease>, Instant, Moment);

/// Asks until there is an answer: after a lost one the same id finds what was granted.
async fn ask(
    lock: &Lock,
    name: &LeaseName,
    mut acquire: Acquire,
    doubt: &mut bool,
) -> Result<Asked, ClientError> {
    let deadline = Instant::now() + Duration::from_millis(acquire.wait_ms);
    let give_up = deadline + lock.client().timeout();
    let mut backoff = Backoff::default();
    loop {
        let (sent, since) = (Instant::now(), Moment::now());
        let answer = lock.put(name, &acquire).await;
        *doubt |= answer.as_ref().is_err_and(|error| error.effect() == Effect::Unknown);
        match answer {
            Ok(outcome) => return Ok((outcome, sent, since)),
            Err(error @ (ClientError::Interrupted { .. } | ClientError::Timeout { .. }))
                if Instant::now() < give_up =>
            {
                tracing::debug!(lock = name.lock, %error, "asking again");
                sleep(backoff.next()).await;
                let left = deadline.saturating_duration_since(Instant::now());
                acquire.wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn keep(shared: Arc<Shared>, asked: Instant, lost: watch::Sender<Option<Arc<str>>>) {
    let reason = tokio::select! {
        reason = expiry(&shared) => reason,
        reason = renewals(&shared, asked) => reason,
        reason = losses(&shared) => reason,
    };
    lost.send_replace(Some(reason.into()));
}

async fn expiry(shared: &Shared) -> String {
    loop {
        let remaining = shared.remaining();
        if remaining.is_zero() {
            return "the server was not heard in time".into();
        }
        sleep(remaining.min(CLOCK_TICK)).await;
    }
}

async fn renewals(shared: &Shared, asked: Instant) -> String {
    let interval = shared.ttl / 3;
    let mut backoff = Backoff::default();
    let mut next = asked + interval;
    loop {
        tokio::time::sleep_until(next).await;
        let (sent, since) = (Instant::now(), Moment::now());
        match timeout(interval, shared.lock.keepalive(&shared.name)).await {
            Ok(Ok(lease)) => {
                backoff.reset();
                next = sent + interval;
                shared.extend(since.after(Duration::from_millis(lease.valid_for_ms)));
            }
            Ok(Err(error)) if is_gone(&error) => return error.to_string(),
            failure => {
                tracing::debug!(lock = shared.name.lock, ?failure, "keepalive failed");
                next = Instant::now() + backoff.next().min(interval);
            }
        }
    }
}

/// Hears of a loss sooner than the next keepalive would.
async fn losses(shared: &Shared) -> String {
    let mut backoff = Backoff::default();
    loop {
        match shared.lock.lease(&shared.name, LOSS_POLL).await {
            Ok(_) => backoff.reset(),
            Err(error) if is_gone(&error) => return error.to_string(),
            Err(_) => sleep(backoff.next()).await,
        }
    }
}
