//! The tables of the database and the form of their keys. `docs/layout.md` describes both; a golden
//! test keeps the two together.

use super::record::{Row, TableId};
use super::{Result, StoreError};
use prost::Message;
use redb::{Table, TableDefinition, WriteTransaction};

/// Version of the layout; a file of a later one is refused.
pub const FORMAT: u64 = 2;
/// The layout before, which had no log ahead of the database: it becomes one of [`FORMAT`] when it
/// is opened.
pub(crate) const FORMAT_WITHOUT_WAL: u64 = 1;

/// Single numbers and texts, by name.
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Every kept version of every key: [`version_key`] → [`super::record::VersionHead`] and value.
pub(crate) const VERSIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("config.versions");
/// Which keys changed: revision and part → [`super::record::LogPart`].
pub(crate) const LOG: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("config.log");
/// Held locks: name, 0x00, lease → [`super::record::ClaimRecord`].
pub(crate) const CLAIMS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("lock.claims");
/// Instances: service, 0x00, id → [`super::record::InstanceRecord`].
pub(crate) const INSTANCES: TableDefinition<&[u8], &[u8]> =
    TableDefinition::new("registry.instances");
/// Operator overrides, under the instance's key → [`super::record::OverrideRecord`].
pub(crate) const OVERRIDES: TableDefinition<&[u8], &[u8]> =
    TableDefinition::new("registry.overrides");

/// Names of the rows of [`META`].
pub(crate) mod meta {
    /// [`super::FORMAT`], as eight bytes, most significant first; the other numbers likewise.
    pub(crate) const FORMAT: &str = "format";
    /// Identity of the store, 32 hexadecimal digits, made when the store is created.
    pub(crate) const EPOCH: &str = "epoch";
    /// How many times the store was opened.
    pub(crate) const INCARNATION: &str = "incarnation";
    /// The newest revision that is not one of the log.
    pub(crate) const REVISION: &str = "revision";
    /// The oldest revision that can be read.
    pub(crate) const COMPACTED: &str = "compacted";
    /// The generation of the records in the log that this database may lack: sixteen bytes.
    pub(crate) const GENERATION: &str = "generation";
    /// There, and empty, while the database lacks nothing: since the store was closed.
    pub(crate) const CLOSED: &str = "closed";
}

pub(crate) type Bytes<'txn> = Table<'txn, &'static [u8], &'static [u8]>;
pub(crate) type Log<'txn> = Table<'txn, (u64, u32), &'static [u8]>;
type Meta<'txn> = Table<'txn, &'static str, &'static [u8]>;

/// The tables of one write transaction, each opened when it is first needed: a table that is not
/// opened costs its transaction no page.
pub(crate) struct Tables<'txn> {
    txn: &'txn WriteTransaction,
    meta: Option<Meta<'txn>>,
    versions: Option<Bytes<'txn>>,
    log: Option<Log<'txn>>,
    claims: Option<Bytes<'txn>>,
    instances: Option<Bytes<'txn>>,
    overrides: Option<Bytes<'txn>>,
    /// Changes that the tables do not have yet: they get them when somebody looks.
    pending: Vec<Row>,
    changes: Changes,
    /// Most bytes of [`Changes::Rows`].
    room: usize,
}

/// What a transaction changed.
#[derive(Debug)]
pub(crate) enum Changes {
    None,
    Rows {
        /// Messages of [`Row`], each with its length before it, for the log.
        encoded: Vec<u8>,
        /// Those of them that the tables do not have yet.
        pending: Vec<Row>,
    },
    /// More than the log takes: the database itself has to become durable.
    TooMany,
}

impl<'txn> Tables<'txn> {
    /// Tables that note up to `room` bytes of changes.
    pub(crate) fn new(txn: &'txn WriteTransaction, room: usize) -> Self {
        Self {
            txn,
            meta: None,
            versions: None,
            log: None,
            claims: None,
            instances: None,
            overrides: None,
            pending: Vec::new(),
            changes: Changes::None,
            room,
        }
    }

