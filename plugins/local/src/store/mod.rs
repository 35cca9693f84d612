//! The engine below the capabilities: keys with their past, locks and registrations with leases, in
//! one database that survives crashes. Nothing here knows of WebAssembly.
//!
//! All changes go through [`Store::turn`]: one transaction of the database for any number of
//! operations, each of which has its own outcome. It is durable when what it changed is in the log
//! ahead of the database, in `wal`. Revisions number the changes of the whole store; they are
//! versions of keys and instances and tokens of locks alike, and never come twice.

mod clock;
mod config;
mod error;
mod key;
mod lease;
mod lock;
mod memory;
mod opened;
mod options;
mod read;
mod record;
mod registry;
mod storage;
mod tables;
mod turn;
mod wal;

pub use clock::Clock;
pub use config::*;
pub use error::{Result, StoreError};
pub use key::{KEY_BYTES_MAX, check_key, check_name, check_prefix};
pub use lease::{TTL_MS_MAX, TTL_MS_MIN, Validity};
pub use lock::{Acquire, Acquired, Claim, Grant, LockState, Mode, OWNER_BYTES_MAX, WAITERS_MAX};
pub use opened::Seeds;
pub use options::{Options, Retention};
pub use registry::*;
pub use storage::{Directory, FILE_NAME, LOG_FILE_NAME, Storage, builder};
pub use tables::FORMAT;
pub use turn::{Effects, Turn};

use lease::{Kept, incarnation_of};
use memory::Memory;
use opened::Opened;
use redb::ReadTransaction;
use std::collections::BTreeSet;
use std::sync::Arc;
use tables::{Changes, Tables};

/// A store, opened.
pub struct Store {
    storage: Box<dyn Storage>,
    options: Options,
    clock: Arc<dyn Clock>,
    identity: String,
    /// The database and its log, or why there are none.
    opened: Result<Opened, String>,
    stopped: bool,
    /// Whether the file is so large that checkpoints have to make its next opening quick.
    large: bool,
    memory: Memory,
    feed: registry::feed::Feed,
}

const STOPPED: &str = "it was stopped";

impl Store {
    /// Opens the store, or makes one.
    ///
    /// Leases of earlier incarnations run for their whole time once more: their owners may still
    /// believe in them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] for a file that is damaged or somebody else's; it is not touched.
    pub fn open(
        storage: Box<dyn Storage>,
        options: Options,
        clock: Arc<dyn Clock>,
        seeds: Seeds,
    ) -> Result<Self> {
        let (opened, facts) = Opened::begin(storage.as_ref(), &options, seeds)?;
        let mut memory = Memory { incarnation: facts.incarnation, ..Memory::default() };
        let txn = opened.read()?;
        memory.set_revisions(&memory::read_revisions(&txn)?);
        let now_ns = clock.monotonic_ns();
        for stored in memory::read_leases(&txn)? {
            memory.take_over(stored, now_ns);
        }
        drop(txn);
        let large = storage.length()? >= options.quick_repair_bytes_min;
        let feed = registry::feed::Feed::default();
        let (opened, identity, stopped) = (Ok(opened), facts.identity, false);
        Ok(Self { storage, options, clock, identity, opened, stopped, large, memory, feed })
    }

