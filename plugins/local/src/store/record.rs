//! What the tables hold: protobuf messages, so that later versions can add fields.

use super::{Result, StoreError};
use prost::Message;

/// One version of a key, without its value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VersionHead {
    /// True when this version is the key's removal.
    #[prost(bool, tag = "1")]
    pub(crate) removed: bool,
    /// Revision at which the key came into being.
    #[prost(uint64, tag = "2")]
    pub(crate) created: u64,
    /// 1 for the first version of the key that the store knows, then one more for each.
    #[prost(uint64, tag = "3")]
    pub(crate) ordinal: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) modified_ms: u64,
    #[prost(string, optional, tag = "5")]
    pub(crate) content_type: Option<String>,
}

impl VersionHead {
    /// The head with its length before it, then the value as it is: heads are read without copying
    /// values.
    pub(crate) fn encode_with(&self, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len() + 2 + value.len());
        // Writing to a vector cannot run out of room.
        let _ = self.encode_length_delimited(&mut bytes);
        bytes.extend_from_slice(value);
        bytes
    }

    /// The head, and the value that follows it.
    pub(crate) fn decode_with(mut bytes: &[u8]) -> Result<(Self, &[u8])> {
        let head = Self::decode_length_delimited(&mut bytes)
            .map_err(|error| damaged("config.versions", &error))?;
        Ok((head, bytes))
    }
}

/// Keys that one revision changed; a revision of very many keys has several parts.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogPart {
    #[prost(string, repeated, tag = "1")]
    pub(crate) keys: Vec<String>,
    #[prost(uint64, tag = "2")]
    pub(crate) modified_ms: u64,
    /// Bytes of the keys and values of this part.
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
}

/// Most keys in one [`LogPart`].
pub(crate) const LOG_PART_KEYS_MAX: usize = 256;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClaimRecord {
    /// 0 exclusive, 1 shared, 2 permit.
    #[prost(uint32, tag = "1")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) permits: u32,
    #[prost(string, tag = "3")]
    pub(crate) owner: String,
    #[prost(uint32, tag = "4")]
    pub(crate) ttl_ms: u32,
    /// 0 when the claim has no token.
    #[prost(uint64, tag = "5")]
    pub(crate) token: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) since_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InstanceRecord {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
    #[prost(uint32, tag = "2")]
    pub(crate) port: u32,
    #[prost(string, tag = "3")]
    pub(crate) version: String,
    #[prost(string, optional, tag = "4")]
    pub(crate) zone: Option<String>,
    #[prost(uint32, tag = "5")]
    pub(crate) weight: u32,
    #[prost(bool, tag = "6")]
    pub(crate) enabled: bool,
    #[prost(message, repeated, tag = "7")]
    pub(crate) labels: Vec<Label>,
    /// 0 for an instance that no session keeps.
    #[prost(uint64, tag = "8")]
    pub(crate) lease: u64,
    #[prost(uint32, tag = "9")]
    pub(crate) ttl_ms: u32,
    #[prost(string, tag = "10")]
    pub(crate) owner: String,
    #[prost(uint64, tag = "11")]
    pub(crate) registered_ms: u64,
    #[prost(uint64, tag = "12")]
    pub(crate) revision: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OverrideRecord {
    #[prost(bool, optional, tag = "1")]
    pub(crate) enabled: Option<bool>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) weight: Option<u32>,
    #[prost(string, tag = "3")]
    pub(crate) note: String,
}

/// What a turn made of one row of a table, as the log ahead of the database holds it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Row {
    #[prost(enumeration = "TableId", tag = "1")]
    pub(crate) table: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) key: Vec<u8>,
    /// None when the row was removed.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(crate) value: Option<Vec<u8>>,
}

/// The tables of the database, as the log calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum TableId {
    /// None: no row is of it.
    Unknown = 0,
    Meta = 1,
    Versions = 2,
    Log = 3,
    Claims = 4,
    Instances = 5,
    Overrides = 6,
}

/// Decodes a record of `table`.
pub(crate) fn decode<T: Message + Default>(table: &'static str, bytes: &[u8]) -> Result<T> {
    T::decode(bytes).map_err(|error| damaged(table, &error))
}

fn damaged(table: &'static str, error: &prost::DecodeError) -> StoreError {
    StoreError::Damaged { table, reason: error.to_string() }
}
