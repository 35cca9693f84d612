//! Records that several requests share.

use super::{Decoder, Encoder, Malformed};

/// What the server knows of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Transaction that created it.
    pub czxid: i64,
    /// Transaction that changed its data last.
    pub mzxid: i64,
    /// When it was created, in ms of the Unix epoch.
    pub ctime_ms: i64,
    /// When its data were changed last, in ms of the Unix epoch.
    pub mtime_ms: i64,
    /// How often its data were changed.
    pub version: i32,
    /// How often its children were.
    pub cversion: i32,
    /// How often its access control list was.
    pub aversion: i32,
    /// The session that keeps it, 0 if none does.
    pub ephemeral_owner: i64,
    /// Bytes of its data.
    pub data_length: i32,
    /// How many children it has.
    pub num_children: i32,
    /// Transaction that created or deleted a child last.
    pub pzxid: i64,
}

impl Stat {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is cut off.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            czxid: input.long()?,
            mzxid: input.long()?,
            ctime_ms: input.long()?,
            mtime_ms: input.long()?,
            version: input.int()?,
            cversion: input.int()?,
            aversion: input.int()?,
            ephemeral_owner: input.long()?,
            data_length: input.int()?,
            num_children: input.int()?,
            pzxid: input.long()?,
        })
    }
}

/// Who may do what with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Read 1, write 2, create 4, delete 8, admin 16.
    pub permissions: i32,
    /// `world`, `auth`, `digest`, `ip`, `x509` …
    pub scheme: String,
    /// Who, in terms of the scheme.
    pub id: String,
}

impl Acl {
    /// Everything.
    pub const ALL: i32 = 31;

    /// Writes it.
    pub fn encode(&self, out: &mut Encoder<'_>) {
        out.int(self.permissions);
        out.string(&self.scheme);
        out.string(&self.id);
    }
}

/// What stands before each answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// Of the request.
    pub xid: i32,
    /// The newest transaction that the server has seen.
    pub zxid: i64,
    /// 0, or an error code.
    pub error: i32,
}

impl ReplyHeader {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is cut off.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self { xid: input.int()?, zxid: input.long()?, error: input.int()? })
    }
}

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It came into being.
    Created,
    /// It is gone.
    Deleted,
    /// Its data were set.
    DataChanged,
    /// A child came or went.
    ChildrenChanged,
    /// A watch was taken away, or the state of the session is told: nothing that needs an answer.
    Other(i32),
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which node.
    pub path: String,
}

impl Event {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let kind = match input.int()? {
            1 => EventKind::Created,
            2 => EventKind::Deleted,
            3 => EventKind::DataChanged,
            4 => EventKind::ChildrenChanged,
            other => EventKind::Other(other),
        };
        let _state = input.int()?;
        let path = input.string()?.to_owned();
        input.finish()?;
        Ok(Self { kind, path })
    }
}
