//! Forgetting the past, in pieces, as part of the turns that write.

use crate::store::Result;
use crate::store::options::Retention;
use crate::store::record::{LogPart, TableId, VersionHead, decode};
use crate::store::tables::{log_key, meta, split_version_key, version_key, version_key_end};
use crate::store::turn::Turn;
use redb::ReadableTable;
use std::collections::BTreeSet;

/// So many keys' changes a turn may forget, besides two for each that it makes, so that the past is
/// forgotten faster than it grows.
const FORGOTTEN_PER_TURN: usize = 1_024;
/// More than these it never forgets: no caller waits long for another's past.
const FORGOTTEN_PER_TURN_MAX: usize = 8_192;

/// What the log holds, in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogStats {
    pub(crate) revisions: u64,
    pub(crate) bytes: u64,
    /// When the oldest revision was written; none in an empty log.
    pub(crate) oldest_ms: Option<u64>,
}

impl LogStats {
    pub(crate) fn add(&mut self, modified_ms: u64, bytes: u64) {
        self.revisions += 1;
        self.bytes += bytes;
        self.oldest_ms.get_or_insert(modified_ms);
    }

    /// Whether the log has outgrown its bounds so far that it is worth the writes.
    fn is_due(&self, retention: &Retention, now_ms: u64) -> bool {
        let beyond = |value: u64, max: u64| value > max.saturating_add(max / 16);
        beyond(self.revisions, retention.revisions_max)
            || beyond(self.bytes, retention.bytes_max)
            || self.is_too_old(retention, now_ms, beyond)
    }

    fn exceeds(&self, retention: &Retention, now_ms: u64) -> bool {
        self.revisions > retention.revisions_max
            || self.bytes > retention.bytes_max
            || self.is_too_old(retention, now_ms, |age, max| age > max)
    }

    fn is_too_old(
        &self,
        retention: &Retention,
        now_ms: u64,
        beyond: impl Fn(u64, u64) -> bool,
    ) -> bool {
        match (self.oldest_ms, retention.age_ms_max) {
            (Some(oldest), Some(max)) => beyond(now_ms.saturating_sub(oldest), max),
            _ => false,
        }
    }
}

impl Turn<'_> {
    /// Forgets some of the oldest revisions, when there are too many.
    pub(crate) fn compact(&mut self) -> Result<()> {
        let now_ms = self.clock.unix_ms();
        if !self.memory.log.is_due(&self.options.retention, now_ms) {
            return Ok(());
        }
        let keys = self.forget_revisions(now_ms)?;
        let through = self.memory.compacted;
        for key in &keys {
            self.forget_versions(key, through)?;
        }
        self.tables.set_meta(meta::COMPACTED, through)?;
        Ok(())
    }

    /// Removes the oldest revisions from the log and answers the keys that they changed.
    fn forget_revisions(&mut self, now_ms: u64) -> Result<BTreeSet<String>> {
        let retention = self.options.retention.clone();
        let mut keys = BTreeSet::new();
        let mut stats = self.memory.log;
        let mut forgotten = Vec::new();
        let mut newest = None;
        let enough = (FORGOTTEN_PER_TURN + 2 * self.keys_changed).min(FORGOTTEN_PER_TURN_MAX);
        let mut changes = 0;
        for row in self.tables.log()?.iter()? {
            let (id, record) = row?;
            let (revision, part) = id.value();
            let record: LogPart = decode("config.log", record.value())?;
            if changes >= enough {
                break;
            }
            // A revision of which some parts are gone is not kept; its others follow.
            if part == 0 {
                stats.oldest_ms = Some(record.modified_ms);
                if !stats.exceeds(&retention, now_ms) {
                    break;
                }
                stats.revisions = stats.revisions.saturating_sub(1);
                stats.bytes = stats.bytes.saturating_sub(record.bytes);
            }
            forgotten.push(log_key(revision, part));
            newest = Some(revision);
            changes += record.keys.len();
            keys.extend(record.keys);
        }
        for row in forgotten {
            self.tables.remove(TableId::Log, row)?;
        }
        if stats.revisions == 0 {
            stats.oldest_ms = None;
        }
        if let Some(newest) = newest {
            self.memory.compacted = newest;
            // The log may be empty now, and it is one of the two places that tell the revision.
            self.unlogged();
        }
        self.memory.log = stats;
        Ok(keys)
    }

    /// Removes versions of a key that no revision after `through` shows, but for the newest few.
    fn forget_versions(&mut self, key: &str, through: u64) -> Result<()> {
        let keep = self.options.retention.versions_per_key.max(1) as usize;
        let versions = self.tables.versions()?;
        let (first, end) = (version_key(key, through), version_key_end(key));
        let mut forgotten = Vec::new();
        let mut gone_entirely = false;
        for (index, row) in versions.range(first.as_slice()..end.as_slice())?.enumerate() {
            let (row_key, record) = row?;
            let (_, revision) = split_version_key(row_key.value())?;
            if index == 0 {
                gone_entirely = VersionHead::decode_with(record.value())?.0.removed;
            }
            if gone_entirely || index >= keep {
                forgotten.push(revision);
            }
        }
        for revision in forgotten {
            self.tables.remove(TableId::Versions, version_key(key, revision))?;
        }
        Ok(())
    }
}
