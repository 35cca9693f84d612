//! Requests and answers about configuration.

/// A key's value and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value; empty when a listing was asked for keys only.
    pub value: Vec<u8>,
    /// As it was given with the value.
    pub content_type: Option<String>,
    /// Revision at which the key came into being.
    pub created: u64,
    /// Revision of the last write; no two writes share one.
    pub revision: u64,
    /// When that was, in milliseconds of the Unix epoch.
    pub modified_ms: u64,
}

/// What has to be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing.
    Anything,
    /// The key has no value.
    Absent,
    /// The key has a value.
    Exists,
    /// The last write of the key was this revision.
    Revision(u64),
}

impl Expectation {
    pub(crate) fn holds(self, current: Option<u64>) -> bool {
        match self {
            Self::Anything => true,
            Self::Absent => current.is_none(),
            Self::Exists => current.is_some(),
            Self::Revision(revision) => current == Some(revision),
        }
    }
}

/// A put.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Stored with the value.
    pub content_type: Option<String>,
    /// What has to be true.
    pub expect: Expectation,
    /// The lease that has to be held.
    pub held: Option<u64>,
    /// Whether to answer the entry that was replaced.
    pub previous: bool,
}

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// Stored.
    Stored {
        /// The write's revision.
        revision: u64,
        /// The entry that was replaced, if it was asked for.
        previous: Option<Entry>,
    },
    /// The expectation did not hold; what is there.
    Stale(Option<Entry>),
    /// The lease is not held.
    Fenced,
}

/// A delete.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The key.
    pub key: String,
    /// What has to be true.
    pub expect: Expectation,
    /// The lease that has to be held.
    pub held: Option<u64>,
    /// Whether to answer the entry that was deleted.
    pub previous: bool,
}

/// What became of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// Deleted; what was there, if it was asked for.
    Deleted(Option<Entry>),
    /// There was nothing.
    Absent,
    /// The expectation did not hold; what is there.
    Stale(Option<Entry>),
    /// The lease is not held.
    Fenced,
}

/// What became of deleting all below a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletePrefixOutcome {
    /// So many keys were deleted.
    Deleted(u64),
    /// The lease is not held.
    Fenced,
}

/// Several operations that happen at one moment, or none.
#[derive(Clone, Debug)]
pub struct Txn {
    /// What has to be true of which keys.
    pub conditions: Vec<(String, Expectation)>,
    /// Leases that all have to be held.
    pub held: Vec<u64>,
    /// At most [`TXN_OPS_MAX`], no key twice.
    pub ops: Vec<TxnOp>,
}

/// Most operations of a transaction.
pub const TXN_OPS_MAX: usize = 128;

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum TxnOp {
    /// Read a key as it was before the transaction.
    Get(String),
    /// Write a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// Stored with the value.
        content_type: Option<String>,
    },
    /// Delete a key.
    Delete(String),
}

impl TxnOp {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Get(key) | Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// What one operation of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// What was there.
    Got(Option<Entry>),
    /// Written, at this revision.
    Stored(u64),
    /// Whether there was something to delete.
    Deleted(bool),
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All was done; one result per operation.
    Committed(Vec<TxnResult>),
    /// Nothing was done; positions of the conditions that did not hold, and what is there.
    Stale(Vec<(usize, Option<Entry>)>),
    /// A lease is not held; nothing was done.
    Fenced,
}

/// A listing.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// List what lies below; empty for everything.
    pub prefix: String,
    /// List what comes after this key.
    pub after: Option<String>,
    /// Most entries.
    pub limit: usize,
    /// Leave values empty.
    pub keys_only: bool,
    /// The revision to read; the newest if none.
    pub at: Option<u64>,
}

/// Part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of the bytes of their keys.
    pub entries: Vec<Entry>,
    /// Whether there may be more.
    pub more: bool,
    /// The revision that was read.
    pub revision: u64,
}

/// One kept version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(Entry),
    /// Removed.
    Removed {
        /// The removal's revision.
        revision: u64,
        /// When it was, in milliseconds of the Unix epoch.
        modified_ms: u64,
    },
}

/// Part of a key's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// Newest first.
    pub changes: Vec<Change>,
    /// Continue with versions older than this revision.
    pub next: Option<u64>,
    /// False when older versions existed and are gone.
    pub complete: bool,
}

/// What a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One key.
    Key(String),
    /// Everything below a prefix.
    Prefix(String),
}

impl Target {
    pub(crate) fn covers(&self, key: &str) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Prefix(prefix) => super::super::key::is_below(key, prefix),
        }
    }
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigEvent {
    /// A snapshot begins.
    SnapshotBegin,
    /// A key of the snapshot, or a write.
    Put {
        /// What is there now.
        entry: Entry,
        /// What was there just before; always none in a snapshot.
        previous: Option<Entry>,
    },
    /// A removal.
    Removed {
        /// The key.
        key: String,
        /// The removal's revision.
        revision: u64,
        /// What was there just before.
        previous: Option<Entry>,
    },
    /// The snapshot is complete; the revision that it shows.
    SnapshotEnd(u64),
    /// Something is missing; a new snapshot follows.
    Resync(String),
}
