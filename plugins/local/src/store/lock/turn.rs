//! Changing locks, inside a turn.

use super::queue::{Claim, LockQueue, Mode};
use crate::store::key::check_key;
use crate::store::lease::{Kept, Validity, check_ttl};
use crate::store::record::TableId;
use crate::store::tables::claim_key;
use crate::store::turn::Turn;
use crate::store::{Result, StoreError};
use prost::Message;
use std::sync::Arc;

/// Most who wait for one lock.
pub const WAITERS_MAX: usize = 10_000;
/// Most bytes of the text that says who holds a lock.
pub const OWNER_BYTES_MAX: usize = 1_024;

/// A request for a lock.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The lock's name, of the form of a key.
    pub name: String,
    /// How to hold it.
    pub mode: Mode,
    /// How long the lease lasts after a renewal, in milliseconds.
    pub ttl_ms: u32,
    /// Who asks.
    pub owner: String,
    /// Whether to wait when it is not free.
    pub wait: bool,
}

/// What became of a request for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is held.
    Held(Grant),
    /// It is not free; who holds it.
    Busy(Vec<Claim>),
    /// It waits, under this lease number; [`super::super::Effects::granted`] will tell.
    Queued(u64),
}

/// A lock given to who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Number of the lease.
    pub lease: u64,
    /// Present for exclusive locks.
    pub token: Option<u64>,
    /// Until when.
    pub validity: Validity,
}

