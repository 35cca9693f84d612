//! Changing keys, inside a turn.

use super::read::{self, AnswerSize};
use super::types::{
    Delete, DeleteOutcome, DeletePrefixOutcome, Entry, Expectation, List, Put, PutOutcome,
    TXN_OPS_MAX, Txn, TxnOp, TxnOutcome, TxnResult,
};
use crate::store::key::{check_key, check_prefix};
use crate::store::record::{LOG_PART_KEYS_MAX, LogPart, TableId, VersionHead};
use crate::store::tables::{log_key, version_key};
use crate::store::turn::Turn;
use crate::store::{Result, StoreError};
use prost::Message;
use std::collections::HashSet;

/// Most conditions of a transaction.
pub const TXN_CONDITIONS_MAX: usize = 1_024;
/// Most keys that one deletion of a prefix takes.
pub const DELETE_PREFIX_KEYS_MAX: u64 = 50_000;
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
        let current = self.current(&put.key)?;
        if !put.expect.holds(current.revision) {
            return Ok(PutOutcome::Stale(self.entry(&put.key)?));
        }
        let previous = if put.previous { self.entry(&put.key)? } else { None };
        let mut change = self.begin_change();
        let value = Some((put.value.as_slice(), put.content_type.clone()));
        self.write(&mut change, &put.key, current, value)?;
        let revision = change.revision;
        self.end_change(change)?;
        Ok(PutOutcome::Stored { revision, previous })
    }

    /// Removes a key.
    pub fn delete(&mut self, delete: &Delete) -> Result<DeleteOutcome> {
        check_key(&delete.key)?;
        if delete.held.is_some_and(|lease| !self.is_held(lease)) {
            return Ok(DeleteOutcome::Fenced);
        }
        let current = self.current(&delete.key)?;
        if !delete.expect.holds(current.revision) {
            return Ok(DeleteOutcome::Stale(self.entry(&delete.key)?));
        }
        if current.revision.is_none() {
            return Ok(DeleteOutcome::Absent);
        }
        let previous = if delete.previous { self.entry(&delete.key)? } else { None };
        let mut change = self.begin_change();
        self.write(&mut change, &delete.key, current, None)?;
        self.end_change(change)?;
        Ok(DeleteOutcome::Deleted(previous))
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
                let current = self.current(key)?;
                self.write(&mut change, key, current, None)?;
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
        // All is read and may be refused before anything is written.
        let mut size = AnswerSize::default();
        let stale = self.mismatches(&txn.conditions, &mut size)?;
        if !stale.is_empty() {
            return Ok(TxnOutcome::Stale(stale));
        }
        let mut results = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let got = if let TxnOp::Get(key) = op { self.entry(key)? } else { None };
            size.add(got.as_ref())?;
            results.push(TxnResult::Got(got));
        }
        let mut change = None;
        for (op, result) in txn.ops.iter().zip(&mut results) {
            match op {
                TxnOp::Get(_) => {}
                TxnOp::Put { key, value, content_type } => {
                    let current = self.current(key)?;
                    let change = change.get_or_insert_with(|| self.begin_change());
                    let value = Some((value.as_slice(), content_type.clone()));
                    self.write(change, key, current, value)?;
                    *result = TxnResult::Stored(change.revision);
                }
                TxnOp::Delete(key) => {
                    let current = self.current(key)?;
                    let exists = current.revision.is_some();
                    if exists {
                        let change = change.get_or_insert_with(|| self.begin_change());
                        self.write(change, key, current, None)?;
                    }
                    *result = TxnResult::Deleted(exists);
                }
            }
        }
        if let Some(change) = change {
            self.end_change(change)?;
        }
        Ok(TxnOutcome::Committed(results))
    }

    /// Positions of the conditions that do not hold, and what is there.
    fn mismatches(
        &mut self,
        conditions: &[(String, Expectation)],
        size: &mut AnswerSize,
    ) -> Result<Vec<(usize, Option<Entry>)>> {
        let mut stale = Vec::new();
        for (index, (key, expect)) in conditions.iter().enumerate() {
            if !expect.holds(self.current(key)?.revision) {
                let current = self.entry(key)?;
                size.add(current.as_ref())?;
                stale.push((index, current));
            }
        }
        Ok(stale)
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

    /// What is known of a key now, without its value.
    fn current(&mut self, key: &str) -> Result<Current> {
        let newest = read::head_at(self.tables.versions()?, key, u64::MAX)?;
        Ok(newest.map_or(Current::default(), |(revision, head)| Current {
            revision: (!head.removed).then_some(revision),
            created: head.created,
            ordinal: head.ordinal,
        }))
    }

    fn entry(&mut self, key: &str) -> Result<Option<Entry>> {
        read::entry_at(self.tables.versions()?, key, u64::MAX)
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
        current: Current,
        value: Option<(&[u8], Option<String>)>,
    ) -> Result<()> {
        let removed = value.is_none();
        let created = if current.revision.is_some() { current.created } else { change.revision };
        let (value, content_type) = value.unwrap_or_default();
        let head = VersionHead {
            removed,
            created,
            ordinal: current.ordinal + 1,
            modified_ms: change.modified_ms,
            content_type,
        };
        let row = version_key(key, change.revision);
        let record = head.encode_with(value);
        change.bytes += (row.len() + record.len()) as u64;
        change.keys.push(key.to_owned());
        self.keys_changed += 1;
        self.tables.insert(TableId::Versions, row, record)
    }

    fn end_change(&mut self, change: ConfigChange) -> Result<()> {
        let ConfigChange { revision, modified_ms, keys, bytes } = change;
        let mut bytes_left = bytes;
        for (part, keys) in (0..).zip(keys.chunks(LOG_PART_KEYS_MAX)) {
            // The first part answers for the bytes of all.
            let bytes = std::mem::take(&mut bytes_left);
            let record = LogPart { keys: keys.to_vec(), modified_ms, bytes };
            let row = log_key(revision, part);
            self.tables.insert(TableId::Log, row, record.encode_to_vec())?;
        }
        self.memory.log.add(modified_ms, bytes);
        self.logged(revision);
        Ok(())
    }
}

/// A key before it is changed.
#[derive(Clone, Copy, Default)]
struct Current {
    /// None for a key that does not exist.
    revision: Option<u64>,
    created: u64,
    /// Of its newest version, be it a removal; 0 if there is none.
    ordinal: u64,
}

/// The writes of one revision.
struct ConfigChange {
    revision: u64,
    modified_ms: u64,
    keys: Vec<String>,
    bytes: u64,
}
