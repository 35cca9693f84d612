//! The database with the log ahead of it: opened, made durable, and closed together.

use super::memory::{read_bytes, read_number};
use super::options::Options;
use super::record::{Row, TableId};
use super::storage::Storage;
use super::tables::{self, Changes, FORMAT, FORMAT_WITHOUT_WAL, META, Tables, meta};
use super::wal::Wal;
use super::{Result, StoreError};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::cell::Cell;

/// Numbers drawn at random, anew for each opening.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// Identity of the store, if this opening makes it; clients learn it.
    pub identity: u128,
    /// Where the generations of this opening begin; nobody learns it.
    pub generation: u64,
}

/// A database and the log ahead of it.
pub(crate) struct Opened {
    database: Database,
    wal: Wal,
    /// What the log has, and the database is to have before anybody looks.
    unsettled: Cell<Option<Unsettled>>,
}

/// A transaction that the log has.
struct Unsettled {
    txn: WriteTransaction,
    /// What its tables do not have yet.
    pending: Vec<Row>,
}

/// What a database says of itself.
pub(crate) struct Facts {
    pub(crate) identity: String,
    /// How many times the store was opened.
    pub(crate) incarnation: u64,
    generation: u128,
    /// Whether the log has nothing that the database lacks.
    is_complete: bool,
}

impl Opened {
    /// Opens the store for a new incarnation, or makes one.
    pub(crate) fn begin(
        storage: &dyn Storage,
        options: &Options,
        seeds: Seeds,
    ) -> Result<(Self, Facts)> {
        let database = storage.open(options, &|database| initialise(database, seeds.identity))?;
        let mut facts = Facts::read(storage, &database)?;
        facts.incarnation += 1;
        let large = storage.length()? >= options.quick_repair_bytes_min;
        let generation = u128::from(seeds.generation) << 64;
        let opened = Self::complete(storage, options, database, &facts, generation, large)?;
        Ok((opened, facts))
    }

    /// Opens the store again after a failure, for the same incarnation.
    pub(crate) fn again(storage: &dyn Storage, options: &Options, large: bool) -> Result<Self> {
        let database = open_existing(storage, options)?;
        let facts = Facts::read(storage, &database)?;
        let generation = facts.generation.wrapping_add(1);
        match Self::complete(storage, options, database, &facts, generation, large) {
            Err(error) if error.is_disk_full() => Self::on_full_disk(storage, options),
            opened => opened,
        }
    }

    /// Opens a store whose database has no room on the disk for what the log has. It can be read;
    /// the next change is a checkpoint, and fails unless there is room by then.
    fn on_full_disk(storage: &dyn Storage, options: &Options) -> Result<Self> {
        let database = open_existing(storage, options)?;
        let facts = Facts::read(storage, &database)?;
        let (length, generation) = (options.log_bytes, facts.generation);
        let (mut wal, rows) =
            Wal::open(storage, length, facts.is_complete, generation, generation)?;
        wal.close_until_checkpoint();
        let mut txn = database.begin_write()?;
        in_memory(&mut txn)?;
        tables::apply(&txn, &rows)?;
        txn.commit()?;
        Ok(Self { database, wal, unsettled: Cell::new(None) })
    }

    /// Brings into the database what only the log has, and begins the log anew.
    fn complete(
        storage: &dyn Storage,
        options: &Options,
        database: Database,
        facts: &Facts,
        generation: u128,
        large: bool,
    ) -> Result<Self> {
        let (length, complete) = (options.log_bytes, facts.is_complete);
        let (wal, rows) = Wal::open(storage, length, complete, facts.generation, generation)?;
        checkpoint(&database, large, |tables| {
            rows.into_iter().try_for_each(|row| tables.change(row))?;
            tables.set_meta(meta::FORMAT, FORMAT)?;
            tables.set_meta(meta::INCARNATION, facts.incarnation)?;
            tables.remove(TableId::Meta, meta::CLOSED.into())?;
            tables.set_generation(generation)
        })?;
        Ok(Self { database, wal, unsettled: Cell::new(None) })
    }

    /// Begins to change the database; answers with it how many bytes of changes the log takes.
    pub(crate) fn write(&self, large: bool) -> Result<(WriteTransaction, usize)> {
        self.settle()?;
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(large);
        Ok((txn, self.wal.room()))
    }

    /// The generation that a transaction has to name that changes more than the log takes.
    pub(crate) fn next_generation(&self) -> u128 {
        self.wal.next_generation()
    }

    /// Makes the changes of a transaction durable.
    pub(crate) fn commit(&mut self, mut txn: WriteTransaction, changes: Changes) -> Result<()> {
        match changes {
            Changes::None => txn.abort()?,
            Changes::Rows { encoded, pending } => {
                in_memory(&mut txn)?;
                self.wal.append(&encoded)?;
                self.unsettled.set(Some(Unsettled { txn, pending }));
            }
            Changes::TooMany => {
                txn.set_two_phase_commit(true);
                txn.commit()?;
                self.wal.begin_next();
            }
        }
        Ok(())
    }

