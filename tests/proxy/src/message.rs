//! How a stream of bytes is read as messages, so that one of them can be chosen.

use std::fmt;
use std::sync::Arc;

/// Which way a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: replies.
    ToClient,
}

/// One message on its way.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The number of its connection, from 0 in the order of acceptance.
    pub connection: u64,
    /// Which way it travels.
    pub direction: Direction,
    /// Its number on this connection in this direction, from 0.
    pub index: u64,
    /// What the framing says about it.
    pub head: Head,
    /// The whole message, with its header.
    pub bytes: &'a [u8],
}

impl Message<'_> {
    /// The bytes behind the header.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.head.header_len..).unwrap_or_default()
    }

    /// Whether these bytes occur anywhere in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        needle.is_empty() || self.bytes.windows(needle.len()).any(|window| window == needle)
    }

    /// The HTTP/2 stream that it belongs to.
    pub fn stream(&self) -> Option<u32> {
        match self.head.tag {
            Tag::Http2 { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Whether it is an HTTP/2 HEADERS frame: the first of a reply, and its trailers.
    pub fn is_headers(&self) -> bool {
        matches!(self.head.tag, Tag::Http2 { kind: HTTP2_HEADERS, .. })
    }

    /// Whether it is an HTTP/2 DATA frame.
    pub fn is_data(&self) -> bool {
        matches!(self.head.tag, Tag::Http2 { kind: HTTP2_DATA, .. })
    }

    /// Whether it is the last HTTP/2 frame of its stream in this direction.
    pub fn ends_stream(&self) -> bool {
        const END_STREAM: u8 = 0x1;
        match self.head.tag {
            Tag::Http2 { kind: HTTP2_HEADERS | HTTP2_DATA, flags, .. } => flags & END_STREAM != 0,
            Tag::Http2 { kind, .. } => kind == HTTP2_RST_STREAM,
            _ => false,
        }
    }
}

/// What a framing knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the whole message, at least 1.
    pub len: usize,
    /// Bytes before the payload.
    pub header_len: usize,
    /// The kind of message.
    pub tag: Tag,
    /// Equal in a request and its reply, where the protocol has such a thing.
    pub correlation: Option<u64>,
}

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// Whatever one read returned.
    Chunk,
    /// A record behind its length.
    Record,
    /// The bytes with which an HTTP/2 client begins.
    Preface,
    /// An HTTP/2 frame.
    Http2 {
        /// Frame type (RFC 9113 §6): 0 DATA, 1 HEADERS, 3 RST_STREAM, 6 PING …
        kind: u8,
        /// Frame flags.
        flags: u8,
        /// Stream identifier, 0 for the connection.
        stream: u32,
    },
    /// Given by a framer of the test's own.
    Custom(u32),
}

/// What a framer says of the bytes at the front of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The message is not complete yet.
    Incomplete,
    /// A message begins here.
    Message(Head),
    /// Not this protocol: from here on the stream passes in chunks.
    Unframed,
}

/// Splits one direction of one connection into messages.
pub trait Framer: Send {
    /// Looks at the bytes that are not yet taken; they are never empty.
    fn split(&mut self, buffered: &[u8]) -> Split;
}

/// How streams are read as messages.
#[derive(Clone, Default)]
pub enum Framing {
    /// Each read is a message. Enough where one request is outstanding at a time (HTTP/1.1).
    #[default]
    Chunks,
    /// Records behind a four-byte big-endian length, as ZooKeeper's. The first four bytes of a
    /// record are its correlation: ZooKeeper's xid.
    LengthPrefixed,
    /// HTTP/2 frames in clear text. The stream is the correlation of HEADERS, CONTINUATION, DATA
    /// and RST_STREAM. Header blocks are not decoded; dropping one spoils the rest of the
    /// connection's headers, so cut or hold instead.
    Http2,
    /// A framer of the test's own, made for each direction of each connection.
    Custom(Arc<dyn Fn(Direction) -> Box<dyn Framer> + Send + Sync>),
}

impl Framing {
    pub(crate) fn framer(&self, direction: Direction) -> Box<dyn Framer> {
        match self {
            Framing::Chunks => Box::new(Chunks),
            Framing::LengthPrefixed => Box::new(LengthPrefixed),
            Framing::Http2 => {
                Box::new(Http2 { preface_expected: direction == Direction::ToServer })
            }
            Framing::Custom(make) => make(direction),
        }
    }
}

