//! Requests and their answers.

use super::{Acl, Decoder, Encoder, Malformed, Stat};
use std::fmt;

pub(super) const DELETE: i32 = 2;
pub(super) const GET_DATA: i32 = 4;
pub(super) const SET_DATA: i32 = 5;
/// Creates and answers the stat too (servers from 3.5 on, as all below).
pub(super) const CREATE2: i32 = 15;
pub(super) const CREATE_CONTAINER: i32 = 19;

/// A request: what it is called, how it is written, how its answer is read.
pub trait Request {
    /// What the server answers.
    type Response;

    /// The number that stands in its header.
    fn opcode(&self) -> i32;

    /// Writes the record behind the header.
    fn encode(&self, out: &mut Encoder<'_>);

    /// Reads the record behind the answer's header.
    ///
    /// # Errors
    ///
    /// When it is something else.
    fn decode(input: &mut Decoder<'_>) -> Result<Self::Response, Malformed>;
}

/// A node's data, null for a directory, and what the server knows of it.
pub type Content = (Option<Vec<u8>>, Stat);

/// How a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// Until it is deleted.
    Persistent,
    /// As long as its session.
    Ephemeral,
    /// As long as its session; the server adds a number to its name that only rises.
    EphemeralSequential,
    /// Until its last child has gone, some time after (servers from 3.5 on).
    Container,
}

impl CreateMode {
    fn flags(self) -> i32 {
        match self {
            Self::Persistent => 0,
            Self::Ephemeral => 1,
            Self::EphemeralSequential => 3,
            Self::Container => 4,
        }
    }
}

/// Creates a node.
#[derive(Clone, Debug)]
pub struct Create<'a> {
    /// Where.
    pub path: &'a str,
    /// With which data; null for a directory.
    pub data: Option<&'a [u8]>,
    /// Who may do what with it.
    pub acl: &'a [Acl],
    /// How it lives.
    pub mode: CreateMode,
}

impl Request for Create<'_> {
    /// The path, with its number, and the stat.
    type Response = (String, Stat);

    fn opcode(&self) -> i32 {
        match self.mode {
            CreateMode::Container => CREATE_CONTAINER,
            _ => CREATE2,
        }
    }

    fn encode(&self, out: &mut Encoder<'_>) {
        out.string(self.path);
        out.buffer(self.data);
        out.length(self.acl.len());
        self.acl.iter().for_each(|acl| acl.encode(out));
        out.int(self.mode.flags());
    }

    fn decode(input: &mut Decoder<'_>) -> Result<(String, Stat), Malformed> {
        Ok((input.string()?.to_owned(), Stat::decode(input)?))
    }
}

