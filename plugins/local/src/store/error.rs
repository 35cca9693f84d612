//! What can go wrong in the store, and what it means for the caller.

use std::path::PathBuf;

/// Result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why an operation of the store failed.
///
/// The first group is about one request; [`StoreError::is_fault`] tells it from the second, which is
/// about the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The request can never succeed as it stands.
    #[error("{what}")]
    Invalid {
        /// What is wrong with which part of the request.
        what: String,
    },
    /// A limit of the store.
    #[error("{what} is {actual}, and the limit `{limit}` is {max}")]
    TooLarge {
        /// Name of the limit: a setting or a constant of the documentation.
        limit: &'static str,
        /// What was measured, with its unit.
        what: &'static str,
        /// What the request asked for.
        actual: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// A quota that others may give back.
    #[error("{what}")]
    Exhausted {
        /// Which quota, and how to get below it.
        what: String,
    },
    /// The revision asked for is no longer kept.
    #[error(
        "version {asked} is no longer kept, the oldest is {oldest}: begin again from the newest"
    )]
    Compacted {
        /// The revision of the request.
        asked: u64,
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// The request clashes with what is there.
    #[error("{what}")]
    Conflict {
        /// What clashes with what.
        what: String,
    },
    /// Something that has to exist does not.
    #[error("{what}")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The file is not one that this store may use.
    #[error("{path}: {reason}; {remedy}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// A stored record does not decode.
    #[error("a record of table `{table}` is damaged: {reason}")]
    Damaged {
        /// The table.
        table: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The database failed.
    #[error("{doing} failed: {source}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// Whether the changes of the turn may have become durable all the same.
        maybe_durable: bool,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// The database failed before and has not been opened again.
    #[error("the store is closed after a failure: {reason}")]
    Closed {
        /// The failure, or why opening it again failed.
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    pub(crate) fn storage(doing: &'static str, source: impl Into<redb::Error>) -> Self {
        Self::Storage { doing, maybe_durable: false, source: Box::new(source.into()) }
    }

    /// Whether it is about the store and not about one request: it ends a turn for all its requests.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Storage { .. } | Self::Closed { .. })
    }

    /// Whether the database can no longer be used without opening it again.
    pub fn closes_store(&self) -> bool {
        matches!(self, Self::Storage { .. })
    }

    /// Whether the request may have been carried out.
    pub fn maybe_durable(&self) -> bool {
        matches!(self, Self::Storage { maybe_durable: true, .. })
    }

    /// Whether the disk, or a quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Storage { source, .. } => match source.as_ref() {
                redb::Error::Io(error) => {
                    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
                }
                _ => false,
            },
            _ => false,
        }
    }
}

macro_rules! from_redb {
    ($($source:ty => $doing:literal),* $(,)?) => {$(
        impl From<$source> for StoreError {
            fn from(source: $source) -> Self {
                Self::storage($doing, source)
            }
        }
    )*};
}

from_redb! {
    redb::StorageError => "reading or changing the store",
    redb::TableError => "opening a table of the store",
    redb::TransactionError => "beginning a transaction of the store",
}

impl From<redb::CommitError> for StoreError {
    fn from(source: redb::CommitError) -> Self {
        Self::Storage {
            doing: "committing to the store",
            maybe_durable: true,
            source: Box::new(source.into()),
        }
    }
}
