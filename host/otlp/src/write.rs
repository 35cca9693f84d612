//! Messages written field by field, without being built first: for those who make very many of one
//! kind. What has no value is left out by whoever writes.

use crate::wire::put_varint;

/// Appends a message whose fields `fields` appends.
pub fn message(out: &mut Vec<u8>, number: u32, fields: impl FnOnce(&mut Vec<u8>)) {
    key(out, number, 2);
    let begin = out.len();
    // Most are short: room for a length of one byte.
    out.push(0);
    fields(out);
    let length = out.len() - begin - 1;
    if let (Ok(short @ ..0x80), Some(place)) = (u8::try_from(length), out.get_mut(begin)) {
        *place = short;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    put_varint(&mut prefix, length as u64);
    out.splice(begin..=begin, prefix);
}

/// Appends a text.
pub fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    bytes(out, number, value.as_bytes());
}

/// Appends bytes.
pub fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    key(out, number, 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a number of up to ten bytes: an integer, a boolean or one of an enumeration.
pub fn varint(out: &mut Vec<u8>, number: u32, value: u64) {
    key(out, number, 0);
    put_varint(out, value);
}

/// Appends a number of eight bytes.
pub fn fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    key(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a number of four bytes.
pub fn fixed32(out: &mut Vec<u8>, number: u32, value: u32) {
    key(out, number, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

fn key(out: &mut Vec<u8>, number: u32, kind: u32) {
    put_varint(out, u64::from(number << 3 | kind));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{AnyValue, Event, KeyValue, Span, Value};
    use proptest::prelude::*;
    use prost::Message;

    #[test]
    fn what_is_written_is_what_prost_writes() {
        for length in [0, 1, 100, 117, 118, 119, 120, 127, 128, 16_000, 20_000] {
            let (key, value) = ("k", "x".repeat(length));
            let attribute = KeyValue::text(key, value.clone());
            let event = Event {
                time_unix_nano: 7,
                attributes: vec![attribute.clone()],
                ..Event::default()
            };
            let span = Span {
                trace_id: vec![1; 16],
                kind: 300,
                flags: 0x101,
                attributes: vec![attribute],
                events: vec![event],
                ..Span::default()
            };
            let attribute = |out: &mut Vec<u8>, number: u32| {
                message(out, number, |out| {
                    text(out, 1, key);
                    message(out, 2, |out| text(out, 1, &value));
                });
            };
            let mut written = Vec::new();
            bytes(&mut written, 1, &[1; 16]);
            varint(&mut written, 6, 300);
            attribute(&mut written, 9);
            message(&mut written, 11, |out| {
                fixed64(out, 1, 7);
                attribute(out, 3);
            });
            fixed32(&mut written, 16, 0x101);
            assert_eq!(written, span.encode_to_vec(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_written_as_prost_writes_it(value: i64) {
            let wanted = AnyValue { value: Some(Value::Int(value)) }.encode_to_vec();
            let mut written = Vec::new();
            varint(&mut written, 3, value.cast_unsigned());
            prop_assert_eq!(written, wanted);
        }
    }
}
