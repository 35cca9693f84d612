//! Values of attributes as texts, for receivers that know nothing else.

use crate::{AnyValue, KeyValue, Value};
use std::fmt::Write as _;

/// As deep as values are followed; below that stands `…`.
const DEPTH_MAX: usize = 16;

/// A value as a text: a text as it is, everything else as JSON. Bytes are hexadecimal digits.
pub fn value_text(value: Option<&AnyValue>) -> String {
    let mut out = String::new();
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::String(text)) => out.push_str(text),
        Some(Value::Bytes(bytes)) => out.push_str(&hex(bytes)),
        Some(value) => write_json(&mut out, value, DEPTH_MAX),
        None => {}
    }
    out
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit =
        |nibble: u8| DIGITS.get(usize::from(nibble)).map_or('0', |digit| char::from(*digit));
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
    }
    out
}

/// The bytes of hexadecimal digits in either case; none when they are not of this many bytes.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (high, low) = (pair.first()?, pair.get(1)?);
        let high = char::from(*high).to_digit(16)?;
        let low = char::from(*low).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

fn write_json(out: &mut String, value: &Value, depth: usize) {
    // Writing to a string cannot fail.
    let _ = match value {
        Value::String(text) => {
            write_json_text(out, text);
            Ok(())
        }
        Value::Bytes(bytes) => write!(out, "\"{}\"", hex(bytes)),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Int(value) => write!(out, "{value}"),
        Value::Double(value) => write!(out, "{value}"),
        Value::Array(_) | Value::KeyValues(_) if depth == 0 => write!(out, "\"…\""),
        Value::Array(array) => {
            out.push('[');
            for (index, value) in array.values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_inner(out, Some(value), depth - 1);
            }
            out.push(']');
            Ok(())
        }
        Value::KeyValues(list) => {
            out.push('{');
            for (index, KeyValue { key, value }) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json_text(out, key);
                out.push(':');
                write_inner(out, value.as_ref(), depth - 1);
            }
            out.push('}');
            Ok(())
        }
    };
}

fn write_inner(out: &mut String, value: Option<&AnyValue>, depth: usize) {
    match value.and_then(|value| value.value.as_ref()) {
        Some(value) => write_json(out, value, depth),
        None => out.push_str("null"),
    }
}

fn write_json_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArrayValue, KeyValueList};
    use proptest::prelude::*;

    fn wrapped(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    #[test]
    fn a_text_stays_as_it_is_and_the_rest_becomes_json() {
        let text = |value| value_text(Some(&wrapped(value)));
        assert_eq!(text(Value::String("a \"b\"".into())), "a \"b\"");
        assert_eq!(text(Value::Int(-3)), "-3");
        assert_eq!(text(Value::Double(0.5)), "0.5");
        assert_eq!(text(Value::Bool(true)), "true");
        assert_eq!(text(Value::Bytes(vec![0, 255])), "00ff");
        let array = ArrayValue {
            values: vec![wrapped(Value::String("a\n\"".into())), AnyValue { value: None }],
        };
        assert_eq!(text(Value::Array(array)), "[\"a\\n\\\"\",null]");
        let list = KeyValueList { values: vec![KeyValue::new("k", Value::Int(1))] };
        assert_eq!(text(Value::KeyValues(list)), "{\"k\":1}");
        assert_eq!(value_text(None), "");
    }

    #[test]
    fn a_value_of_any_depth_has_a_text() {
        let mut value = wrapped(Value::Int(1));
        for _ in 0..60 {
            value = wrapped(Value::Array(ArrayValue { values: vec![value] }));
        }
        assert!(value_text(Some(&value)).contains('…'));
    }

    proptest! {
        #[test]
        fn hexadecimal_digits_are_read_back(bytes: [u8; 16]) {
            prop_assert_eq!(from_hex::<16>(&hex(&bytes)), Some(bytes));
            prop_assert_eq!(from_hex::<16>(&hex(&bytes).to_uppercase()), Some(bytes));
        }

        #[test]
        fn what_is_no_id_is_refused(text in ".{0,40}") {
            let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            prop_assert_eq!(from_hex::<8>(&text).is_some(), is_id);
        }
    }
}
