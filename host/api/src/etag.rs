//! Versions as entity tags (RFC 9110 section 8.8.3), and the preconditions written with them.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What an entity tag cannot hold, and the escape character itself.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b',');

/// A precondition header that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTag(pub String);

impl std::fmt::Display for InvalidTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is neither `*` nor an entity tag in quotes, as ETag gives it", self.0)
    }
}

impl std::error::Error for InvalidTag {}

/// What `If-Match` or `If-None-Match` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any.
    Any,
    /// Versions.
    Versions(Vec<String>),
}

/// The entity tag of a version.
#[must_use]
pub fn format(version: &str) -> String {
    format!("\"{}\"", utf8_percent_encode(version, UNSAFE))
}

/// The version in one entity tag.
///
/// # Errors
/// The text is not one entity tag in quotes.
pub fn version(tag: &str) -> Result<String, InvalidTag> {
    let invalid = || InvalidTag(tag.into());
    // A proxy that compresses makes tags weak; the version in them is still the same.
    let quoted = tag.strip_prefix("W/").unwrap_or(tag);
    let inner = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|inner| !inner.contains('"'))
        .ok_or_else(invalid)?;
    let decoded = percent_decode_str(inner).decode_utf8().map_err(|_| invalid())?;
    Ok(decoded.into_owned())
}

/// Reads `If-Match` or `If-None-Match`.
///
/// # Errors
/// A member of the list is not an entity tag in quotes.
pub fn parse(header: &str) -> Result<Tags, InvalidTag> {
    if header.trim() == "*" {
        return Ok(Tags::Any);
    }
    header.split(',').map(|tag| version(tag.trim())).collect::<Result<_, _>>().map(Tags::Versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_back_whatever_they_contain() {
        for text in ["17", "a\"b", "x, y", "50%", "zk:12.3", "ü", "", "new\nline"] {
            let tag = format(text);
            assert!(tag.is_ascii(), "{tag}");
            assert_eq!(version(&tag).unwrap(), text);
            assert_eq!(parse(&tag).unwrap(), Tags::Versions(vec![text.into()]));
        }
    }

    #[test]
    fn a_list_a_star_and_a_weak_tag_are_understood() {
        assert_eq!(parse("*").unwrap(), Tags::Any);
        let both = Tags::Versions(vec!["1".into(), "2".into()]);
        assert_eq!(parse("\"1\", W/\"2\"").unwrap(), both);
    }

    #[test]
    fn a_version_without_quotes_is_refused() {
        assert!(parse("17").is_err());
        assert!(parse("\"17").is_err());
        assert!(parse("").is_err());
    }
}
