//! The engine below the capabilities: keys with their past, locks and registrations with leases, in
//! one database that survives crashes. Nothing here knows of WebAssembly.
//!
//! All changes go through [`Store::turn`]: one transaction of the database for any number of
//! operations, each of which has its own outcome. Revisions number the changes of the whole store;
//! they are versions of keys and instances and tokens of locks alike, and never come twice.

mod clock;
mod config;
mod error;
mod key;
mod lease;
mod lock;
mod memory;
mod options;
mod read;
mod record;
mod registry;
mod storage;
mod tables;
mod turn;

pub use clock::Clock;
pub use config::*;
pub use error::{Result, StoreError};
pub use key::{KEY_BYTES_MAX, check_key, check_name, check_prefix};
pub use lease::{TTL_MS_MAX, TTL_MS_MIN, Validity};
pub use lock::{Acquire, Acquired, Claim, Grant, LockState, Mode, OWNER_BYTES_MAX, WAITERS_MAX};
pub use options::{Options, Retention};
pub use registry::*;
pub use storage::{Directory, FILE_NAME, Storage, builder};
pub use tables::FORMAT;
pub use turn::{Effects, Turn};

use lease::{Kept, incarnation_of};
use memory::Memory;
use redb::{Database, ReadTransaction, ReadableDatabase};
use std::collections::BTreeSet;
use std::sync::Arc;
use tables::{META, Tables, meta};

/// A store, opened.
pub struct Store {
    storage: Box<dyn Storage>,
    options: Options,
    clock: Arc<dyn Clock>,
    identity: String,
    /// The database, or why there is none.
    database: Result<Database, String>,
    stopped: bool,
    /// Whether the file is so large that commits have to make its next opening quick.
    large: bool,
    /// Commits since `large` was found out.
    commits: u32,
    memory: Memory,
    feed: registry::feed::Feed,
}

const STOPPED: &str = "it was stopped";
/// After so many commits the size of the file is looked at again.
const COMMITS_PER_MEASUREMENT: u32 = 64;

