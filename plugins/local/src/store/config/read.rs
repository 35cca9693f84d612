//! Reading versions: one key, many keys, and what a key was before.
//!
//! The functions work on a table of a read transaction and of a write transaction alike.

use super::types::{Change, Entry, HistoryPage, List, Page};
use crate::store::key::bounds_below;
use crate::store::record::VersionHead;
use crate::store::tables::{split_version_key, version_key, version_key_end};
use crate::store::{Result, StoreError};
use redb::ReadableTable;

/// Bytes of keys and values after which a page ends, however few entries it has.
pub(crate) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Versions of one key to step over before seeking its end instead.
const STEPS_MAX: u32 = 8;

/// Bytes of values that one answer may hold that has no pages.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One version of a key.
pub(crate) struct Version {
    pub(crate) revision: u64,
    pub(crate) head: VersionHead,
    pub(crate) value: Vec<u8>,
}

impl Version {
    /// The entry, unless this version is a removal.
    pub(crate) fn into_entry(self, key: &str) -> Option<Entry> {
        (!self.head.removed).then(|| entry(key, self.revision, self.head, self.value))
    }
}

/// The newest version of a key at or before a revision, be it a removal.
pub(crate) fn version_at(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &str,
    at: u64,
) -> Result<Option<Version>> {
    read_at(versions, key, at, |revision, head, value| Version {
        revision,
        head,
        value: value.to_vec(),
    })
}

/// As [`version_at`], without the value.
pub(crate) fn head_at(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &str,
    at: u64,
) -> Result<Option<(u64, VersionHead)>> {
    read_at(versions, key, at, |revision, head, _| (revision, head))
}

/// The entry that a key had at a revision.
pub(crate) fn entry_at(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &str,
    at: u64,
) -> Result<Option<Entry>> {
    Ok(version_at(versions, key, at)?.and_then(|version| version.into_entry(key)))
}

fn read_at<T>(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &str,
    at: u64,
    take: impl FnOnce(u64, VersionHead, &[u8]) -> T,
) -> Result<Option<T>> {
    let (first, end) = (version_key(key, at), version_key_end(key));
    match versions.range(first.as_slice()..end.as_slice())?.next() {
        None => Ok(None),
        Some(row) => {
            let (bytes, record) = row?;
            let (_, revision) = split_version_key(bytes.value())?;
            let (head, value) = VersionHead::decode_with(record.value())?;
            Ok(Some(take(revision, head, value)))
        }
    }
}

/// Counts the bytes of an answer that has no pages, and refuses what would not fit a guest.
#[derive(Default)]
pub(crate) struct AnswerSize(usize);

impl AnswerSize {
    pub(crate) fn add(&mut self, entry: Option<&Entry>) -> Result<()> {
        self.0 += entry.map_or(0, |entry| entry.key.len() + entry.value.len());
        if self.0 <= ANSWER_BYTES_MAX {
            return Ok(());
        }
        Err(StoreError::TooLarge {
            limit: "answer_bytes_max",
            what: "the number of bytes to answer at once",
            actual: self.0 as u64,
            max: ANSWER_BYTES_MAX as u64,
        })
    }
}

fn entry(key: &str, revision: u64, head: VersionHead, value: Vec<u8>) -> Entry {
    Entry {
        key: key.to_owned(),
        value,
        content_type: head.content_type,
        created: head.created,
        revision,
        modified_ms: head.modified_ms,
    }
}

/// Lists what existed at revision `at`.
pub(crate) fn list(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    request: &List,
    at: u64,
) -> Result<Page> {
    let (mut from, end) = scan_bounds(request);
    let mut page = Page { entries: Vec::new(), more: false, revision: at };
    let mut bytes = 0;
    let mut done = String::new();
    let mut steps = 0;
    let mut rows = versions.range::<&[u8]>(bounds(&from, end.as_deref()))?;
    while let Some(row) = rows.next() {
        let (row_key, record) = row?;
        let (key, revision) = split_version_key(row_key.value())?;
        if revision > at || key == done {
            steps += 1;
            if steps > STEPS_MAX {
                from = if key == done { version_key_end(key) } else { version_key(key, at) };
                rows = versions.range::<&[u8]>(bounds(&from, end.as_deref()))?;
                steps = 0;
            }
            continue;
        }
        (steps, done) = (0, key.to_owned());
        let (head, value) = VersionHead::decode_with(record.value())?;
        if head.removed {
            continue;
        }
        let value = if request.keys_only { Vec::new() } else { value.to_vec() };
        if page.entries.len() >= request.limit || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        bytes += key.len() + value.len();
        page.entries.push(entry(key, revision, head, value));
    }
    Ok(page)
}

fn scan_bounds(request: &List) -> (Vec<u8>, Option<Vec<u8>>) {
    let (first, end) = bounds_below(&request.prefix);
    let from = match &request.after {
        Some(after) if *after >= first => version_key_end(after),
        _ => first.into_bytes(),
    };
    (from, end.map(String::into_bytes))
}

fn bounds<'a>(
    from: &'a [u8],
    end: Option<&'a [u8]>,
) -> (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>) {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    // A range that ends before it begins is a defect to redb; here it is only empty.
    let end = match end {
        Some(end) if end < from => Excluded(from),
        Some(end) => Excluded(end),
        None => Unbounded,
    };
    (Included(from), end)
}

/// The kept versions of a key, newest first, those before revision `before` only.
pub(crate) fn history(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &str,
    before: Option<u64>,
    limit: usize,
) -> Result<HistoryPage> {
    let newest = before.map_or(u64::MAX, |before| before.saturating_sub(1));
    let (first, end) = (version_key(key, newest), version_key_end(key));
    let mut page = HistoryPage { changes: Vec::new(), next: None, complete: true };
    let mut bytes = 0;
    for row in versions.range(first.as_slice()..end.as_slice())? {
        let (row_key, record) = row?;
        let (_, revision) = split_version_key(row_key.value())?;
        let (head, value) = VersionHead::decode_with(record.value())?;
        if page.changes.len() >= limit || bytes >= PAGE_BYTES_MAX {
            page.next = page.changes.last().map(Change::revision);
            break;
        }
        bytes += key.len() + value.len();
        page.complete = head.ordinal == 1;
        page.changes.push(if head.removed {
            Change::Removed { revision, modified_ms: head.modified_ms }
        } else {
            Change::Put(entry(key, revision, head, value.to_vec()))
        });
    }
    // Whether the end is the beginning is seen on the last page; before it, look ahead.
    if page.next.is_some() {
        page.complete = oldest_ordinal(versions, key)? == Some(1);
    }
    Ok(page)
}

fn oldest_ordinal(
    versions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &str,
) -> Result<Option<u64>> {
    let (first, end) = (version_key(key, u64::MAX), version_key_end(key));
    match versions.range(first.as_slice()..end.as_slice())?.next_back() {
        None => Ok(None),
        Some(row) => {
            let (_, record) = row?;
            Ok(Some(VersionHead::decode_with(record.value())?.0.ordinal))
        }
    }
}

impl Change {
    /// The change's revision.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Removed { revision, .. } => *revision,
        }
    }
}
