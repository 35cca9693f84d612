//! The client protocol of ZooKeeper: jute records in frames. Pure: bytes in, records out.
//!
//! The records are those of `zookeeper.jute`; each request says where it came into being, since
//! servers from 3.5 on are served.

mod code;
mod connect;
mod jute;
mod multi;
mod record;
mod request;

pub use code::ErrorCode;
pub use connect::{ConnectRequest, ConnectResponse};
pub use jute::{Decoder, Encoder, Malformed};
pub use multi::{Multi, MultiOutcome, MultiRead, Op, OpResult};
pub use record::{Acl, Event, EventKind, ReplyHeader, Stat};
pub use request::{
    AddWatch, Auth, Children, CloseSession, Content, Create, CreateMode, Delete, Ephemerals,
    Exists, GetData, Ping, RemoveWatches, Request, SetData, SetWatches, SetWatches2, Sync,
    WatchMode,
};

/// Xid of what the server sends unasked: events of watches.
pub const XID_EVENT: i32 = -1;
/// Xid of pings, which are answered in no order.
pub const XID_PING: i32 = -2;

/// Bytes of the length before each frame.
pub const FRAME_HEAD: usize = 4;

/// Begins a frame whose length is filled in by [`end_frame`].
#[must_use]
pub fn begin_frame(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    at
}

/// Ends the frame that began at `at`, and answers how many bytes it holds.
pub fn end_frame(out: &mut [u8], at: usize) -> usize {
    let length = out.len().saturating_sub(at + FRAME_HEAD);
    let head = i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes();
    if let Some(place) = out.get_mut(at..at + FRAME_HEAD) {
        place.copy_from_slice(&head);
    }
    length
}

/// The first whole frame of what came in, without its length; nothing while it is incomplete.
///
/// # Errors
///
/// When the length is negative or above `bytes_max`: no memory is taken for it.
pub fn split_frame(input: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, Malformed> {
    let Some((head, rest)) = input.split_first_chunk::<FRAME_HEAD>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*head))
        .ok()
        .filter(|length| *length <= bytes_max)
        .ok_or(Malformed("a frame's length is out of bounds"))?;
    Ok(rest.get(..length))
}

/// How long the frame is at whose head `input` stands, if that is more than `bytes_max`.
#[must_use]
pub fn oversized_frame(input: &[u8], bytes_max: usize) -> Option<usize> {
    let head = input.first_chunk::<FRAME_HEAD>()?;
    usize::try_from(i32::from_be_bytes(*head)).ok().filter(|length| *length > bytes_max)
}

#[cfg(test)]
mod tests;
