//! A turn: several changes that become durable together.

use super::clock::Clock;
use super::lease::{Kept, lease_number};
use super::lock::Grant;
use super::memory::Memory;
use super::options::Options;
use super::registry::InstanceChange;
use super::tables::{Tables, meta};
use super::{Result, StoreError};
use std::collections::BTreeSet;

/// The only place from which the store can be changed: [`super::Store::turn`] hands it out.
///
/// Every operation either refuses before it has written anything, or does all of what it does, or
/// fails with a fault ([`StoreError::is_fault`]), which ends the whole turn.
pub struct Turn<'a> {
    pub(crate) tables: Tables<'a>,
    pub(crate) memory: Memory,
    pub(crate) options: &'a Options,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) effects: Effects,
    /// The newest revision that stands in the log.
    logged: Option<u64>,
    must_store_revision: bool,
    /// Writes of keys so far.
    pub(crate) keys_changed: usize,
}

/// What a turn did beyond what its operations answered; to be told once it is durable.
#[derive(Debug, Default)]
pub struct Effects {
    /// Locks given to those who waited.
    pub granted: Vec<Grant>,
    /// Leases and waits that ended otherwise than by their owner, with the reason.
    pub ended: Vec<(u64, String)>,
    /// Locks whose holders or waiters changed.
    pub locks: BTreeSet<String>,
    /// Instances that changed, in order.
    pub instances: Vec<InstanceChange>,
    /// Whether keys changed.
    pub keys: bool,
}

impl Effects {
    pub(crate) fn lock_changed(&mut self, name: &str) {
        if !self.locks.contains(name) {
            self.locks.insert(name.to_owned());
        }
    }

    pub(crate) fn ended(&mut self, lease: u64, reason: &str) {
        self.ended.push((lease, reason.to_owned()));
    }
}

impl<'a> Turn<'a> {
    pub(crate) fn new(
        tables: Tables<'a>,
        memory: Memory,
        options: &'a Options,
        clock: &'a dyn Clock,
    ) -> Self {
        let effects = Effects::default();
        let (logged, must_store_revision, keys_changed) = (None, false, 0);
        Self { tables, memory, options, clock, effects, logged, must_store_revision, keys_changed }
    }

    /// Ends what ran out of time.
    pub fn expire(&mut self) -> Result<()> {
        for lease in self.memory.leases.expired(self.clock.monotonic_ns()) {
            self.end_lease(lease)?;
            self.effects.ended(lease, "its time to live ran out");
        }
        Ok(())
    }

    /// Continues where named incarnations left off: their locks end, for nobody believes in them
    /// any more, and their registrations wait for being repeated.
    pub fn succeed(&mut self, predecessors: &[u64]) -> Result<()> {
        let orphans: Vec<u64> = self
            .memory
            .leases
            .iter()
            .filter(|(number, lease)| {
                predecessors.contains(&super::lease::incarnation_of(*number))
                    && matches!(lease.kept, Kept::Claim(_))
            })
            .map(|(number, _)| number)
            .collect();
        for lease in orphans {
            self.end_lease(lease)?;
        }
        self.memory.predecessors.extend(predecessors.iter().copied());
        Ok(())
    }

    /// Ends all leases of this incarnation.
    pub fn end_own(&mut self) -> Result<()> {
        let own: Vec<u64> = self
            .memory
            .leases
            .iter()
            .map(|(number, _)| number)
            .filter(|number| super::lease::incarnation_of(*number) == self.memory.incarnation)
            .collect();
        for lease in own {
            self.end_lease(lease)?;
        }
        Ok(())
    }

    pub(crate) fn end_lease(&mut self, lease: u64) -> Result<()> {
        match self.memory.leases.lease(lease).map(|lease| lease.kept.clone()) {
            Some(Kept::Claim(name)) => {
                self.remove_holder(&name, lease)?;
                self.advance(&name)
            }
            Some(Kept::Instance(service, id)) => {
                self.memory.leases.remove(lease);
                self.remove_instance(&service, &id)
            }
            None => Ok(()),
        }
    }

    pub(crate) fn next_revision(&mut self) -> u64 {
        self.memory.revision += 1;
        self.memory.revision
    }

    pub(crate) fn next_lease(&mut self) -> Result<u64> {
        let memory = &mut self.memory;
        memory.leases_made = memory.leases_made.checked_add(1).ok_or_else(|| {
            StoreError::Exhausted { what: "this incarnation has made its last lease".into() }
        })?;
        Ok(lease_number(memory.incarnation, memory.leases_made))
    }

    /// Notes that a revision stands in the log, which tells the newest revision after a crash.
    pub(crate) fn logged(&mut self, revision: u64) {
        self.logged = Some(revision);
        self.effects.keys = true;
    }

    /// Notes that the log may not tell the newest revision any more.
    pub(crate) fn unlogged(&mut self) {
        self.must_store_revision = true;
    }

    pub(crate) fn finish(&mut self, revision_before: u64) -> Result<()> {
        self.compact()?;
        let revision = self.memory.revision;
        let unlogged = revision != revision_before && self.logged != Some(revision);
        if unlogged || self.must_store_revision {
            self.tables.set_meta(meta::REVISION, revision)?;
        }
        Ok(())
    }

    pub(crate) fn into_parts(self) -> (Tables<'a>, Memory, Effects) {
        (self.tables, self.memory, self.effects)
    }
}