impl Turn<'_> {
    /// Asks for a lock.
    pub fn acquire(&mut self, request: &Acquire) -> Result<Acquired> {
        check_key(&request.name)?;
        check_ttl(request.ttl_ms)?;
        if request.mode == Mode::Permit(0) {
            return Err(StoreError::invalid("a lock with 0 permits can never be held"));
        }
        check_owner(&request.owner)?;
        self.expire_holders(&request.name)?;
        let queue = self.memory.locks.get(&request.name).cloned().unwrap_or_default();
        if let Some(other) = queue.clashes_with(request.mode) {
            return Err(StoreError::Conflict {
                what: format!(
                    "lock `{}` is in use with {other} permits: all who use it give the same number",
                    request.name
                ),
            });
        }
        let mut claim = Claim {
            lease: 0,
            mode: request.mode,
            owner: request.owner.clone(),
            ttl_ms: request.ttl_ms,
            token: None,
            since_ms: self.clock.unix_ms(),
        };
        if queue.waiters.is_empty() && queue.admits(request.mode) {
            claim.lease = self.next_lease()?;
            return Ok(Acquired::Held(self.grant(&request.name, claim)?));
        }
        if !request.wait {
            return Ok(Acquired::Busy(queue.holders.values().cloned().collect()));
        }
        if queue.waiters.len() >= WAITERS_MAX {
            return Err(StoreError::Exhausted {
                what: format!("{WAITERS_MAX} already wait for lock `{}`", request.name),
            });
        }
        let lease = self.next_lease()?;
        claim.lease = lease;
        self.memory.waiting.insert(lease, Arc::from(request.name.as_str()));
        self.queue_mut(&request.name).waiters.insert(lease, claim);
        self.effects.lock_changed(&request.name);
        Ok(Acquired::Queued(lease))
    }

    /// Ends a lease, or the wait for one; answers whether a lock was held until now.
    pub fn release(&mut self, lease: u64) -> Result<bool> {
        if let Some(name) = self.memory.waiting.get(&lease).cloned() {
            self.remove_waiter(&name, lease);
            self.advance(&name)?;
            return Ok(false);
        }
        let Some(Kept::Claim(name)) =
            self.memory.leases.lease(lease).map(|lease| lease.kept.clone())
        else {
            return Ok(false);
        };
        let held = self.is_held(lease);
        self.remove_holder(&name, lease)?;
        self.advance(&name)?;
        Ok(held)
    }

    /// Takes a claim away from whoever has it; answers whether there was one.
    pub fn force_release(&mut self, name: &str, lease: u64) -> Result<bool> {
        check_key(name)?;
        let Some(queue) = self.memory.locks.get(name) else { return Ok(false) };
        let holds = queue.holders.contains_key(&lease);
        let waits = queue.waiters.contains_key(&lease);
        if holds {
            self.remove_holder(name, lease)?;
        } else if waits {
            self.remove_waiter(name, lease);
        } else {
            return Ok(false);
        }
        self.effects.ended(lease, "an operator released it by force");
        self.advance(name)?;
        Ok(true)
    }

    /// Whether a lock is held under this lease, now.
    pub fn is_held(&self, lease: u64) -> bool {
        let now_ns = self.clock.monotonic_ns();
        self.memory.leases.is_valid(lease, now_ns)
            && matches!(
                self.memory.leases.lease(lease).map(|lease| &lease.kept),
                Some(Kept::Claim(_))
            )
    }

    /// Gives the lock to those who wait, while the next one may hold it.
    pub(crate) fn advance(&mut self, name: &str) -> Result<()> {
        while let Some(queue) = self.memory.locks.get(name) {
            let Some((_, next)) =
                queue.waiters.get_min().filter(|(_, next)| queue.admits(next.mode))
            else {
                break;
            };
            let mut claim = next.clone();
            self.remove_waiter(name, claim.lease);
            claim.since_ms = self.clock.unix_ms();
            let grant = self.grant(name, claim)?;
            self.effects.granted.push(grant);
        }
        Ok(())
    }

    fn grant(&mut self, name: &str, mut claim: Claim) -> Result<Grant> {
        if claim.mode == Mode::Exclusive {
            claim.token = Some(self.next_revision());
        }
        let record = claim.to_record().encode_to_vec();
        self.tables.insert(TableId::Claims, claim_key(name, claim.lease), record)?;
        let now_ns = self.clock.monotonic_ns();
        let kept = Kept::Claim(Arc::from(name));
        let validity = self.memory.leases.insert(claim.lease, claim.ttl_ms, now_ns, kept);
        let grant = Grant { lease: claim.lease, token: claim.token, validity };
        self.queue_mut(name).holders.insert(grant.lease, claim);
        self.effects.lock_changed(name);
        Ok(grant)
    }

    fn expire_holders(&mut self, name: &str) -> Result<()> {
        let now_ns = self.clock.monotonic_ns();
        let Some(queue) = self.memory.locks.get(name) else { return Ok(()) };
        let expired: Vec<u64> = queue
            .holders
            .keys()
            .copied()
            .filter(|lease| !self.memory.leases.is_valid(*lease, now_ns))
            .collect();
        for lease in &expired {
            self.remove_holder(name, *lease)?;
            self.effects.ended(*lease, "its time to live ran out");
        }
        if !expired.is_empty() {
            self.advance(name)?;
        }
        Ok(())
    }

    /// Removes a holder without looking who comes next.
    pub(crate) fn remove_holder(&mut self, name: &str, lease: u64) -> Result<()> {
        self.tables.remove(TableId::Claims, claim_key(name, lease))?;
        self.memory.leases.remove(lease);
        self.queue_mut(name).holders.remove(&lease);
        self.forget_if_empty(name);
        self.effects.lock_changed(name);
        Ok(())
    }

    fn remove_waiter(&mut self, name: &str, lease: u64) {
        self.memory.waiting.remove(&lease);
        self.queue_mut(name).waiters.remove(&lease);
        self.forget_if_empty(name);
        self.effects.lock_changed(name);
    }

    fn queue_mut(&mut self, name: &str) -> &mut LockQueue {
        Arc::make_mut(self.memory.locks.entry(name.to_owned()).or_default())
    }

    fn forget_if_empty(&mut self, name: &str) {
        if self.memory.locks.get(name).is_some_and(|queue| queue.is_empty()) {
            self.memory.locks.remove(name);
        }
    }
}

fn check_owner(owner: &str) -> Result<()> {
    if owner.len() > OWNER_BYTES_MAX {
        return Err(StoreError::TooLarge {
            limit: "owner_bytes_max",
            what: "the owner's length in bytes",
            actual: owner.len() as u64,
            max: OWNER_BYTES_MAX as u64,
        });
    }
    Ok(())
}