    /// Does `work` and makes it durable, all of it or nothing.
    ///
    /// # Errors
    ///
    /// What `work` answers; nothing is changed then. When the database failed the store answers
    /// [`StoreError::Closed`] until [`Self::recover`] succeeds.
    pub fn turn<R>(
        &mut self,
        work: impl FnOnce(&mut Turn<'_>) -> Result<R>,
    ) -> Result<(R, Effects)> {
        let result = self.try_turn(work);
        if let Err(error) = &result {
            self.note_failure(error);
        }
        result
    }

    fn try_turn<R>(
        &mut self,
        work: impl FnOnce(&mut Turn<'_>) -> Result<R>,
    ) -> Result<(R, Effects)> {
        let opened = self.opened.as_mut().map_err(|reason| closed(reason))?;
        let (txn, room) = opened.write(self.large)?;
        let tables = Tables::new(&txn, room);
        let mut turn = Turn::new(tables, self.memory.clone(), &self.options, self.clock.as_ref());
        let answer = work(&mut turn)?;
        turn.finish(self.memory.revision)?;
        let (tables, memory, mut effects) = turn.into_parts();
        let changes = tables.finish(opened.next_generation())?;
        let checkpoint = matches!(changes, Changes::TooMany);
        opened.commit(txn, changes)?;
        self.memory = memory;
        if checkpoint {
            // A size that cannot be read costs speed at most; the next turn tells of the disk.
            self.large = self
                .storage
                .length()
                .map_or(self.large, |length| length >= self.options.quick_repair_bytes_min);
        }
        for change in &effects.instances {
            self.feed.push(change.clone());
        }
        effects.instances.shrink_to_fit();
        Ok((answer, effects))
    }

    /// Does what the last turn left for later; whatever comes next does it else. A turn is durable
    /// and can be answered before.
    ///
    /// # Errors
    ///
    /// When it fails the database has to be opened again, which finds all that was durable.
    pub fn settle(&mut self) -> Result<()> {
        self.opened.as_ref().map_or(Ok(()), Opened::settle)
    }

    /// Opens the database again after a failure and settles what the failed turn left: claims that
    /// nobody was told of end, and those that are gone are reported.
    pub fn recover(&mut self) -> Result<Effects> {
        if self.opened.is_ok() {
            return Ok(Effects::default());
        }
        if self.stopped {
            return Err(StoreError::Closed { reason: STOPPED.into() });
        }
        let opened = Opened::again(self.storage.as_ref(), &self.options, self.large)?;
        let txn = opened.read()?;
        let revisions = memory::read_revisions(&txn)?;
        let stored = memory::read_leases(&txn)?;
        drop(txn);
        self.memory.set_revisions(&revisions);
        self.opened = Ok(opened);
        self.feed.interrupt();
        let result = self.turn(|turn| turn.reconcile(&stored));
        result.map(|((), effects)| effects)
    }

    /// Closes the store after a failure of the database, for [`Self::recover`] to open it again.
    pub fn note_failure(&mut self, failure: &StoreError) {
        if failure.closes_store() && self.opened.is_ok() {
            self.opened = Err(failure.to_string());
        }
    }

    /// Why the store is closed, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.opened.as_ref().err().map(String::as_str)
    }

    /// Closes the database in good order and for good; the next opening need not repair it.
    pub fn close(&mut self) -> Result<()> {
        self.stopped = true;
        match std::mem::replace(&mut self.opened, Err(STOPPED.into())) {
            Ok(opened) => opened.close(self.large),
            Err(_) => Ok(()),
        }
    }

    /// Identity of what counts the tokens: of the store, and of its restores.
    pub fn epoch(&self) -> String {
        match self.options.epoch_generation {
            0 => self.identity.clone(),
            generation => format!("{}-{generation}", self.identity),
        }
    }

    /// How many times the store was opened, this time included.
    pub fn incarnation(&self) -> u64 {
        self.memory.incarnation
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.memory.revision
    }

    /// The oldest revision that can be read and watched from.
    pub fn compacted(&self) -> u64 {
        self.memory.compacted
    }

    /// Starts a lease's time again; none when it is over.
    pub fn renew(&mut self, lease: u64) -> Option<Validity> {
        self.memory.leases.renew(lease, self.clock.monotonic_ns())
    }

    /// Whether a lease still runs.
    pub fn is_valid(&self, lease: u64) -> bool {
        self.memory.leases.is_valid(lease, self.clock.monotonic_ns())
    }

    /// When the next lease ends unless it is renewed, on the store's monotonic clock.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.memory.leases.next_deadline_ns()
    }

    /// Limits and retention.
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn snapshot(&self) -> Result<ReadTransaction> {
        let opened = self.opened.as_ref().map_err(|reason| closed(reason))?;
        opened.read()
    }
}

fn closed(reason: &str) -> StoreError {
    StoreError::Closed { reason: reason.to_owned() }
}

impl Turn<'_> {
    /// Brings memory and tables together after a turn of which nobody knows how it ended.
    fn reconcile(&mut self, stored: &[memory::StoredLease]) -> Result<()> {
        let known: BTreeSet<u64> = self.memory.leases.iter().map(|(number, _)| number).collect();
        let kept: BTreeSet<u64> = stored.iter().map(|lease| lease.number).collect();
        for lease in stored.iter().filter(|lease| !known.contains(&lease.number)) {
            match &lease.kept {
                Kept::Claim(name) => self.remove_holder(name, lease.number)?,
                Kept::Instance(service, id) => self.remove_instance(service, id)?,
            }
        }
        for lease in known.difference(&kept) {
            self.effects.ended(*lease, "it ended in a change that the store could not confirm");
            match self.memory.leases.lease(*lease).map(|lease| lease.kept.clone()) {
                Some(Kept::Claim(name)) => self.remove_holder(&name, *lease)?,
                // Its row is another's by now, or gone.
                _ => drop(self.memory.leases.remove(*lease)),
            }
        }
        let names: Vec<String> = self.memory.locks.keys().cloned().collect();
        for name in names {
            self.effects.lock_changed(&name);
            self.advance(&name)?;
        }
        debug_assert!(
            self.memory
                .waiting
                .keys()
                .all(|lease| incarnation_of(*lease) == self.memory.incarnation)
        );
        Ok(())
    }
}