    /// Brings what is durable into the database, for all to see. It is done before anything else
    /// is; whoever does it early does it for the next one.
    ///
    /// # Errors
    ///
    /// Any of them closes the store: the database lacks what was acknowledged until it is opened
    /// again.
    pub(crate) fn settle(&self) -> Result<()> {
        let Some(Unsettled { txn, pending }) = self.unsettled.take() else { return Ok(()) };
        let settled = tables::apply(&txn, &pending).and_then(|()| Ok(txn.commit()?));
        settled.map_err(|error| {
            let source = match error {
                StoreError::Storage { source, .. } => source,
                error => Box::new(redb::Error::Corrupted(error.to_string())),
            };
            let doing = "bringing the last change into the database";
            // Of whatever was to be done next nothing was.
            StoreError::Storage { doing, maybe_durable: false, source }
        })
    }

    /// The database as the last turn left it.
    pub(crate) fn read(&self) -> Result<ReadTransaction> {
        self.settle()?;
        Ok(self.database.begin_read()?)
    }

    /// Closes both in good order: the database lacks nothing then, and need not be repaired.
    pub(crate) fn close(self, large: bool) -> Result<()> {
        self.settle()?;
        checkpoint(&self.database, large, |tables| {
            tables.insert(TableId::Meta, meta::CLOSED.into(), vec![])?;
            tables.set_generation(self.wal.next_generation())
        })?;
        self.database.close().map_err(|error| StoreError::storage("closing the store", error))
    }
}

fn open_existing(storage: &dyn Storage, options: &Options) -> Result<Database> {
    storage.open(options, &|_| {
        Err(StoreError::Unusable {
            path: storage.path(),
            reason: "the file is gone".into(),
            remedy: "put it back, or restart the backend to begin with an empty store",
        })
    })
}

/// Has a transaction become durable with a later one only.
fn in_memory(txn: &mut WriteTransaction) -> Result<()> {
    txn.set_durability(Durability::None)
        .map_err(|error| StoreError::storage("beginning a transaction of the store", error))
}

/// Makes the database durable as it is, with these changes. In two phases, so that a damaged page
/// is noticed: in one, `redb` would fall back to the checkpoint before, whose log is gone.
fn checkpoint(
    database: &Database,
    large: bool,
    change: impl FnOnce(&mut Tables<'_>) -> Result<()>,
) -> Result<()> {
    let mut txn = database.begin_write()?;
    txn.set_quick_repair(large);
    txn.set_two_phase_commit(true);
    change(&mut Tables::new(&txn, 0))?;
    txn.commit()?;
    Ok(())
}

/// Writes the first rows, and makes every table, so that readers find them.
fn initialise(database: &Database, identity: u128) -> Result<()> {
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(meta::FORMAT, FORMAT.to_be_bytes().as_slice())?;
        meta.insert(meta::EPOCH, format!("{identity:032x}").as_bytes())?;
        meta.insert(meta::CLOSED, [].as_slice())?;
        txn.open_table(tables::VERSIONS)?;
        txn.open_table(tables::LOG)?;
        txn.open_table(tables::CLAIMS)?;
        txn.open_table(tables::INSTANCES)?;
        txn.open_table(tables::OVERRIDES)?;
    }
    txn.commit()?;
    Ok(())
}

impl Facts {
    /// Reads them, and checks that the database is one of ours.
    fn read(storage: &dyn Storage, database: &Database) -> Result<Self> {
        let txn = database.begin_read()?;
        let format = match read_number(&txn, meta::FORMAT) {
            Ok(Some(format)) => format,
            Ok(None) => return Err(foreign(storage)),
            Err(StoreError::Storage { source, .. }) if is_missing_table(&source) => {
                return Err(foreign(storage));
            }
            Err(error) => return Err(error),
        };
        if format != FORMAT && format != FORMAT_WITHOUT_WAL {
            return Err(StoreError::Unusable {
                path: storage.path(),
                reason: format!(
                    "the store has layout {format}, and this plugin knows layout {FORMAT}"
                ),
                remedy: "use the release of the plugin that wrote it",
            });
        }
        let missing = |what: &str| StoreError::Damaged {
            table: "meta",
            reason: format!("the {what} is missing"),
        };
        let rows = txn.open_table(META)?;
        let is_complete = format == FORMAT_WITHOUT_WAL || rows.get(meta::CLOSED)?.is_some();
        let identity = rows.get(meta::EPOCH)?.ok_or_else(|| missing("epoch"))?;
        let generation = match read_bytes(&txn, meta::GENERATION)? {
            Some(generation) => u128::from_be_bytes(generation),
            // Nothing was ever written to the log.
            None if is_complete => 0,
            None => return Err(missing("generation")),
        };
        Ok(Self {
            identity: String::from_utf8_lossy(identity.value()).into_owned(),
            incarnation: read_number(&txn, meta::INCARNATION)?.unwrap_or_default(),
            generation,
            is_complete,
        })
    }
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
