//! Configuration: keys, listings, transactions and history.

use serde::{Deserialize, Serialize};

use crate::bytes::Value;

/// How fresh a read has to be. Nothing weaker is ever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Sees every write acknowledged to anyone before the read began.
    Linearizable,
    /// Never goes back, and sees the backend's own writes.
    Sequential,
    /// Whatever is at hand.
    Any,
}

/// A value under its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Entry {
    /// Path of segments between `/`.
    pub key: String,
    /// The value; left out where only keys were asked for.
    #[serde(flatten)]
    pub value: Value,
    /// Media type, where the backend keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Opaque; what preconditions compare with.
    pub version: String,
    /// When it was last written, in milliseconds of the Unix epoch, where the backend knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ms: Option<u64>,
}

/// Query of a read of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct GetQuery {
    /// Without one: the strongest that the backend declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Read as of this version (feature `config.read-at`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// `json` for the entry as JSON, else the bare value; wins over `Accept`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The entry with its version and times.
    Json,
    /// The bytes of the value.
    Raw,
}

/// Request for several keys at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GetMany {
    /// At most 128.
    pub keys: Vec<String>,
    /// Without one: the strongest that the backend declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Read as of this version (feature `config.read-at`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// Answer to [`GetMany`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GotMany {
    /// One for each key, in order; null where there is no value.
    pub entries: Vec<Option<Entry>>,
}

/// Query of a write of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct WriteQuery {
    /// Only while this lease is held: the id under which it was acquired from this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Answer with the entry that was replaced or deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub previous: bool,
}

/// Answer to a write that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Stored {
    /// The new version.
    pub version: String,
    /// The entry that was replaced, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Entry>,
}

/// Answer to the deletion of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Deleted {
    /// Whether there was something to delete.
    pub deleted: bool,
    /// The entry that was deleted, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Entry>,
}

/// Query of the deletion of everything below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct DeletePrefixQuery {
    /// What to delete; empty for everything, but it has to be said.
    pub prefix: String,
    /// Only while this lease is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// Answer to the deletion of everything below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeletedPrefix {
    /// How many keys.
    pub deleted: u64,
}

/// Query of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// Empty for everything; `a/b` lists what lies below it.
    pub prefix: String,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Most entries of a page, 1 to 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Leave values out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keys_only: bool,
    /// Without one: the strongest that the backend declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// List as of this version (feature `config.read-at`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// One page of a listing, in the order of the keys' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EntriesPage {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Present when there may be more: give it as `page`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Version of the backend that the page shows, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Things below the prefix that no key can name.
    #[serde(default)]
    pub skipped: u32,
}

/// Query of a watch: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    /// Watch this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Watch everything below this prefix; empty for everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Every change after this version instead of a snapshot first (feature `watch.from-version`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
}

/// Query of the history of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "schema", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Which key.
    pub key: String,
    /// Most revisions of a page, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// One past change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Revision {
    /// Version of this change.
    pub version: String,
    /// When, in milliseconds of the Unix epoch, where the backend knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ms: Option<u64>,
    /// What was written; absent when the key was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

/// One page of a key's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HistoryPage {
    /// The revisions.
    pub revisions: Vec<Revision>,
    /// Present when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// False when older revisions existed and are gone.
    pub complete: bool,
}

/// What has to be true of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Nothing is asked.
    #[default]
    Anything,
    /// There is no value.
    Absent,
    /// There is a value.
    Exists,
    /// It has this version.
    Version(String),
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Which key.
    pub key: String,
    /// What has to be true of it.
    pub expect: Expect,
}

/// Several operations that happen at one moment, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Txn {
    /// What has to hold.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Leases that have to be held, by the ids under which this server keeps them.
    #[serde(default)]
    pub held: Vec<String>,
    /// At most 128, no key twice. Gets see the state before.
    pub ops: Vec<TxnOp>,
}

/// One operation of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum TxnOp {
    /// Reads a key.
    Get {
        /// Which.
        key: String,
    },
    /// Writes a key.
    Put {
        /// Which.
        key: String,
        /// What.
        #[serde(flatten)]
        value: Value,
        /// Media type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
    },
    /// Deletes a key.
    Delete {
        /// Which.
        key: String,
    },
}

/// Answer to a transaction that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Committed {
    /// One per operation, in order.
    pub results: Vec<TxnResult>,
}

/// Result of one [`TxnOp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum TxnResult {
    /// What was read.
    Get {
        /// The entry, if there is one.
        entry: Option<Entry>,
    },
    /// What was written.
    Put {
        /// The new version.
        version: String,
    },
    /// What was deleted.
    Delete {
        /// Whether there was something.
        deleted: bool,
    },
}

/// A condition that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Mismatch {
    /// Position in `conditions`.
    pub index: usize,
    /// What is there now, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_carries_its_value_beside_its_key() {
        let entry = Entry {
            key: "app/url".into(),
            value: Value::of(b"http://db"),
            version: "7".into(),
            ..Entry::default()
        };
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(text, r#"{"key":"app/url","value":"http://db","version":"7"}"#);
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn a_transaction_reads_as_it_is_documented() {
        let text = r#"{
            "conditions": [{"key": "a", "expect": {"version": "3"}}, {"key": "b", "expect": "absent"}],
            "ops": [
                {"op": "put", "key": "a", "value": "x"},
                {"op": "put", "key": "c", "value_base64": "/w=="},
                {"op": "get", "key": "b"},
                {"op": "delete", "key": "d"}
            ]
        }"#;
        let txn: Txn = serde_json::from_str(text).unwrap();
        assert_eq!(txn.conditions[0].expect, Expect::Version("3".into()));
        assert_eq!(txn.conditions[1].expect, Expect::Absent);
        let TxnOp::Put { value, .. } = &txn.ops[1] else { panic!("{:?}", txn.ops[1]) };
        assert_eq!(value.bytes().unwrap().unwrap(), b"\xff");
        let again = serde_json::to_string(&txn).unwrap();
        assert_eq!(serde_json::from_str::<Txn>(&again).unwrap(), txn);
    }
}
