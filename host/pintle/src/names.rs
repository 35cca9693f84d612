//! What names may look like; the contracts in `wit/` say why.

use crate::error::Refusal;

const KEY_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 255;

/// Refuses what is no key: `argument` says what it was meant to be.
pub(crate) fn check_key(argument: &'static str, key: &str) -> Result<(), Refusal> {
    let problem = if key.is_empty() {
        "is empty".to_owned()
    } else if key.len() > KEY_BYTES_MAX {
        format!("has {} bytes; the limit is {KEY_BYTES_MAX}", key.len())
    } else if key.starts_with('/') || key.ends_with('/') {
        format!("\"{key}\" begins or ends with \"/\"; write \"{}\"", key.trim_matches('/'))
    } else if key.contains("//") {
        format!("\"{key}\" has an empty segment between two \"/\"")
    } else if let Some(segment) = key.split('/').find(|segment| matches!(*segment, "." | "..")) {
        let escaped = segment.replace('.', "%2E");
        format!("\"{key}\" has the segment \"{segment}\"; write it as \"{escaped}\"")
    } else if let Some(problem) = escaping_problem(key) {
        problem
    } else {
        return Ok(());
    };
    Err(Refusal::Invalid { argument, problem })
}

/// Refuses what is no prefix: empty, or a key.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), Refusal> {
    if prefix.is_empty() { Ok(()) } else { check_key("prefix", prefix) }
}

/// Refuses what is no name of a service or instance.
pub(crate) fn check_name(argument: &'static str, name: &str) -> Result<(), Refusal> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("has {} bytes; the limit is {NAME_BYTES_MAX}", name.len())
    } else if name.chars().any(char::is_control) {
        format!("{name:?} has control characters")
    } else {
        return Ok(());
    };
    Err(Refusal::Invalid { argument, problem })
}

/// Each key has one spelling: what needs escaping is escaped, in upper case, and nothing else is.
fn escaping_problem(key: &str) -> Option<String> {
    if let Some(control) = key.chars().find(|character| character.is_ascii_control()) {
        let byte = u32::from(control);
        return Some(format!("{key:?} has a control character; write it as \"%{byte:02X}\""));
    }
    let mut rest = key;
    while let Some((_, after)) = rest.split_once('%') {
        let digits = after.get(..2).unwrap_or(after);
        let upper = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2);
        let Some(byte) = byte.filter(|_| digits.bytes().all(upper)) else {
            return Some(format!(
                "\"{key}\" has a \"%\" without two upper-case hexadecimal digits; write it as \"%25\""
            ));
        };
        let needs_escaping =
            byte.is_ascii_control() || byte == b'%' || byte == b'.' || byte >= 0x80;
        if !needs_escaping {
            let plain = char::from(byte);
            return Some(format!("\"{key}\" escapes \"{plain}\", which needs no escaping"));
        }
        rest = after.get(2..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_with_one_spelling() {
        for key in ["a", "app/db/url", "ä/ö", "a b", "50%25", "%2E%2E/x", "a%00"] {
            check_key("key", key).unwrap();
        }
        for key in ["", "/a", "a/", "a//b", ".", "a/../b", "50%", "%2e", "%41", "a\nb", "%G0"] {
            assert!(check_key("key", key).is_err(), "{key:?}");
        }
        assert!(check_key("key", &"a".repeat(1025)).is_err());
    }

    #[test]
    fn a_refusal_says_how_to_write_it() {
        let refusal = check_key("key", "/a/b/").unwrap_err();
        assert_eq!(refusal.to_string(), "key: \"/a/b/\" begins or ends with \"/\"; write \"a/b\"");
    }
}