impl Store {
    /// Opens the store, or makes one of which `identity` will be the epoch.
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
        identity: u128,
    ) -> Result<Self> {
        let database = storage
            .open(&options, &|database| initialise(database, &format!("{identity:032x}")))?;
        let mut memory = Memory::default();
        let large = storage.length()? >= options.quick_repair_bytes_min;
        let identity = begin_incarnation(storage.as_ref(), &database, &mut memory, large)?;
        let txn = database.begin_read()?;
        memory.set_revisions(&memory::read_revisions(&txn)?);
        let now_ns = clock.monotonic_ns();
        for stored in memory::read_leases(&txn)? {
            memory.take_over(stored, now_ns);
        }
        let feed = registry::feed::Feed::default();
        Ok(Self {
            storage,
            options,
            clock,
            identity,
            database: Ok(database),
            stopped: false,
            large,
            commits: 0,
            memory,
            feed,
        })
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
        let mut txn = self.database()?.begin_write()?;
        txn.set_quick_repair(self.large);
        let tables = Tables::new(&txn);
        let mut turn = Turn::new(tables, self.memory.clone(), &self.options, self.clock.as_ref());
        let answer = work(&mut turn)?;
        turn.finish(self.memory.revision)?;
        let (written, memory, mut effects) = turn.into_parts();
        if written {
            txn.commit()?;
            self.commits += 1;
        } else {
            txn.abort()?;
        }
        self.memory = memory;
        if self.commits >= COMMITS_PER_MEASUREMENT {
            self.commits = 0;
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

    /// Opens the database again after a failure and settles what the failed turn left: claims that
    /// nobody was told of end, and those that are gone are reported.
    pub fn recover(&mut self) -> Result<Effects> {
        if self.database.is_ok() {
            return Ok(Effects::default());
        }
        if self.stopped {
            return Err(StoreError::Closed { reason: STOPPED.into() });
        }
        let database = self.storage.open(&self.options, &|_| {
            Err(StoreError::Unusable {
                path: self.storage.path(),
                reason: "the file is gone".into(),
                remedy: "put it back, or restart the backend to begin with an empty store",
            })
        })?;
        let txn = database.begin_read()?;
        let revisions = memory::read_revisions(&txn)?;
        let stored = memory::read_leases(&txn)?;
        drop(txn);
        self.memory.set_revisions(&revisions);
        self.database = Ok(database);
        self.feed.interrupt();
        let result = self.turn(|turn| turn.reconcile(&stored));
        result.map(|((), effects)| effects)
    }

    /// Closes the store after a failure of the database, for [`Self::recover`] to open it again.
    pub fn note_failure(&mut self, failure: &StoreError) {
        if failure.closes_store() && self.database.is_ok() {
            self.database = Err(failure.to_string());
        }
    }

    /// Why the store is closed, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.database.as_ref().err().map(String::as_str)
    }

    /// Closes the database in good order and for good; the next opening need not repair it.
    pub fn close(&mut self) -> Result<()> {
        self.stopped = true;
        match std::mem::replace(&mut self.database, Err(STOPPED.into())) {
            Ok(database) => {
                database.close().map_err(|error| StoreError::storage("closing the store", error))
            }
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

    fn database(&self) -> Result<&Database> {
        self.database.as_ref().map_err(|reason| StoreError::Closed { reason: reason.clone() })
    }

    pub(crate) fn snapshot(&self) -> Result<ReadTransaction> {
        Ok(self.database()?.begin_read()?)
    }
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

/// Writes the first rows, and makes every table, so that readers find them.
fn initialise(database: &Database, identity: &str) -> Result<()> {
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(meta::FORMAT, FORMAT.to_be_bytes().as_slice())?;
        meta.insert(meta::EPOCH, identity.as_bytes())?;
        txn.open_table(tables::VERSIONS)?;
        txn.open_table(tables::LOG)?;
        txn.open_table(tables::CLAIMS)?;
        txn.open_table(tables::INSTANCES)?;
        txn.open_table(tables::OVERRIDES)?;
    }
    txn.commit()?;
    Ok(())
}

/// Checks that the database is one of ours, counts this opening, and answers the store's identity.
fn begin_incarnation(
    storage: &dyn Storage,
    database: &Database,
    memory: &mut Memory,
    large: bool,
) -> Result<String> {
    let txn = database.begin_read()?;
    let format = match memory::read_number(&txn, meta::FORMAT) {
        Ok(Some(format)) => format,
        Ok(None) => return Err(foreign(storage)),
        Err(StoreError::Storage { source, .. }) if is_missing_table(&source) => {
            return Err(foreign(storage));
        }
        Err(error) => return Err(error),
    };
    if format != FORMAT {
        return Err(StoreError::Unusable {
            path: storage.path(),
            reason: format!("the store has layout {format}, and this plugin knows layout {FORMAT}"),
            remedy: "use the release of the plugin that wrote it",
        });
    }
    let identity = match txn.open_table(META)?.get(meta::EPOCH)? {
        Some(identity) => String::from_utf8_lossy(identity.value()).into_owned(),
        None => {
            return Err(StoreError::Damaged {
                table: "meta",
                reason: "the epoch is missing".into(),
            });
        }
    };
    memory.incarnation = memory::read_number(&txn, meta::INCARNATION)?.unwrap_or_default() + 1;
    drop(txn);
    let mut txn = database.begin_write()?;
    txn.set_quick_repair(large);
    Tables::new(&txn).set_meta(meta::INCARNATION, memory.incarnation)?;
    txn.commit()?;
    Ok(identity)
}

fn foreign(storage: &dyn Storage) -> StoreError {
    StoreError::Unusable {
        path: storage.path(),
        reason: "this is a database, but not one of Pintle".into(),
        remedy: "move the file away, or grant another directory",
    }
}

fn is_missing_table(error: &redb::Error) -> bool {
    matches!(
        error,
        redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
    )
}