impl fmt::Debug for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Framing::Chunks => "Chunks",
            Framing::LengthPrefixed => "LengthPrefixed",
            Framing::Http2 => "Http2",
            Framing::Custom(_) => "Custom",
        })
    }
}

/// More than any server under test sends in one message; beyond it the length is not a length.
const MESSAGE_LEN_MAX: usize = 64 << 20;

pub(crate) struct Chunks;

impl Framer for Chunks {
    fn split(&mut self, buffered: &[u8]) -> Split {
        Split::Message(Head {
            len: buffered.len(),
            header_len: 0,
            tag: Tag::Chunk,
            correlation: None,
        })
    }
}

struct LengthPrefixed;

impl Framer for LengthPrefixed {
    fn split(&mut self, buffered: &[u8]) -> Split {
        let Some(prefix) = buffered.first_chunk::<4>() else { return Split::Incomplete };
        let len = 4 + u32::from_be_bytes(*prefix) as usize;
        if len > MESSAGE_LEN_MAX {
            return Split::Unframed;
        }
        if buffered.len() < len {
            return Split::Incomplete;
        }
        let correlation = buffered.get(4..len).and_then(<[u8]>::first_chunk::<4>);
        Split::Message(Head {
            len,
            header_len: 4,
            tag: Tag::Record,
            correlation: correlation.map(|bytes| u64::from(u32::from_be_bytes(*bytes))),
        })
    }
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HTTP2_DATA: u8 = 0;
const HTTP2_HEADERS: u8 = 1;
const HTTP2_RST_STREAM: u8 = 3;
const HTTP2_CONTINUATION: u8 = 9;

struct Http2 {
    preface_expected: bool,
}

impl Framer for Http2 {
    fn split(&mut self, buffered: &[u8]) -> Split {
        if self.preface_expected {
            return self.split_preface(buffered);
        }
        let Some(&[a, b, c, kind, flags, d, e, f, g]) = buffered.first_chunk::<9>() else {
            return Split::Incomplete;
        };
        let len = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if buffered.len() < len {
            return Split::Incomplete;
        }
        let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
        let belongs_to_stream =
            matches!(kind, HTTP2_DATA | HTTP2_HEADERS | HTTP2_RST_STREAM | HTTP2_CONTINUATION);
        Split::Message(Head {
            len,
            header_len: 9,
            tag: Tag::Http2 { kind, flags, stream },
            correlation: belongs_to_stream.then_some(u64::from(stream)),
        })
    }
}

impl Http2 {
    fn split_preface(&mut self, buffered: &[u8]) -> Split {
        if buffered.starts_with(HTTP2_PREFACE) {
            self.preface_expected = false;
            let len = HTTP2_PREFACE.len();
            return Split::Message(Head {
                len,
                header_len: len,
                tag: Tag::Preface,
                correlation: None,
            });
        }
        if HTTP2_PREFACE.starts_with(buffered) { Split::Incomplete } else { Split::Unframed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(split: Split) -> Head {
        match split {
            Split::Message(head) => head,
            other => panic!("no message: {other:?}"),
        }
    }

    #[test]
    fn record_is_complete_with_its_last_byte() {
        let record = [0, 0, 0, 6, 0, 0, 0, 9, b'h', b'i', b'!'];
        assert_eq!(LengthPrefixed.split(&record[..9]), Split::Incomplete);
        let head = head(LengthPrefixed.split(&record));
        assert_eq!((head.len, head.correlation), (10, Some(9)));
    }

    #[test]
    fn four_letter_word_is_no_record() {
        assert_eq!(LengthPrefixed.split(b"ruok"), Split::Unframed);
    }

    #[test]
    fn http2_begins_with_the_preface_only_from_the_client() {
        let mut framer = Framing::Http2.framer(Direction::ToServer);
        assert_eq!(framer.split(b"PRI *"), Split::Incomplete);
        assert_eq!(head(framer.split(HTTP2_PREFACE)).tag, Tag::Preface);
        let ping = [0, 0, 1, 0, 1, 0x80, 0, 0, 7, b'x'];
        let head = head(framer.split(&ping));
        assert_eq!(head.tag, Tag::Http2 { kind: 0, flags: 1, stream: 7 });
        assert_eq!((head.len, head.correlation), (10, Some(7)));
        assert_eq!(
            Framing::Http2.framer(Direction::ToServer).split(b"GET / HTTP/1.1\r\n"),
            Split::Unframed
        );
    }
}
