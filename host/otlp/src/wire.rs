//! Protobuf below the level of messages: fields one after the other.

use crate::parts::Malformed;
use prost::bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::encoded_len_varint;

/// One field as it stands in a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// What follows the length, for a field that has one (texts, bytes, messages).
    pub content: Option<Bytes>,
    /// The whole field, key and length included.
    pub whole: Bytes,
}

/// The fields of a message, in their order.
///
/// The iterator ends after the first error.
pub fn fields(message: Bytes) -> Fields {
    Fields { rest: message }
}

/// Iterates over the fields of a message.
#[derive(Debug)]
pub struct Fields {
    rest: Bytes,
}

impl Iterator for Fields {
    type Item = Result<Field, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = take(&mut self.rest);
        if field.is_err() {
            self.rest = Bytes::new();
        }
        Some(field)
    }
}

fn take(rest: &mut Bytes) -> Result<Field, Malformed> {
    let all: &[u8] = rest;
    let mut cursor = all;
    let (number, value) = next_raw(&mut cursor)?;
    let length = all.len() - cursor.len();
    let content_len = match value {
        Raw::Bytes(content) => Some(content.len()),
        Raw::Varint(_) | Raw::Fixed64(_) | Raw::Fixed32(_) => None,
    };
    let whole = rest.split_to(length);
    let content = content_len.map(|content| whole.slice(length - content..));
    Ok(Field { number, content, whole })
}

/// The value of a field, before anything is known of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw<'a> {
    /// A number of up to ten bytes.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes.
    Fixed32(u32),
    /// A text, bytes, a message, or several numbers.
    Bytes(&'a [u8]),
}

/// Takes number and value of the first field; there has to be one.
///
/// # Errors
/// [`Malformed`] when the bytes are no field.
pub fn next_raw<'a>(rest: &mut &'a [u8]) -> Result<(u32, Raw<'a>), Malformed> {
    let key = u32::try_from(varint(rest)?)
        .map_err(|_| Malformed::new("a field has a number that is too large"))?;
    let (number, kind) = (key >> 3, key & 7);
    if number == 0 {
        return Err(Malformed::new("a field has no number"));
    }
    let value = match kind {
        0 => Raw::Varint(varint(rest)?),
        1 => Raw::Fixed64(u64::from_le_bytes(array(rest)?)),
        5 => Raw::Fixed32(u32::from_le_bytes(array(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| Malformed::too_short())?;
            let (content, tail) = rest.split_at_checked(length).ok_or_else(Malformed::too_short)?;
            *rest = tail;
            Raw::Bytes(content)
        }
        _ => return Err(Malformed::new("a field has a kind that is not used any more")),
    };
    Ok((number, value))
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (array, tail) = rest.split_first_chunk().ok_or_else(Malformed::too_short)?;
    *rest = tail;
    Ok(*array)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or_else(Malformed::too_short)?;
        *rest = tail;
        // Of the tenth byte one bit is left.
        if shift == 63 && *byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::new("a number has more than 64 bits"))
}

/// Appends a field of bytes, a text or a message.
pub fn put_bytes(out: &mut BytesMut, number: u32, content: &[u8]) {
    put_key(out, number, content.len());
    out.put_slice(content);
}

/// Appends key and length of a field whose content follows.
pub fn put_key(out: &mut BytesMut, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

/// Bytes that a field takes with a content of this length.
pub(crate) fn field_len(number: u32, content_len: usize) -> usize {
    encoded_len_varint(u64::from(number) << 3)
        + encoded_len_varint(content_len as u64)
        + content_len
}

pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_put_together_are_the_message(
            parts in prop::collection::vec((1_u32..40_000, prop::collection::vec(any::<u8>(), 0..200)), 0..8),
        ) {
            let mut message = BytesMut::new();
            for (number, content) in &parts {
                put_bytes(&mut message, *number, content);
            }
            let message = message.freeze();
            let mut again = BytesMut::new();
            for (field, (number, content)) in fields(message.clone()).zip(&parts) {
                let field = field.unwrap();
                prop_assert_eq!(field.number, *number);
                prop_assert_eq!(field.content.as_deref(), Some(content.as_slice()));
                again.put_slice(&field.whole);
            }
            prop_assert_eq!(again.freeze(), message);
        }

        /// Decoders of receivers refuse a whole batch over a number that is none.
        #[test]
        fn a_number_is_read_exactly_when_prost_reads_it(
            bytes in prop::collection::vec(prop_oneof![3 => Just(0x80_u8), 3 => 0x80..=0xff_u8, 1 => any::<u8>()], 1..12),
        ) {
            let (mut ours, mut theirs) = (bytes.as_slice(), bytes.as_slice());
            prop_assert_eq!(varint(&mut ours).ok(), prost::encoding::decode_varint(&mut theirs).ok());
            let (mut ours, mut theirs) = (bytes.as_slice(), bytes.as_slice());
            let key = prost::encoding::decode_key(&mut theirs);
            if next_raw(&mut ours).is_ok() {
                prop_assert!(key.is_ok(), "{:?}", key);
            }
        }

        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(input in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(fields(Bytes::from(input.clone())).count() <= input.len() + 1);
        }
    }
}
