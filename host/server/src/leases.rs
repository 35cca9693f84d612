//! The leases that clients keep through this server.
//!
//! A client names its lease, and has to say again and again that it lives. When it does not, the
//! lock is released. What was promised to a client is never cut short: not by the end of the server
//! either.

mod kept;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pintle::lock::{AcquireOutcome, LeaseRef, Lock, LockRequest};
use pintle_api::{
    lock::{Acquire, Lease},
    problem::code,
};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::{
    convert::lock as convert,
    failure::{Answer, Failure},
    state::Stopping,
};
use kept::Kept;

/// Leases that are asked for or held at a time.
const LEASES_MAX: usize = 10_000;
/// Leases that have ended and are remembered, so that nobody gets them again by mistake.
const ENDED_MAX: usize = 10_000;
/// How long they are remembered.
const ENDED_KEPT: Duration = Duration::from_secs(600);
/// Longest time for which leases hold up the end of the server.
const DRAIN_MAX: Duration = Duration::from_secs(30);
const ID_CHARS_MAX: usize = 128;

/// Names one lease in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseName {
    pub(crate) backend: String,
    pub(crate) lock: String,
    pub(crate) id: String,
}

/// What became of a release.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// False when it was not held any more.
    pub(crate) released: bool,
    /// Its token until then, if it had one.
    pub(crate) token: Option<u64>,
}

/// All leases of one server.
#[derive(Clone)]
pub(crate) struct Leases {
    table: Arc<Mutex<Table>>,
    tasks: TaskTracker,
    stopping: Stopping,
}

#[derive(Default)]
struct Table {
    entries: HashMap<String, Entry>,
    /// Ids of leases that have ended, the oldest first.
    ended: VecDeque<(Instant, String)>,
}

#[derive(Clone)]
enum Entry {
    Asking(Arc<Asking>),
    Kept(Arc<Kept>),
}

/// A lease that somebody asks for. Who asks with the same id waits for the same answer.
struct Asking {
    name: LeaseName,
    terms: Acquire,
    gate: AsyncMutex<()>,
    cancelled: watch::Sender<bool>,
}

/// Takes an unanswered question away when the one who asked it has gone.
struct Attempt<'a> {
    leases: &'a Leases,
    asking: Arc<Asking>,
}

impl Leases {
    pub(crate) fn new(stopping: Stopping) -> Self {
        Self { table: Arc::default(), tasks: TaskTracker::new(), stopping }
    }

    /// Asks for a lease, or finds the one that this id was given to.
    pub(crate) async fn acquire(
        &self,
        lock: Lock,
        name: LeaseName,
        acquire: Acquire,
    ) -> Answer<Lease> {
        let received = Instant::now();
        check_id(&name.id)?;
        let mut terms = acquire.clone();
        terms.wait_ms = 0;
        loop {
            if self.stopping.has_begun() {
                return Err(Failure::of(code::SHUTTING_DOWN, "the server is stopping"));
            }
            let attempt = match self.enter(&name, &terms)? {
                Entry::Kept(kept) => return kept.renew(received),
                Entry::Asking(asking) => Attempt { leases: self, asking },
            };
            let _alone = attempt.asking.gate.lock().await;
            if !self.is_current(&attempt.asking) {
                // Somebody else who asked with this id has the answer, or has given up.
                continue;
            }
            let kept = self.ask(&lock, &attempt.asking, &acquire).await?;
            return kept.renew(received);
        }
    }

    /// Prolongs a lease.
    pub(crate) fn keepalive(&self, name: &LeaseName) -> Answer<Lease> {
        self.find(name)?.renew(Instant::now())
    }

    /// Reads a lease, when it is lost or `wait` has passed.
    pub(crate) async fn read(&self, name: &LeaseName, wait: Duration) -> Answer<Lease> {
        let received = Instant::now();
        let kept = self.find(name)?;
        // Running out of time is the usual case.
        let _ = tokio::time::timeout(wait, kept.ended()).await;
        kept.describe(received)
    }

    /// Releases a lease.
    pub(crate) async fn release(&self, name: &LeaseName) -> Answer<Ended> {
        let kept = {
            let mut table = self.table();
            match table.entries.get(&name.id).cloned() {
                Some(Entry::Kept(kept)) if kept.name == *name => kept,
                Some(Entry::Asking(asking)) if asking.name == *name => {
                    asking.cancelled.send_replace(true);
                    let kept = Kept::never_held(name.clone(), asking.terms.clone());
                    table.entries.insert(name.id.clone(), Entry::Kept(Arc::new(kept)));
                    table.remember_end(&name.id);
                    return Ok(Ended::default());
                }
                _ => return Err(unknown(name)),
            }
        };
        let token = kept.token();
        let released = kept.release().await?;
        Ok(Ended { released, token: token.filter(|_| released) })
    }

    /// What names a held lease to a precondition on a backend.
    pub(crate) fn reference(&self, backend: &str, id: &str) -> Answer<LeaseRef> {
        let entry = self.table().entries.get(id).cloned();
        let kept = match entry {
            Some(Entry::Kept(kept)) if kept.name.backend == backend => kept,
            // One of another backend is nobody's business who may not know of that.
            _ => {
                let detail = format!("held: this server knows no lease {id:?} on this backend");
                return Err(Failure::of(code::LEASE_UNKNOWN, detail)
                    .advice("a precondition holds within one backend only"));
            }
        };
        kept.reference().ok_or_else(|| {
            let detail = format!("held: the lease {id:?} is not held any more; nothing was done");
            Failure::of(code::FENCED, detail)
        })
    }