macro_rules! requests {
    ($(
        $(#[$doc:meta])*
        $name:ident $(<$life:lifetime>)? = $opcode:expr, {
            $($(#[$field_doc:meta])* $field:ident: $kind:ty,)*
        } writes |$this:ident, $out:ident| $encode:block reads |$input:ident| -> $response:ty $decode:block
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub struct $name $(<$life>)? {
                $($(#[$field_doc])* pub $field: $kind,)*
            }

            impl $(<$life>)? Request for $name $(<$life>)? {
                type Response = $response;

                fn opcode(&self) -> i32 {
                    $opcode
                }

                fn encode(&self, $out: &mut Encoder<'_>) {
                    let $this = self;
                    $encode
                }

                fn decode($input: &mut Decoder<'_>) -> Result<$response, Malformed> {
                    $decode
                }
            }
        )*
    };
}

requests! {
    /// Deletes a node that has no children.
    Delete<'a> = DELETE, {
        /// Which.
        path: &'a str,
        /// Only at this version, -1 for any.
        version: i32,
    } writes |this, out| { out.string(this.path); out.int(this.version); }
    reads |_input| -> () { Ok(()) }

    /// Looks whether a node exists.
    Exists<'a> = 3, {
        /// Which.
        path: &'a str,
        /// Whether to tell of the next change, once.
        watch: bool,
    } writes |this, out| { out.string(this.path); out.bool(this.watch); }
    reads |input| -> Stat { Stat::decode(input) }

    /// Reads a node.
    GetData<'a> = GET_DATA, {
        /// Which.
        path: &'a str,
        /// Whether to tell of the next change, once.
        watch: bool,
    } writes |this, out| { out.string(this.path); out.bool(this.watch); }
    reads |input| -> Content {
        let data = input.buffer()?.map(<[u8]>::to_vec);
        Ok((data, Stat::decode(input)?))
    }

    /// Sets a node's data.
    SetData<'a> = SET_DATA, {
        /// Which.
        path: &'a str,
        /// To what; null makes it a directory.
        data: Option<&'a [u8]>,
        /// Only at this version, -1 for any.
        version: i32,
    } writes |this, out| { out.string(this.path); out.buffer(this.data); out.int(this.version); }
    reads |input| -> Stat { Stat::decode(input) }

    /// Lists a node's children.
    Children<'a> = 12, {
        /// Whose.
        path: &'a str,
        /// Whether to tell of the next child that comes or goes, once.
        watch: bool,
    } writes |this, out| { out.string(this.path); out.bool(this.watch); }
    reads |input| -> (Vec<String>, Stat) { Ok((input.strings()?, Stat::decode(input)?)) }

    /// Brings the server up to its leader. No quorum is asked: another may lead by now.
    Sync<'a> = 9, {
        /// Any node.
        path: &'a str,
    } writes |this, out| { out.string(this.path); }
    reads |input| -> String { input.string().map(str::to_owned) }

    /// A sign of life.
    Ping = 11, {} writes |_this, _out| {} reads |_input| -> () { Ok(()) }

    /// Ends the session, with its ephemeral nodes.
    CloseSession = -11, {} writes |_this, _out| {} reads |_input| -> () { Ok(()) }

    /// Ephemeral nodes of the session below a path (servers from 3.6 on).
    Ephemerals<'a> = 103, {
        /// What their paths begin with.
        prefix: &'a str,
    } writes |this, out| { out.string(this.prefix); }
    reads |input| -> Vec<String> { input.strings() }

    /// Watches a node until the watch is removed or the session's connection breaks (servers from
    /// 3.6 on).
    AddWatch<'a> = 106, {
        /// Which.
        path: &'a str,
        /// Whether what lies below it too.
        mode: WatchMode,
    } writes |this, out| { out.string(this.path); out.int(this.mode.number()); }
    // An error code stands there once more, always 0.
    reads |input| -> () { input.int().map(drop) }

    /// Ends all watches of this connection on a node, lasting or not.
    RemoveWatches<'a> = 18, {
        /// Which.
        path: &'a str,
    } writes |this, out| { out.string(this.path); out.int(3); }
    reads |_input| -> () { Ok(()) }

    /// Sets watches again on another connection; those whose node has changed since fire at once.
    SetWatches<'a> = 101, {
        /// The newest transaction that was seen.
        since_zxid: i64,
        /// One-time watches of data.
        data: &'a [&'a str],
        /// One-time watches of nodes that did not exist.
        exists: &'a [&'a str],
        /// One-time watches of children.
        children: &'a [&'a str],
    } writes |this, out| {
        out.long(this.since_zxid);
        out.strings(this.data);
        out.strings(this.exists);
        out.strings(this.children);
    } reads |_input| -> () { Ok(()) }

    /// The same with lasting watches (servers from 3.6 on). These do not fire for what has changed
    /// since: look again.
    SetWatches2<'a> = 105, {
        /// The newest transaction that was seen.
        since_zxid: i64,
        /// Lasting watches of one node each.
        nodes: &'a [&'a str],
        /// Lasting watches of a node and all below it.
        trees: &'a [&'a str],
    } writes |this, out| {
        out.long(this.since_zxid);
        for _ in 0..3 {
            out.length(0);
        }
        out.strings(this.nodes);
        out.strings(this.trees);
    } reads |_input| -> () { Ok(()) }
}

/// What a lasting watch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchMode {
    /// One node: itself, its data, its children.
    Node,
    /// A node and all below it: their coming, going, and data.
    Tree,
}

impl WatchMode {
    fn number(self) -> i32 {
        match self {
            Self::Node => 0,
            Self::Tree => 1,
        }
    }
}

/// Says who this client is.
#[derive(Clone)]
pub struct Auth<'a> {
    /// `digest` …
    pub scheme: &'a str,
    /// What proves it.
    pub credentials: &'a [u8],
}

impl Request for Auth<'_> {
    type Response = ();

    fn opcode(&self) -> i32 {
        100
    }

    fn encode(&self, out: &mut Encoder<'_>) {
        out.int(0);
        out.string(self.scheme);
        out.buffer(Some(self.credentials));
    }

    fn decode(_: &mut Decoder<'_>) -> Result<(), Malformed> {
        Ok(())
    }
}

impl fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}
