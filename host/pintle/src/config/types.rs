//! What configuration calls take and give.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::lock::LeaseRef;

/// Opaque version of an entry or of a whole backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// The text that the plugin gave.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path of segments between `/`.
    pub key: Arc<str>,
    /// The value, any bytes.
    pub value: Bytes,
    /// Media type, where the backend keeps one.
    pub content_type: Option<String>,
    /// What [`Expect::Version`] compares with.
    pub version: Version,
    /// When it was last written, where the backend knows.
    pub modified: Option<SystemTime>,
}

/// How fresh a read has to be. Nothing weaker is ever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged to anyone before the read began.
    Linearizable,
    /// Never goes back within one backend, and sees that backend's own writes.
    Sequential,
    /// Whatever is at hand.
    Any,
}

/// Coordinates of a gray release: `ip`, `label`, `tag`.
pub type Selectors = Vec<(String, String)>;

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Without one: the strongest that the backend declares, linearizable or else sequential.
    pub consistency: Option<Consistency>,
    /// Read as of this version (feature `config.read-at`).
    pub at: Option<Version>,
    /// Feature `config.selectors`.
    pub selectors: Selectors,
}

/// Which keys to list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Empty for everything; `a/b` lists what lies below it.
    pub prefix: String,
    /// [`Page::next`] of the page before.
    pub page: Option<String>,
    /// Most entries of a page, 1 to 1,000; 0 means 1,000.
    pub limit: u32,
    /// Leave values empty.
    pub keys_only: bool,
    /// How to read.
    pub options: ReadOptions,
}

/// One page of a listing, in the order of the keys' bytes.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Present when there may be more.
    pub next: Option<String>,
    /// Version of the backend that the page shows; a watch may open from it.
    pub version: Option<Version>,
    /// Things below the prefix that no key can name.
    pub skipped: u32,
}

/// What has to be true of a key for a write to happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is asked.
    #[default]
    Anything,
    /// There is no value.
    Absent,
    /// There is a value.
    Exists,
    /// It has this version.
    Version(Version),
}

/// A write of one key.
#[derive(Debug, Clone)]
pub struct Put {
    /// Where.
    pub key: String,
    /// What.
    pub value: Bytes,
    /// Media type (feature `config.content-type`).
    pub content_type: Option<String>,
    /// Feature `config.cas` for all but [`Expect::Anything`].
    pub expect: Expect,
    /// Only while this lease is held (feature `config.held`).
    pub held: Option<LeaseRef>,
    /// Return the entry that was replaced.
    pub previous: bool,
    /// Feature `config.selectors`.
    pub selectors: Selectors,
}

impl Put {
    /// Writes `value` under `key`, whatever is there.
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            content_type: None,
            expect: Expect::Anything,
            held: None,
            previous: false,
            selectors: Selectors::new(),
        }
    }

    /// Happens only if `expect` holds.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// Happens only while `lease` is held; the backend itself checks.
    #[must_use]
    pub fn held(mut self, lease: LeaseRef) -> Self {
        self.held = Some(lease);
        self
    }

    /// Stores a media type with the value.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Asks for the entry that is replaced.
    #[must_use]
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }
}

/// How a put went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// Stored, durably.
    Stored {
        /// The new version.
        version: Version,
        /// The entry that was replaced, if it was asked for.
        previous: Option<Entry>,
    },
    /// The expectation did not hold; what is there now.
    Stale(Option<Entry>),
    /// The lease named in [`Put::held`] is not held any more.
    Fenced,
}

/// A removal of one key.
#[derive(Debug, Clone)]
pub struct Delete {
    /// Which.
    pub key: String,
    /// Feature `config.cas` for all but [`Expect::Anything`].
    pub expect: Expect,
    /// Only while this lease is held (feature `config.held`).
    pub held: Option<LeaseRef>,
    /// Return the entry that was deleted.
    pub previous: bool,
    /// Feature `config.selectors`.
    pub selectors: Selectors,
}

impl Delete {
    /// Deletes `key`, whatever is there.
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            expect: Expect::Anything,
            held: None,
            previous: false,
            selectors: Selectors::new(),
        }
    }
}

/// How a delete went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// Deleted; the entry if it was asked for.
    Deleted(Option<Entry>),
    /// There was nothing.
    Absent,
    /// The expectation did not hold; what is there now.
    Stale(Option<Entry>),
    /// The lease named in [`Delete::held`] is not held any more.
    Fenced,
}

/// Several operations that happen at one moment, or not at all (feature `config.txn`).
#[derive(Debug, Clone, Default)]
pub struct Txn {
    /// What has to hold.
    pub conditions: Vec<(String, Expect)>,
    /// Leases that have to be held (feature `config.held`).
    pub held: Vec<LeaseRef>,
    /// At most 128, no key twice. Gets see the state before.
    pub ops: Vec<TxnOp>,
}

/// One operation of a [`Txn`].
#[derive(Debug, Clone)]
pub enum TxnOp {
    /// Reads a key.
    Get(String),
    /// Writes a key.
    Put {
        /// Where.
        key: String,
        /// What.
        value: Bytes,
        /// Media type (feature `config.content-type`).
        content_type: Option<String>,
    },
    /// Deletes a key.
    Delete(String),
}

/// Result of one [`TxnOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnResult {
    /// What was read.
    Got(Option<Entry>),
    /// The new version.
    Stored(Version),
    /// Whether there was something to delete.
    Deleted(bool),
}

