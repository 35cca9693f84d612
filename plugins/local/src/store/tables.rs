//! The tables of the database and the form of their keys. `docs/layout.md` describes both; a golden
//! test keeps the two together.

use super::{Result, StoreError};
use redb::{Table, TableDefinition, WriteTransaction};

/// Version of the layout; a file that says otherwise is refused.
pub const FORMAT: u64 = 1;

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
}

pub(crate) type Bytes<'txn> = Table<'txn, &'static [u8], &'static [u8]>;
pub(crate) type Log<'txn> = Table<'txn, (u64, u32), &'static [u8]>;

/// The tables of one write transaction, each opened when it is first needed: a table that is not
/// opened costs its transaction no page.
pub(crate) struct Tables<'txn> {
    txn: &'txn WriteTransaction,
    versions: Option<Bytes<'txn>>,
    log: Option<Log<'txn>>,
    claims: Option<Bytes<'txn>>,
    instances: Option<Bytes<'txn>>,
    overrides: Option<Bytes<'txn>>,
    written: bool,
}

impl<'txn> Tables<'txn> {
    pub(crate) fn new(txn: &'txn WriteTransaction) -> Self {
        Self {
            txn,
            versions: None,
            log: None,
            claims: None,
            instances: None,
            overrides: None,
            written: false,
        }
    }

    /// Whether anything was handed out for writing.
    pub(crate) fn written(&self) -> bool {
        self.written
    }

    pub(crate) fn versions(&mut self) -> Result<&Bytes<'txn>> {
        open(&mut self.versions, self.txn, VERSIONS).map(|table| &*table)
    }

    pub(crate) fn versions_mut(&mut self) -> Result<&mut Bytes<'txn>> {
        self.written = true;
        open(&mut self.versions, self.txn, VERSIONS)
    }

    pub(crate) fn log_mut(&mut self) -> Result<&mut Log<'txn>> {
        self.written = true;
        match &mut self.log {
            Some(table) => Ok(table),
            empty => Ok(empty.insert(self.txn.open_table(LOG)?)),
        }
    }

    pub(crate) fn claims_mut(&mut self) -> Result<&mut Bytes<'txn>> {
        self.written = true;
        open(&mut self.claims, self.txn, CLAIMS)
    }

    pub(crate) fn instances(&mut self) -> Result<&Bytes<'txn>> {
        open(&mut self.instances, self.txn, INSTANCES).map(|table| &*table)
    }

    pub(crate) fn instances_mut(&mut self) -> Result<&mut Bytes<'txn>> {
        self.written = true;
        open(&mut self.instances, self.txn, INSTANCES)
    }

    pub(crate) fn overrides(&mut self) -> Result<&Bytes<'txn>> {
        open(&mut self.overrides, self.txn, OVERRIDES).map(|table| &*table)
    }

    pub(crate) fn overrides_mut(&mut self) -> Result<&mut Bytes<'txn>> {
        self.written = true;
        open(&mut self.overrides, self.txn, OVERRIDES)
    }

    pub(crate) fn set_meta(&mut self, name: &str, number: u64) -> Result<()> {
        self.written = true;
        let mut table = self.txn.open_table(META)?;
        table.insert(name, number.to_be_bytes().as_slice())?;
        Ok(())
    }
}

fn open<'a, 'txn>(
    slot: &'a mut Option<Bytes<'txn>>,
    txn: &'txn WriteTransaction,
    definition: TableDefinition<&'static [u8], &'static [u8]>,
) -> Result<&'a mut Bytes<'txn>> {
    match slot {
        Some(table) => Ok(table),
        empty => Ok(empty.insert(txn.open_table(definition)?)),
    }
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
