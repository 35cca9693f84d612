//! Configuration: versions of keys, their log, watches on it, and forgetting.

pub(crate) mod read;
pub(crate) mod retention;
mod types;
pub(crate) mod watch;
mod write;

pub use read::ANSWER_BYTES_MAX;
pub use types::{
    Change, ConfigEvent, Delete, DeleteOutcome, DeletePrefixOutcome, Entry, Expectation,
    HistoryPage, List, Page, Put, PutOutcome, TXN_OPS_MAX, Target, Txn, TxnOp, TxnOutcome,
    TxnResult,
};
pub use watch::{ConfigWatch, WATCH_STEP_EVENTS, WatchStart};
pub use write::{DELETE_PREFIX_KEYS_MAX, TXN_CONDITIONS_MAX};