/// How a transaction went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// One result per operation.
    Committed(Vec<TxnResult>),
    /// Nothing was done: positions in [`Txn::conditions`] that did not hold, and what is there.
    Stale(Vec<(usize, Option<Entry>)>),
    /// A lease is not held any more.
    Fenced,
}

/// Which revisions of a key to read (feature `config.history`).
#[derive(Debug, Clone, Default)]
pub struct HistoryRequest {
    /// Which key.
    pub key: String,
    /// Most revisions of a page, 1 to 1,000; 0 means 1,000.
    pub limit: u32,
    /// [`HistoryPage::next`] of the page before.
    pub page: Option<String>,
}

/// One past change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// What was written, or nothing if it was removed.
    pub entry: Option<Entry>,
    /// The version of this change.
    pub version: Version,
    /// When, where the backend knows.
    pub modified: Option<SystemTime>,
}

/// One page of a key's history, newest first.
#[derive(Debug, Clone)]
pub struct HistoryPage {
    /// The revisions.
    pub revisions: Vec<Revision>,
    /// Present when there may be more.
    pub next: Option<String>,
    /// False when older revisions existed and are gone.
    pub complete: bool,
}

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One key.
    Key(String),
    /// Everything below a prefix; empty for everything.
    Prefix(String),
}

/// What a watch delivers.
///
/// It begins with `SnapshotBegin`, a `Put` for each key and `SnapshotEnd`. After `Resync` come the
/// differences to what was delivered before, or a whole new snapshot: state is always right again
/// after applying them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Forget what you know: the whole state follows.
    SnapshotBegin,
    /// A key was written.
    Put {
        /// What is there now.
        entry: Arc<Entry>,
        /// What was there before, where it is known.
        previous: Option<Arc<Entry>>,
    },
    /// A key was removed.
    Removed {
        /// Which.
        key: Arc<str>,
        /// The version of the removal, where it is known.
        version: Option<Version>,
        /// What was there before, where it is known.
        previous: Option<Arc<Entry>>,
    },
    /// The snapshot is complete.
    SnapshotEnd,
    /// Changes in between may have been missed, and why.
    Resync(Arc<str>),
}

/// Where a watch from a version continues.
///
/// As a text it is `0@VERSION`, `COUNT@VERSION/NEXT`, or `snapshot`; the versions are escaped, so
/// that it is plain ASCII without spaces whatever a plugin calls its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangePosition {
    /// Everything up to a version was delivered.
    After {
        /// That version.
        version: Version,
        /// What was delivered of the next (a transaction changes several keys at one version).
        part: Option<DeliveredPart>,
    },
    /// Only a snapshot helps: one was interrupted, or what happened since has no version.
    Snapshot,
}

/// The first changes of a version, which were delivered without the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredPart {
    /// Which version.
    pub version: Version,
    /// How many of its changes.
    pub count: u32,
}

impl From<Version> for ChangePosition {
    fn from(version: Version) -> Self {
        Self::After { version, part: None }
    }
}

/// What stands for itself in a version.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':');

impl fmt::Display for ChangePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::After { version, part } = self else { return f.write_str("snapshot") };
        let escaped = |version: &Version| utf8_percent_encode(version.as_str(), PLAIN).to_string();
        match part {
            None => write!(f, "0@{}", escaped(version)),
            Some(part) => {
                write!(f, "{}@{}/{}", part.count, escaped(version), escaped(&part.version))
            }
        }
    }
}

impl std::str::FromStr for ChangePosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "snapshot" {
            return Ok(Self::Snapshot);
        }
        let version = |text: &str| -> Result<Version, ()> {
            let text = percent_decode_str(text).decode_utf8().map_err(|_| ())?;
            if text.is_empty() { Err(()) } else { Ok(Version::from(&*text)) }
        };
        let (count, versions) = text.split_once('@').ok_or(())?;
        let count: u32 = count.parse().map_err(|_| ())?;
        match (count, versions.split_once('/')) {
            (0, None) => Ok(version(versions)?.into()),
            (1.., Some((after, next))) => {
                let part = DeliveredPart { version: version(next)?, count };
                Ok(Self::After { version: version(after)?, part: Some(part) })
            }
            _ => Err(()),
        }
    }
}

/// Position of an event in a mirror: resumes a watch while the mirror still has what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// Tells mirrors apart, also over restarts.
    pub epoch: u64,
    /// Counts the events of one mirror.
    pub sequence: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.epoch, self.sequence)
    }
}

impl std::str::FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, sequence) = text.split_once('.').ok_or(())?;
        Ok(Self {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| ())?,
            sequence: sequence.parse().map_err(|_| ())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_plain_text_whatever_the_versions_are() {
        let part = |count| DeliveredPart { version: "é\n5%".into(), count };
        let after = |part| ChangePosition::After { version: "a@b/ü 4".into(), part };
        let positions = [after(None), after(Some(part(2))), ChangePosition::Snapshot];
        for position in positions {
            let text = position.to_string();
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            assert_eq!(text.parse::<ChangePosition>(), Ok(position));
        }
        for text in ["", "5", "@5", "1@5", "0@", "0@5/6", "1@5/", "-1@5/6", "0@%ff", "a.7"] {
            assert!(text.parse::<ChangePosition>().is_err(), "{text}");
        }
    }
}
