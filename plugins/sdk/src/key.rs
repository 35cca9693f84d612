//! How keys and names become paths in a backend, and back.
//!
//! A configuration key has one spelling (see the WIT package `pintle:config`): control characters,
//! `%`, and the segments `.` and `..` stand percent-escaped. What others wrote into the backend has
//! none of that, so a plugin translates at its border.

use percent_encoding::percent_decode_str;
use std::fmt::Write;

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 1_024;

/// The path that a key names: its escapes undone.
///
/// ```
/// assert_eq!(pintle_plugin_sdk::key::to_path("app/100%25"), "app/100%");
/// ```
pub fn to_path(key: &str) -> String {
    percent_decode_str(key).decode_utf8_lossy().into_owned()
}

/// The key that names a path, unless none can: a path with an empty segment, or one whose key would
/// be longer than [`KEY_BYTES_MAX`].
pub fn from_path(path: &str) -> Option<String> {
    let mut key = String::with_capacity(path.len());
    for (position, segment) in path.split('/').enumerate() {
        if position > 0 {
            key.push('/');
        }
        match segment {
            "" => return None,
            "." => key.push_str("%2E"),
            ".." => key.push_str("%2E%2E"),
            _ => segment.chars().for_each(|character| push_escaped(&mut key, character)),
        }
    }
    (key.len() <= KEY_BYTES_MAX).then_some(key)
}

fn push_escaped(key: &mut String, character: char) {
    if character != '%' && !character.is_control() {
        return key.push(character);
    }
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a `String` cannot fail.
        let _ = write!(key, "%{byte:02X}");
    }
}

/// A name (of a service, an instance, a lock) as one segment of a path.
///
/// ```
/// assert_eq!(pintle_plugin_sdk::key::to_segment("shop/eu"), "shop%2Feu");
/// ```
pub fn to_segment(name: &str) -> String {
    match name {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => name.replace('%', "%25").replace('/', "%2F"),
    }
}

/// The name that stands in a segment, unless it is not one that [`to_segment`] writes.
pub fn from_segment(segment: &str) -> Option<String> {
    let name = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
    (!segment.is_empty() && to_segment(&name) == segment).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_key_cannot_hold_is_escaped() {
        for (path, key) in [
            ("app/db/url", "app/db/url"),
            ("100%", "100%25"),
            ("a\nb", "a%0Ab"),
            ("\u{85}", "%C2%85"),
            ("./..", "%2E/%2E%2E"),
            ("...", "..."),
            ("ü/☃", "ü/☃"),
        ] {
            assert_eq!(from_path(path).as_deref(), Some(key));
            assert_eq!(to_path(key), path);
        }
    }

    #[test]
    fn what_no_key_can_name_is_said() {
        for path in ["", "/", "/a", "a/", "a//b"] {
            assert_eq!(from_path(path), None, "{path:?}");
        }
        assert!(from_path(&"k".repeat(1_024)).is_some());
        assert_eq!(from_path(&"k".repeat(1_025)), None);
        assert_eq!(from_path(&"%".repeat(400)), None, "too long once it is escaped");
    }

    #[test]
    fn segments_that_were_not_written_here_are_refused() {
        for segment in ["", "%41", "%2f", "100%", ".", "%FF", "a/b"] {
            assert_eq!(from_segment(segment), None, "{segment:?}");
        }
    }

    proptest! {
        #[test]
        fn paths_survive_the_way_through_a_key(path in any::<String>()) {
            if let Some(key) = from_path(&path) {
                prop_assert_eq!(to_path(&key), path);
            }
        }

        #[test]
        fn names_survive_the_way_through_a_segment(name in ".{1,40}") {
            let segment = to_segment(&name);
            prop_assert!(!segment.contains('/'));
            prop_assert_eq!(from_segment(&segment), Some(name));
        }
    }
}
