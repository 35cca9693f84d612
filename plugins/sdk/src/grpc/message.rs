//! One message in a body: a flag, its length in four bytes, itself
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use super::{MESSAGE_BYTES_MAX, TOO_LARGE};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

/// Bytes before each message.
pub(super) const PREFIX_BYTES: usize = 5;
const PLAIN: u8 = 0;
#[cfg(feature = "gzip")]
const COMPRESSED: u8 = 1;

/// A body of one message.
///
/// # Errors
///
/// `invalid-argument` when it has more than 4 GiB.
pub(super) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let mut body = begin(PLAIN, message.encoded_len())?;
    // There is room for all of it.
    message.encode_raw(&mut body);
    Ok(body.freeze())
}

/// The same, compressed.
///
/// # Errors
///
/// As [`frame`].
#[cfg(feature = "gzip")]
pub(super) fn frame_gzip(message: &impl Message) -> Result<Bytes, Status> {
    let packed = crate::gzip::compress(&message.encode_to_vec());
    let mut body = begin(COMPRESSED, packed.len())?;
    body.put_slice(&packed);
    Ok(body.freeze())
}

/// What stands before a message of this length, with room for that.
fn begin(flag: u8, length: usize) -> Result<BytesMut, Status> {
    let told = u32::try_from(length)
        .map_err(|_| Status::invalid_argument(format!("a message of {length} bytes")))?;
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(flag);
    body.put_u32(told);
    Ok(body)
}

/// The one message of a body.
///
/// # Errors
///
/// When the body is not exactly one message of this type, plain or compressed in a way that this plugin
/// knows.
pub(super) fn unframe<A: Message + Default>(mut body: Bytes) -> Result<A, Status> {
    if body.len() < PREFIX_BYTES {
        return Err(malformed("it has no whole message"));
    }
    let compressed = body.get_u8() != PLAIN;
    let length = usize::try_from(body.get_u32()).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(too_large(length));
    }
    if length != body.len() {
        return Err(malformed("it is not one message"));
    }
    let body = if compressed { unpack(&body)? } else { body };
    A::decode(body).map_err(|error| malformed(&error.to_string()))
}

/// Servers compress their answers as the request was.
#[cfg(feature = "gzip")]
fn unpack(body: &Bytes) -> Result<Bytes, Status> {
    crate::gzip::decompress(body, MESSAGE_BYTES_MAX).map_err(|error| malformed(&error.to_string()))
}

#[cfg(not(feature = "gzip"))]
fn unpack(_: &Bytes) -> Result<Bytes, Status> {
    Err(malformed("it is compressed, which was not asked for"))
}

pub(super) fn too_large(length: usize) -> Status {
    let message = format!("{TOO_LARGE}: at least {length} bytes, at most {MESSAGE_BYTES_MAX}");
    Status::out_of_range(message)
}

fn malformed(problem: &str) -> Status {
    Status::internal(format!("the answer cannot be read: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Text {
        #[prost(string, tag = "1")]
        text: String,
    }

    #[cfg(feature = "gzip")]
    #[test]
    fn a_compressed_message_says_so_and_how_long_it_is() {
        let message = Text { text: "long".repeat(1_000) };
        let mut body = frame_gzip(&message).unwrap();
        assert_eq!(unframe::<Text>(body.clone()).unwrap(), message);
        assert_eq!(body.get_u8(), 1);
        assert_eq!(usize::try_from(body.get_u32()).unwrap(), body.len());
        assert!(body.len() * 10 < message.encoded_len());
    }

    #[test]
    fn a_framed_message_is_read_again() {
        for text in ["", "x", &"long".repeat(10_000)] {
            let message = Text { text: text.to_owned() };
            let body = frame(&message).unwrap();
            assert_eq!(body.len(), PREFIX_BYTES + message.encoded_len());
            assert_eq!(unframe::<Text>(body).unwrap(), message);
        }
    }

    #[test]
    fn bodies_that_are_not_one_plain_message_are_refused() {
        let good = frame(&Text { text: "good".to_owned() }).unwrap();
        let with = |change: fn(&mut Vec<u8>)| {
            let mut body = good.to_vec();
            change(&mut body);
            unframe::<Text>(body.into()).unwrap_err()
        };
        assert_eq!(unframe::<Text>(Bytes::new()).unwrap_err().code(), Code::Internal);
        for change in [
            |body: &mut Vec<u8>| body[0] = 1,
            |body: &mut Vec<u8>| body.truncate(PREFIX_BYTES - 1),
            |body: &mut Vec<u8>| body.push(0),
            |body: &mut Vec<u8>| body.truncate(body.len() - 1),
            |body: &mut Vec<u8>| body[PREFIX_BYTES] = 0xff,
        ] {
            assert_eq!(with(change).code(), Code::Internal);
        }
        let huge = with(|body| body[1] = 0xff);
        assert!(super::super::is_too_large(&huge), "{huge}");
    }
}
