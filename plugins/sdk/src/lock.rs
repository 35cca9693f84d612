//! Locks: leases with fencing, shared and counted, with holders and waiters in sight.
//!
//! The records are those of the WIT package `pintle:lock`, whose documentation is the contract.

use crate::bindings::wire::lock as wire;
use crate::bindings::wire::types;
use crate::outbox::{Channel, Weight};
use crate::reporter::Reporter;
use crate::time::Instant;
use crate::{Context, Error, Plugin};
use std::rc::Rc;
use std::time::Duration;

pub use wire::{AcquireRequest, Claim, Event, LockState, LocksPage, Mode, Token};

/// Offers `pintle:lock`.
///
/// # Cancellation
///
/// [`acquire`](Self::acquire) has its own rule. The futures of the other methods are dropped when
/// the call is cancelled or its time is over.
#[allow(async_fn_in_trait, reason = "one thread, and the SDK is the only caller")]
pub trait Lock: Plugin {
    /// What the plugin remembers of a lease it holds; dropped when the lease is over.
    type Lease: 'static;

    /// Asks for a lease, waiting at most `request.wait_ms` for it.
    ///
    /// Before the lease is returned, start a task that renews it at a third of its TTL until
    /// [`reporter.over()`](LeaseReporter::over), and that reports through `reporter`.
    ///
    /// # Errors
    ///
    /// Every error means that no claim is left behind. If that is not certain, say
    /// [`effect_unknown`](Error::effect_unknown).
    ///
    /// # Cancellation
    ///
    /// This future is *never* dropped. When [`cx.cancelled()`](Context::cancelled) resolves, remove
    /// the claim and return `cx.error(end)`, within 800 ms if the server answers. A lease that is
    /// returned all the same is given back by the SDK, through [`release`](Self::release).
    async fn acquire(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<Self::Lease>, Error>;

    /// Ends the lease, so that the next waiter gets the lock; answers false when it was not held
    /// any more. Repeated after an error, and when the SDK cleans up.
    async fn release(&self, cx: &Context, lease: Rc<Self::Lease>) -> Result<bool, Error>;

    /// Names the holders, and the waiters where `lock.waiters`.
    async fn inspect(&self, cx: &Context, name: String) -> Result<LockState, Error>;

    /// Names of locks below the prefix that have a holder or waiter, at most `limit` a page.
    async fn list_locks(
        &self,
        cx: &Context,
        prefix: String,
        page: Option<String>,
        limit: u32,
    ) -> Result<LocksPage, Error>;

    /// Takes a claim away from whoever has it; answers whether there was one. Feature
    /// `lock.force-release`.
    async fn force_release(
        &self,
        cx: &Context,
        name: String,
        claim_id: String,
    ) -> Result<bool, Error> {
        let _ = (cx, name, claim_id);
        Err(Error::unsupported("this plugin cannot take locks away"))
    }

    /// Feeds a watch on one lock; as `Config::watch`. Feature `lock.watch`.
    async fn watch(self: Rc<Self>, name: String, sink: WatchSink) -> Result<(), Error> {
        let _ = (name, sink);
        Err(Error::unsupported("this plugin cannot watch locks"))
    }
}

/// The `Held` type of a plugin without locks; there are no values of it.
#[derive(Clone, Copy, Debug)]
pub enum NoLease {}

/// How asking for a lease went.
#[derive(Debug)]
pub enum Acquired<L> {
    /// It is ours.
    Held {
        /// What the plugin remembers of it.
        lease: L,
        /// Until when.
        validity: Validity,
        /// Present for exclusive leases.
        token: Option<Token>,
    },
    /// Not within the wait; who holds it.
    Busy(Vec<Claim>),
}

/// Until when something that the server keeps for us is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Clock reading just *before* the request was sent that the server answered with this grant.
    pub sent_at: Instant,
    /// What the server granted, no margin taken off.
    pub valid_for: Duration,
}

impl From<Validity> for types::Validity {
    fn from(validity: Validity) -> Self {
        let valid_for_ms = u32::try_from(validity.valid_for.as_millis()).unwrap_or(u32::MAX);
        Self { valid_for_ms, sent_at: validity.sent_at.as_nanos() }
    }
}

/// Tells the host how a lease is. Clones speak of the same lease.
///
/// What is said before [`acquire`](Lock::acquire) has returned reaches the host after it.
#[derive(Clone)]
pub struct LeaseReporter {
    inner: Reporter<Event>,
}

impl LeaseReporter {
    pub(crate) fn new(inner: Reporter<Event>) -> Self {
        Self { inner }
    }

    /// The server has renewed the lease.
    pub fn renewed(&self, validity: Validity) {
        let status = |event: &Event| matches!(event, Event::Renewed(_) | Event::Suspect(_));
        self.inner.report(Event::Renewed(validity.into()), status);
    }

    /// Renewal is in doubt, and why; say so as soon as the connection is gone.
    pub fn suspect(&self, reason: &str) {
        let suspect = |event: &Event| matches!(event, Event::Suspect(_));
        self.inner.report(Event::Suspect(reason.to_owned()), suspect);
    }

    /// The lease is gone for good, and why. Counts once; afterwards the SDK forgets the lease, and
    /// it must never be taken again.
    pub fn lost(&self, reason: &str) {
        self.inner.finish(Event::Lost(reason.to_owned()));
    }

    /// Whether the lease was lost, released or closed, so that it need not be renewed any more.
    pub fn is_over(&self) -> bool {
        self.inner.is_over()
    }

    /// Waits until the lease was lost, released or closed.
    pub async fn over(&self) {
        self.inner.over().await;
    }
}

/// Where the states of a watched lock go. Clones feed the same watch.
#[derive(Clone)]
pub struct WatchSink {
    feed: Rc<Feed>,
}

struct Feed {
    channel: Rc<Channel<Event>>,
}

impl WatchSink {
    pub(crate) fn new(channel: Rc<Channel<Event>>) -> Self {
        Self { feed: Rc::new(Feed { channel }) }
    }

    /// The state of the lock: first what it is, then after each change. Only the newest waits.
    pub fn state(&self, state: LockState) {
        self.feed.channel.retract(|_| true);
        self.feed.channel.push(Event::State(state));
    }

    /// Ends the watch for good.
    pub fn end(&self, error: Error) {
        self.feed.channel.finish(Event::Ended(error.into()));
    }

    /// Waits until the host has closed the watch.
    pub async fn closed(&self) {
        self.feed.channel.wait(|| self.is_closed().then_some(())).await;
    }

    /// Whether the host has closed the watch.
    pub fn is_closed(&self) -> bool {
        self.feed.channel.is_closed()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let error = Error::internal("the plugin stopped feeding this watch");
        self.channel.finish(Event::Ended(error.into()));
    }
}

impl Weight for Event {
    fn weight(&self) -> usize {
        let claims = match self {
            Self::State(state) => state.holders.len() + state.waiters.len(),
            _ => 0,
        };
        size_of::<Self>() + claims * size_of::<Claim>()
    }
}