    pub(crate) fn versions(&mut self) -> Result<&Bytes<'txn>> {
        self.catch_up()?;
        open(&mut self.versions, self.txn, VERSIONS).map(|table| &*table)
    }

    pub(crate) fn log(&mut self) -> Result<&Log<'txn>> {
        self.catch_up()?;
        open(&mut self.log, self.txn, LOG).map(|table| &*table)
    }

    pub(crate) fn instances(&mut self) -> Result<&Bytes<'txn>> {
        self.catch_up()?;
        open(&mut self.instances, self.txn, INSTANCES).map(|table| &*table)
    }

    pub(crate) fn overrides(&mut self) -> Result<&Bytes<'txn>> {
        self.catch_up()?;
        open(&mut self.overrides, self.txn, OVERRIDES).map(|table| &*table)
    }

    pub(crate) fn insert(&mut self, table: TableId, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.change(Row { table: table.into(), key, value: Some(value) })
    }

    pub(crate) fn remove(&mut self, table: TableId, key: Vec<u8>) -> Result<()> {
        self.change(Row { table: table.into(), key, value: None })
    }

    pub(crate) fn set_meta(&mut self, name: &str, number: u64) -> Result<()> {
        self.insert(TableId::Meta, name.into(), number.to_be_bytes().into())
    }

    /// Names the generation of the log's next records, for a commit that makes the database
    /// durable.
    pub(crate) fn set_generation(&mut self, generation: u128) -> Result<()> {
        self.insert(TableId::Meta, meta::GENERATION.into(), generation.to_be_bytes().into())
    }

    /// Changes a row.
    pub(crate) fn change(&mut self, row: Row) -> Result<()> {
        self.note(&row);
        self.pending.push(row);
        if matches!(self.changes, Changes::TooMany) { self.catch_up() } else { Ok(()) }
    }

    /// Notes a change for the log.
    fn note(&mut self, row: &Row) {
        if matches!(self.changes, Changes::None) {
            self.changes = Changes::Rows { encoded: Vec::new(), pending: Vec::new() };
        }
        if let Changes::Rows { encoded, .. } = &mut self.changes {
            // A length takes ten bytes at most.
            if encoded.len() + row.encoded_len() + 10 <= self.room {
                // Writing to a vector cannot run out of room.
                let _ = row.encode_length_delimited(encoded);
            } else {
                self.changes = Changes::TooMany;
            }
        }
    }

    /// Brings into the tables what they do not have yet.
    fn catch_up(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        pending.iter().try_for_each(|row| self.apply(row))
    }

    fn apply(&mut self, row: &Row) -> Result<()> {
        let txn = self.txn;
        match row.table() {
            TableId::Unknown => Err(damaged("log", "a row is of no known table")),
            TableId::Meta => {
                let name = std::str::from_utf8(&row.key)
                    .map_err(|_| damaged("meta", "a name is not UTF-8"))?;
                set(open(&mut self.meta, txn, META)?, name, row.value.as_deref())
            }
            TableId::Log => {
                let id = split_log_key(&row.key)?;
                set(open(&mut self.log, txn, LOG)?, id, row.value.as_deref())
            }
            TableId::Versions => set_bytes(&mut self.versions, txn, VERSIONS, row),
            TableId::Claims => set_bytes(&mut self.claims, txn, CLAIMS, row),
            TableId::Instances => set_bytes(&mut self.instances, txn, INSTANCES, row),
            TableId::Overrides => set_bytes(&mut self.overrides, txn, OVERRIDES, row),
        }
    }

    /// What was changed. When it is too much for the log the database names the next generation of
    /// records, for it has all of this one.
    pub(crate) fn finish(mut self, next_generation: u128) -> Result<Changes> {
        match &mut self.changes {
            Changes::None => {}
            Changes::Rows { pending, .. } => *pending = self.pending,
            Changes::TooMany => self.set_generation(next_generation)?,
        }
        Ok(self.changes)
    }
}

/// Brings rows into the tables of a transaction.
pub(crate) fn apply(txn: &WriteTransaction, rows: &[Row]) -> Result<()> {
    let mut tables = Tables::new(txn, 0);
    rows.iter().try_for_each(|row| tables.apply(row))
}

fn open<'a, 'txn, K: redb::Key + 'static>(
    slot: &'a mut Option<Table<'txn, K, &'static [u8]>>,
    txn: &'txn WriteTransaction,
    definition: TableDefinition<K, &'static [u8]>,
) -> Result<&'a mut Table<'txn, K, &'static [u8]>> {
    match slot {
        Some(table) => Ok(table),
        empty => Ok(empty.insert(txn.open_table(definition)?)),
    }
}

fn set_bytes<'txn>(
    slot: &mut Option<Bytes<'txn>>,
    txn: &'txn WriteTransaction,
    definition: TableDefinition<&'static [u8], &'static [u8]>,
    row: &Row,
) -> Result<()> {
    set(open(slot, txn, definition)?, row.key.as_slice(), row.value.as_deref())
}

fn set<'k, K: redb::Key + 'static>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: impl std::borrow::Borrow<K::SelfType<'k>>,
    value: Option<&[u8]>,
) -> Result<()> {
    match value {
        Some(value) => drop(table.insert(key, value)?),
        None => drop(table.remove(key)?),
    }
    Ok(())
}

fn damaged(table: &'static str, reason: &str) -> StoreError {
    StoreError::Damaged { table, reason: reason.into() }
}

/// Key of a part of the log, as [`Row`] holds it: both numbers, most significant byte first.
pub(crate) fn log_key(revision: u64, part: u32) -> Vec<u8> {
    [revision.to_be_bytes().as_slice(), &part.to_be_bytes()].concat()
}

fn split_log_key(bytes: &[u8]) -> Result<(u64, u32)> {
    let parts = bytes.split_first_chunk().and_then(|(revision, part)| {
        Some((u64::from_be_bytes(*revision), u32::from_be_bytes(part.try_into().ok()?)))
    });
    parts.ok_or_else(|| damaged("config.log", "a key does not have twelve bytes"))
}

/// Key of one version: the key, 0x00, and the complement of its revision, so that a key's newest
/// version comes first. No key holds a 0x00, hence keys stand in the order of their bytes.
pub(crate) fn version_key(key: &str, revision: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 9);
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&(!revision).to_be_bytes());
    bytes
}

/// Just behind the last version of a key.
pub(crate) fn version_key_end(key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(1);
    bytes
}

/// Takes a version's key apart.
pub(crate) fn split_version_key(bytes: &[u8]) -> Result<(&str, u64)> {
    let parts = bytes.split_last_chunk::<8>().and_then(|(head, revision)| {
        let key = std::str::from_utf8(head.strip_suffix(&[0])?).ok()?;
        Some((key, !u64::from_be_bytes(*revision)))
    });
    parts.ok_or_else(|| StoreError::Damaged {
        table: "config.versions",
        reason: "a key is not of the form `key 0x00 revision`".into(),
    })
}

/// Key of an instance or an override: both names, 0x00 between them.
pub(crate) fn instance_key(service: &str, id: &str) -> Vec<u8> {
    [service.as_bytes(), &[0], id.as_bytes()].concat()
}

/// Key of a held claim: the lock's name, 0x00, the lease.
pub(crate) fn claim_key(name: &str, lease: u64) -> Vec<u8> {
    [name.as_bytes(), &[0], &lease.to_be_bytes()].concat()
}