    /// Leases that are held.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.tasks.len()).unwrap_or(u64::MAX)
    }

    /// Waits until no lease is held any more.
    pub(crate) async fn drained(&self) {
        self.tasks.close();
        if !self.tasks.is_empty() {
            tracing::info!(leases = self.tasks.len(), "waiting for the holders of leases");
        }
        if tokio::time::timeout(DRAIN_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!(leases = self.tasks.len(), "leases end before their holders know");
        }
    }

    async fn ask(&self, lock: &Lock, asking: &Arc<Asking>, acquire: &Acquire) -> Answer<Arc<Kept>> {
        let mut cancelled = asking.cancelled.subscribe();
        let request = LockRequest {
            name: asking.name.lock.clone(),
            mode: convert::mode(acquire.mode),
            ttl: Duration::from_millis(acquire.ttl_ms),
            wait: Duration::from_millis(acquire.wait_ms),
            owner: acquire.owner.clone(),
        };
        let outcome = tokio::select! {
            outcome = lock.acquire(request) => outcome?,
            // Fails only when the sender is gone, which `asking` has.
            _ = cancelled.wait_for(|cancelled| *cancelled) => return Err(released()),
            () = self.stopping.begun() => {
                return Err(Failure::of(code::SHUTTING_DOWN, "the server is stopping"));
            }
        };
        let lease = match outcome {
            AcquireOutcome::Held(lease) => Arc::new(lease),
            AcquireOutcome::Busy(holders) => {
                let detail = format!("lock {} is held by others", asking.name.lock);
                let holders = holders.iter().map(convert::claim).collect();
                return Err(
                    Failure::of(code::LOCK_BUSY, detail).with(|problem| problem.holders = holders)
                );
            }
        };
        let kept = Arc::new(Kept::new(asking.name.clone(), asking.terms.clone(), &lease));
        {
            let mut table = self.table();
            if !table.is_current(asking) {
                // Released before it was held; dropping the lease gives it back.
                return Err(released());
            }
            table.entries.insert(asking.name.id.clone(), Entry::Kept(Arc::clone(&kept)));
        }
        let (leases, keeper) = (self.clone(), Arc::clone(&kept));
        self.tasks.spawn(async move {
            keeper.keep(lease, &leases.stopping).await;
            leases.table().remember_end(&keeper.name.id);
        });
        Ok(kept)
    }

    /// What is there under an id, or a new question.
    fn enter(&self, name: &LeaseName, terms: &Acquire) -> Answer<Entry> {
        let mut table = self.table();
        table.forget_old();
        let present = table.entries.get(&name.id).cloned();
        if let Some(entry) = present {
            let (its_name, its_terms) = match &entry {
                Entry::Asking(asking) => (&asking.name, &asking.terms),
                Entry::Kept(kept) => (&kept.name, &kept.terms),
            };
            if its_name != name || its_terms != terms {
                // For which lock is nobody's business who may not know of it.
                let what = if its_name == name { "with other terms" } else { "for another lock" };
                let detail = format!("the id {:?} is in use {what}", name.id);
                return Err(Failure::of(code::LEASE_ID_IN_USE, detail)
                    .advice("choose an id that was never used, such as a UUID"));
            }
            return Ok(entry);
        }
        if table.entries.len() >= LEASES_MAX + table.ended.len() {
            let detail = format!("this server keeps {LEASES_MAX} leases, and no more");
            return Err(Failure::of(code::EXHAUSTED, detail));
        }
        let entry = Entry::Asking(Arc::new(Asking {
            name: name.clone(),
            terms: terms.clone(),
            gate: AsyncMutex::new(()),
            cancelled: watch::Sender::new(false),
        }));
        table.entries.insert(name.id.clone(), entry.clone());
        Ok(entry)
    }

    fn find(&self, name: &LeaseName) -> Answer<Arc<Kept>> {
        match self.table().entries.get(&name.id) {
            Some(Entry::Kept(kept)) if kept.name == *name => Ok(Arc::clone(kept)),
            _ => Err(unknown(name)),
        }
    }

    fn is_current(&self, asking: &Arc<Asking>) -> bool {
        self.table().is_current(asking)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn is_current(&self, asking: &Arc<Asking>) -> bool {
        matches!(
            self.entries.get(&asking.name.id),
            Some(Entry::Asking(present)) if Arc::ptr_eq(present, asking)
        )
    }

    fn remember_end(&mut self, id: &str) {
        self.ended.push_back((Instant::now(), id.to_owned()));
        self.forget_old();
    }

    fn forget_old(&mut self) {
        while let Some((ended, id)) = self.ended.front() {
            if self.ended.len() <= ENDED_MAX && ended.elapsed() < ENDED_KEPT {
                return;
            }
            self.entries.remove(id);
            self.ended.pop_front();
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        // One in the table, one here: nobody else waits for the answer.
        if table.is_current(&self.asking) && Arc::strong_count(&self.asking) <= 2 {
            table.entries.remove(&self.asking.name.id);
        }
    }
}

fn check_id(id: &str) -> Answer<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(fits) {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "lease id {id:?}: expected 1 to {ID_CHARS_MAX} letters, digits, `-`, `.`, `_` or `~`"
    )))
}

fn unknown(name: &LeaseName) -> Failure {
    let LeaseName { lock, id, .. } = name;
    Failure::of(code::LEASE_UNKNOWN, format!("this server knows no lease {id:?} of lock {lock}"))
        .advice("the server may have been restarted: count the lock as lost, and acquire it anew")
}

fn released() -> Failure {
    Failure::of(code::LEASE_RELEASED, "the lease was released")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_needs_no_escapes() {
        for id in ["a", "0b8c-._~", &"x".repeat(128)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", "a b", "ü", "a/b", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
