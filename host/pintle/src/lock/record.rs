//! One lease as the host keeps it: its deadline and how it stands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::types::LeaseStatus;
use crate::clock::BootTime;

/// The state behind a [`super::Lease`], shared with the lease clock and the pump of events.
///
/// It goes to `Lost` or `Released` once and stays there.
pub(crate) struct LeaseRecord {
    pub(crate) id: u64,
    ttl: Duration,
    /// Number of the incarnation that was asked for it; 0 while none was.
    asked_of: AtomicU64,
    /// 0 while it is not granted: it has no time yet that could be up.
    deadline_ns: AtomicU64,
    status: watch::Sender<LeaseStatus>,
}

impl LeaseRecord {
    /// A lease that is being asked for: events about it may come before the answer.
    pub(crate) fn new(id: u64, ttl: Duration) -> Self {
        let status = watch::Sender::new(LeaseStatus::Held);
        Self { id, ttl, asked_of: AtomicU64::new(0), deadline_ns: AtomicU64::new(0), status }
    }

    /// From now on it is the business of incarnation `number`, and lost with that one.
    pub(crate) fn ask_of(&self, number: u64) {
        self.asked_of.store(number, Ordering::Release);
    }

    pub(crate) fn was_asked_of(&self, number: u64) -> bool {
        self.asked_of.load(Ordering::Acquire) == number
    }

    /// The backend granted it for `valid_for` from `sent_at` on.
    pub(crate) fn grant(&self, sent_at: BootTime, valid_for: Duration) {
        self.extend(sent_at, valid_for);
    }

    /// A renewal arrived. It is trusted no further than its sending, and never from the future.
    pub(crate) fn renew(&self, sent_at: BootTime, valid_for: Duration) {
        self.extend(sent_at, valid_for);
        self.change(|status| matches!(status, LeaseStatus::Suspect(_)), LeaseStatus::Held);
    }

    pub(crate) fn suspect(&self, reason: Arc<str>) {
        self.change(|status| *status == LeaseStatus::Held, LeaseStatus::Suspect(reason));
    }

    /// Ends the lease as lost. Answers whether it was still held.
    pub(crate) fn lose(&self, reason: Arc<str>) -> bool {
        self.change(is_held, LeaseStatus::Lost(reason))
    }

    /// Ends the lease as released. Answers whether it was still held.
    pub(crate) fn release(&self) -> bool {
        self.change(is_held, LeaseStatus::Released)
    }

    /// How it stands, by the clock as well: a lease past its deadline is lost even before the clock
    /// has said so.
    pub(crate) fn status(&self) -> LeaseStatus {
        if self.granted_until().is_some() && self.remaining().is_zero() {
            self.expire();
        }
        self.status.borrow().clone()
    }

    /// Whether somebody holds it: it was granted, and is neither lost nor released.
    pub(crate) fn is_held(&self) -> bool {
        self.granted_until().is_some() && is_held(&self.status())
    }

    /// Until when it is safe to believe that it is held; nothing when it is not.
    pub(crate) fn deadline(&self) -> Option<BootTime> {
        self.granted_until().filter(|_| is_held(&self.status.borrow()))
    }

    /// Its time is up. Answers whether it was still held.
    pub(crate) fn expire(&self) -> bool {
        self.lose("it was not renewed in time".into())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LeaseStatus> {
        self.status.subscribe()
    }

    /// How long it is still safe to believe that it is held.
    pub(crate) fn remaining(&self) -> Duration {
        self.granted_until().map_or(Duration::ZERO, |deadline| BootTime::now().until(deadline))
    }

    fn granted_until(&self) -> Option<BootTime> {
        let nanos = self.deadline_ns.load(Ordering::Acquire);
        (nanos > 0).then(|| BootTime::from_nanos(nanos))
    }

    fn extend(&self, sent_at: BootTime, valid_for: Duration) {
        let sent_at = sent_at.min(BootTime::now());
        let valid_for = valid_for.min(self.ttl).saturating_sub(margin(self.ttl));
        // Whatever a plugin says: from now on it is granted, if only to be over at once.
        let deadline = sent_at.plus(valid_for).nanos().max(1);
        // Replies may overtake each other; the latest deadline is as true as ever.
        self.deadline_ns.fetch_max(deadline, Ordering::AcqRel);
    }

    fn change(&self, applies: impl FnOnce(&LeaseStatus) -> bool, next: LeaseStatus) -> bool {
        self.status.send_if_modified(|status| {
            let applies = applies(status);
            if applies {
                *status = next;
            }
            applies
        })
    }
}

fn is_held(status: &LeaseStatus) -> bool {
    matches!(status, LeaseStatus::Held | LeaseStatus::Suspect(_))
}

/// How much earlier than the backend we consider a lease lost: clocks drift and replies travel.
fn margin(ttl: Duration) -> Duration {
    (ttl / 10).max(Duration::from_millis(500))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn record(sent_at: BootTime) -> LeaseRecord {
        let record = LeaseRecord::new(1, TTL);
        record.grant(sent_at, TTL);
        record
    }

    #[test]
    fn a_lease_counts_from_sending_less_a_margin() {
        let lease = record(BootTime::now());
        let remaining = lease.remaining();
        assert!(remaining <= Duration::from_secs(9), "{remaining:?}");
        assert!(remaining > Duration::from_secs(8), "{remaining:?}");
    }

    #[test]
    fn a_renewal_from_the_future_buys_no_time() {
        let lease = record(BootTime::now());
        lease.renew(BootTime::now().plus(Duration::from_secs(3600)), Duration::from_secs(3600));
        assert!(lease.remaining() <= Duration::from_secs(9));
    }

    #[test]
    fn a_lease_past_its_deadline_is_lost_before_the_clock_says_so() {
        let lease = record(BootTime::from_nanos(1));
        assert!(matches!(lease.status(), LeaseStatus::Lost(_)));
    }

    #[test]
    fn a_lease_that_is_asked_for_has_no_time_that_could_be_up() {
        let lease = LeaseRecord::new(1, TTL);
        assert_eq!(lease.status(), LeaseStatus::Held);
        assert!(!lease.is_held());
        assert_eq!(lease.deadline(), None);
        lease.grant(BootTime::now(), TTL);
        assert!(lease.is_held());
    }

    #[test]
    fn a_lost_lease_stays_lost_and_says_so_once() {
        let lease = record(BootTime::now());
        assert!(lease.lose("gone".into()));
        assert!(!lease.lose("again".into()));
        lease.renew(BootTime::now(), TTL);
        lease.suspect("late".into());
        assert!(!lease.release());
        assert_eq!(lease.status(), LeaseStatus::Lost("gone".into()));
    }

    #[test]
    fn a_renewal_ends_suspicion() {
        let lease = record(BootTime::now());
        lease.suspect("connection lost".into());
        assert_eq!(lease.status(), LeaseStatus::Suspect("connection lost".into()));
        lease.renew(BootTime::now(), TTL);
        assert_eq!(lease.status(), LeaseStatus::Held);
    }
}
