//! The grammar of keys and lock names, and the ranges that prefixes cover.
//!
//! A key is a path of non-empty segments between `/`. Control characters, `%`, and the segments `.`
//! and `..` stand percent-escaped with upper-case digits, and nothing else does: every key has one
//! spelling, so that two texts are the same key only when their bytes are.

use super::{Result, StoreError};

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Refuses what is no key.
pub fn check_key(key: &str) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(StoreError::TooLarge {
            limit: "key_bytes_max",
            what: "the key's length in bytes",
            actual: key.len() as u64,
            max: KEY_BYTES_MAX as u64,
        });
    }
    match key.split('/').find_map(fault_of_segment) {
        None => Ok(()),
        Some(fault) => Err(StoreError::invalid(format!("`{}` is no key: {fault}", shown(key)))),
    }
}

/// Refuses what is neither a key nor empty.
pub fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.is_empty() { Ok(()) } else { check_key(prefix) }
}

/// Refuses what is no name of a service or an instance.
pub fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(StoreError::invalid(format!(
            "`{}` is no {what}: it takes 1 to 255 bytes without control characters",
            shown(name)
        )));
    }
    Ok(())
}

/// Whether `key` lies below `prefix`.
pub(crate) fn is_below(key: &str, prefix: &str) -> bool {
    prefix.is_empty() || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

/// First and last-but-one text of what lies below a prefix; no end when the prefix is empty.
pub(crate) fn bounds_below(prefix: &str) -> (String, Option<String>) {
    if prefix.is_empty() {
        return (String::new(), None);
    }
    // '0' is the character after '/'.
    (format!("{prefix}/"), Some(format!("{prefix}0")))
}

fn fault_of_segment(segment: &str) -> Option<&'static str> {
    match segment {
        "" => return Some("it has an empty segment"),
        "." | ".." => return Some("the segments `.` and `..` are written %2E and %2E%2E"),
        "%2E" | "%2E%2E" => return None,
        _ => {}
    }
    if segment.chars().any(char::is_control) {
        return Some("control characters are written percent-escaped");
    }
    let mut rest = segment;
    while let Some(start) = rest.find('%') {
        match escape_length(rest.get(start..).unwrap_or_default()) {
            Some(length) => rest = rest.get(start + length..).unwrap_or_default(),
            None => {
                return Some(
                    "`%` begins an escape of a control character or of `%` itself, \
                     in upper-case digits",
                );
            }
        }
    }
    None
}

/// Length of the escape that `text` begins with, if it escapes what has to be escaped.
fn escape_length(text: &str) -> Option<usize> {
    let first = escaped_byte(text)?;
    match first {
        b'%' | 0x00..=0x1F | 0x7F => Some(3),
        // U+0080 to U+009F, the control characters of two bytes.
        0xC2 => match escaped_byte(text.get(3..)?)? {
            0x80..=0x9F => Some(6),
            _ => None,
        },
        _ => None,
    }
}

fn escaped_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('%')?.get(..2)?;
    if digits.bytes().any(|digit| !matches!(digit, b'0'..=b'9' | b'A'..=b'F')) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// A text for messages: without control characters, and not endless.
fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_spelling() {
        for good in
            ["a", "app/db/url", "ü/☃", "100%25", "%0A", "%C2%85", "%2E", "%2E%2E/x", "...", ".a"]
        {
            check_key(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "a/..", "a\nb", "\u{85}", "100%", "%0a", "%41",
            "%2E.", "%C2", "%C3%A4", "%2F", "%zz", "%é1",
        ] {
            assert!(check_key(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(check_key(&"k".repeat(1_024)).is_ok());
        assert!(matches!(check_key(&"k".repeat(1_025)), Err(StoreError::TooLarge { .. })));
    }

    #[test]
    fn a_prefix_covers_what_lies_below_it_and_nothing_else() {
        assert!(is_below("a/b/c", "a/b"));
        assert!(is_below("a", ""));
        assert!(!is_below("a/b", "a/b"));
        assert!(!is_below("a/bc", "a/b"));
        let (first, end) = bounds_below("a/b");
        for key in ["a/b/c", "a/b/c/d", "a/b", "a/bc", "a/b!", "a"] {
            let inside = key >= first.as_str() && end.as_deref().is_none_or(|end| key < end);
            assert_eq!(inside, is_below(key, "a/b"), "{key}");
        }
    }
}
