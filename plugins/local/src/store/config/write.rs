//! Changing keys, inside a turn.

use super::read::{self, Version};
use super::types::{
    Delete, DeleteOutcome, DeletePrefixOutcome, Entry, Expectation, List, Put, PutOutcome,
    TXN_OPS_MAX, Txn, TxnOp, TxnOutcome, TxnResult,
};
use crate::store::key::{check_key, check_prefix};
use crate::store::record::{LOG_PART_KEYS_MAX, LogPart, VersionHead};
use crate::store::tables::version_key;
use crate::store::turn::Turn;
use crate::store::{Result, StoreError};
use prost::Message;
use std::collections::HashSet;

/// Most conditions of a transaction.
pub const TXN_CONDITIONS_MAX: usize = 1_024;
/// Most keys that one deletion of a prefix takes.
pub const DELETE_PREFIX_KEYS_MAX: u64 = 100_000;
/// Most bytes of a content type.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Keys that the deletion of a prefix looks up at a time.
const DELETE_PREFIX_STEP: usize = 1_000;

impl Turn<'_> {
    /// Writes a key.
    pub fn put(&mut self, put: &Put) -> Result<PutOutcome> {
        check_key(&put.key)?;
        self.check_value(&put.value, put.content_type.as_deref())?;
        if put.held.is_some_and(|lease| !self.is_held(lease)) {
            return Ok(PutOutcome::Fenced);
        }
        let (current, ordinal) = self.current(&put.key)?;
        if !put.expect.holds(current.as_ref().map(|entry| entry.revision)) {
            return Ok(PutOutcome::Stale(current));
        }
        let mut change = self.begin_change();
        let created = current.as_ref().map_or(change.revision, |entry| entry.created);
        let value = Some((put.value.as_slice(), put.content_type.clone()));
        self.write(&mut change, &put.key, created, ordinal, value)?;
        let revision = change.revision;
        self.end_change(change)?;
        Ok(PutOutcome::Stored { revision, previous: current })
    }

    /// Removes a key.
    pub fn delete(&mut self, delete: &Delete) -> Result<DeleteOutcome> {
        check_key(&delete.key)?;
        if delete.held.is_some_and(|lease| !self.is_held(lease)) {
            return Ok(DeleteOutcome::Fenced);
        }
        let (current, ordinal) = self.current(&delete.key)?;
        let holds = delete.expect.holds(current.as_ref().map(|entry| entry.revision));
        match current {
            None if matches!(delete.expect, Expectation::Anything | Expectation::Absent) => {
                Ok(DeleteOutcome::Absent)
            }
            Some(entry) if holds => {
                let mut change = self.begin_change();
                self.write(&mut change, &delete.key, entry.created, ordinal, None)?;
                self.end_change(change)?;
                Ok(DeleteOutcome::Deleted(entry))
            }
            current => Ok(DeleteOutcome::Stale(current)),
        }
    }

    /// Removes everything below a prefix, at once.
    pub fn delete_prefix(
        &mut self,
        prefix: &str,
        held: Option<u64>,
    ) -> Result<DeletePrefixOutcome> {
        check_prefix(prefix)?;
        if held.is_some_and(|lease| !self.is_held(lease)) {
            return Ok(DeletePrefixOutcome::Fenced);
        }
        let at = self.memory.revision;
        let mut list = List {
            prefix: prefix.to_owned(),
            limit: DELETE_PREFIX_STEP,
            keys_only: true,
            ..List::default()
        };
        // Everything is read before anything is written, so that a refusal leaves no trace.
        let mut keys = Vec::new();
        loop {
            let page = read::list(self.tables.versions()?, &list, at)?;
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            if keys.len() as u64 > DELETE_PREFIX_KEYS_MAX {
                return Err(StoreError::TooLarge {
                    limit: "delete_prefix_keys_max",
                    what: "the number of keys to delete at once",
                    actual: keys.len() as u64,
                    max: DELETE_PREFIX_KEYS_MAX,
                });
            }
            if !page.more {
                break;
            }
            list.after = keys.last().cloned();
        }
        if !keys.is_empty() {
            let mut change = self.begin_change();
            for key in &keys {
                let (current, ordinal) = self.current(key)?;
                let created = current.map_or(0, |entry| entry.created);
                self.write(&mut change, key, created, ordinal, None)?;
            }
            self.end_change(change)?;
        }
        Ok(DeletePrefixOutcome::Deleted(keys.len() as u64))
    }

    /// Does all operations, or none.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome> {
        self.check_txn(txn)?;
        if txn.held.iter().any(|lease| !self.is_held(*lease)) {
            return Ok(TxnOutcome::Fenced);
        }
        let mut stale = Vec::new();
        for (index, (key, expect)) in txn.conditions.iter().enumerate() {
            let (current, _) = self.current(key)?;
            if !expect.holds(current.as_ref().map(|entry| entry.revision)) {
                stale.push((index, current));
            }
        }
        if !stale.is_empty() {
            return Ok(TxnOutcome::Stale(stale));
        }
        let mut change = None;
        let mut results = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let (current, ordinal) = self.current(op.key())?;
            results.push(match op {
                TxnOp::Get(_) => TxnResult::Got(current),
                TxnOp::Delete(_) if current.is_none() => TxnResult::Deleted(false),
                TxnOp::Delete(key) => {
                    let change = change.get_or_insert_with(|| self.begin_change());
                    let created = current.map_or(0, |entry| entry.created);
                    self.write(change, key, created, ordinal, None)?;
                    TxnResult::Deleted(true)
                }
                TxnOp::Put { key, value, content_type } => {
                    let change = change.get_or_insert_with(|| self.begin_change());
                    let created = current.map_or(change.revision, |entry| entry.created);
                    let value = Some((value.as_slice(), content_type.clone()));
                    self.write(change, key, created, ordinal, value)?;
                    TxnResult::Stored(change.revision)
                }
            });
        }
        if let Some(change) = change {
            self.end_change(change)?;
        }
        Ok(TxnOutcome::Committed(results))
    }

    fn check_txn(&self, txn: &Txn) -> Result<()> {
        let counts = [
            ("txn_ops_max", "the number of operations", txn.ops.len(), TXN_OPS_MAX),
            (
                "txn_conditions_max",
                "the number of conditions",
                txn.conditions.len(),
                TXN_CONDITIONS_MAX,
            ),
        ];
        for (limit, what, actual, max) in counts {
            if actual > max {
                let (actual, max) = (actual as u64, max as u64);
                return Err(StoreError::TooLarge { limit, what, actual, max });
            }
        }
        for (key, _) in &txn.conditions {
            check_key(key)?;
        }
        let mut seen = HashSet::new();
        for op in &txn.ops {
            check_key(op.key())?;
            if !seen.insert(op.key()) {
                return Err(StoreError::invalid(format!(
                    "`{}` stands in two operations of the transaction",
                    op.key()
                )));
            }
            if let TxnOp::Put { value, content_type, .. } = op {
                self.check_value(value, content_type.as_deref())?;
            }
        }
        Ok(())
    }

    fn check_value(&self, value: &[u8], content_type: Option<&str>) -> Result<()> {
        let limits = [
            (
                "value_bytes_max",
                "the value's length in bytes",
                value.len(),
                self.options.value_bytes_max,
            ),
            (
                "content_type_bytes_max",
                "the content type's length in bytes",
                content_type.map_or(0, str::len),
                CONTENT_TYPE_BYTES_MAX as u64,
            ),
        ];
        for (limit, what, actual, max) in limits {
            let actual = actual as u64;
            if actual > max {
                return Err(StoreError::TooLarge { limit, what, actual, max });
            }
        }
        Ok(())
    }

    /// What a key has now, and the ordinal of its newest version, 0 if it has none.
    fn current(&mut self, key: &str) -> Result<(Option<Entry>, u64)> {
        let newest = read::version_at(self.tables.versions()?, key, u64::MAX)?;
        let ordinal = newest.as_ref().map_or(0, |version: &Version| version.head.ordinal);
        Ok((newest.and_then(|version| version.into_entry(key)), ordinal))
    }

    fn begin_change(&mut self) -> ConfigChange {
        ConfigChange {
            revision: self.next_revision(),
            modified_ms: self.clock.unix_ms(),
            keys: Vec::new(),
            bytes: 0,
        }
    }

    /// Writes one version: a value with its content type, or a removal.
    fn write(
        &mut self,
        change: &mut ConfigChange,
        key: &str,
        created: u64,
        ordinal_before: u64,
        value: Option<(&[u8], Option<String>)>,
    ) -> Result<()> {
        let removed = value.is_none();
        let (value, content_type) = value.unwrap_or_default();
        let head = VersionHead {
            removed,
            created,
            ordinal: ordinal_before + 1,
            modified_ms: change.modified_ms,
            content_type,
        };
        let row = version_key(key, change.revision);
        let record = head.encode_with(value);
        change.bytes += (row.len() + record.len()) as u64;
        change.keys.push(key.to_owned());
        self.tables.versions_mut()?.insert(row.as_slice(), record.as_slice())?;
        Ok(())
    }

    fn end_change(&mut self, change: ConfigChange) -> Result<()> {
        let ConfigChange { revision, modified_ms, keys, bytes } = change;
        let log = self.tables.log_mut()?;
        let mut bytes_left = bytes;
        for (part, keys) in (0..).zip(keys.chunks(LOG_PART_KEYS_MAX)) {
            // The first part answers for the bytes of all.
            let bytes = std::mem::take(&mut bytes_left);
            let record = LogPart { keys: keys.to_vec(), modified_ms, bytes };
            log.insert((revision, part), record.encode_to_vec().as_slice())?;
        }
        self.memory.log.add(modified_ms, bytes);
        self.logged(revision);
        Ok(())
    }
}

/// The writes of one revision.
struct ConfigChange {
    revision: u64,
    modified_ms: u64,
    keys: Vec<String>,
    bytes: u64,
}
