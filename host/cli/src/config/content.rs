//! Whether a value is what it says it is: JSON, YAML, TOML or properties.

use serde::de::IgnoredAny;

/// A form that can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Yaml,
    Toml,
    Properties,
}

impl Kind {
    /// What a media type promises.
    pub(super) fn of_media_type(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" | "text/json" => Some(Self::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => {
                Some(Self::Yaml)
            }
            "application/toml" | "text/toml" => Some(Self::Toml),
            "text/x-java-properties" | "text/x-properties" => Some(Self::Properties),
            other if other.ends_with("+json") => Some(Self::Json),
            other if other.ends_with("+yaml") => Some(Self::Yaml),
            _ => None,
        }
    }

    /// What the end of a key promises.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        let (_, extension) = key.rsplit('/').next()?.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            "properties" => Some(Self::Properties),
            _ => None,
        }
    }

    /// What a value promises: by its media type, or else by its key.
    pub(super) fn of(key: &str, media_type: Option<&str>) -> Option<Self> {
        media_type.and_then(Self::of_media_type).or_else(|| Self::of_key(key))
    }

    /// Ending of a file with such a value.
    pub(super) const fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Properties => "properties",
        }
    }
}

/// What is wrong with a value, with its place.
pub(super) fn check(kind: Kind, value: &[u8]) -> Result<(), String> {
    let not = |name: &str, error: &dyn std::fmt::Display| {
        Err(format!("no valid {name}: {}", error.to_string().trim_end()))
    };
    let text = match std::str::from_utf8(value) {
        Ok(text) => text,
        Err(error) => return not(kind.extension(), &error),
    };
    match kind {
        Kind::Json => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Ok(()),
            Err(error) => not("JSON", &error),
        },
        Kind::Yaml => match serde_saphyr::from_multiple::<serde_json::Value>(text) {
            Ok(_) => Ok(()),
            Err(error) => not("YAML", &error),
        },
        Kind::Toml => match toml::from_str::<toml::Table>(text) {
            Ok(_) => Ok(()),
            Err(error) => not("TOML", &error),
        },
        Kind::Properties => match properties_fault(text) {
            None => Ok(()),
            Some(fault) => not("properties", &fault),
        },
    }
}

/// The format forbids little: an escape `\u` without its four digits, and a line that goes on at the
/// end of the text.
fn properties_fault(text: &str) -> Option<String> {
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let is_comment = !goes_on && line.trim_start().starts_with(['#', '!']);
        goes_on = false;
        if is_comment {
            continue;
        }
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            if character != '\\' {
                continue;
            }
            match characters.next() {
                None => goes_on = true,
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                        return Some(format!("line {}: `\\u` needs four digits", index + 1));
                    }
                }
                Some(_) => {}
            }
        }
    }
    goes_on.then(|| "the last line ends with `\\`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_and_endings_promise_a_form() {
        assert_eq!(Kind::of("a", Some("application/json; charset=utf-8")), Some(Kind::Json));
        assert_eq!(Kind::of("a", Some("application/vnd.x+json")), Some(Kind::Json));
        assert_eq!(Kind::of("a/b.yml", None), Some(Kind::Yaml));
        assert_eq!(Kind::of("a.json", Some("text/yaml")), Some(Kind::Yaml));
        assert_eq!(Kind::of("a.b/c", None), None);
        assert_eq!(Kind::of("json", None), None);
    }

    #[test]
    fn what_is_broken_is_told_with_its_place() {
        for (kind, good, bad) in [
            (Kind::Json, "{\"a\": [1]}", "{\"a\": "),
            (Kind::Yaml, "a:\n  - 1\n---\nb: 2\n", "a: [1\nb: 2"),
            (Kind::Toml, "a = 1\n[b]\n", "a = \n"),
            (Kind::Properties, "# \\u\na=b\\\n  c\nd:\\u00e9\n", "a=\\u12"),
        ] {
            assert_eq!(check(kind, good.as_bytes()), Ok(()), "{kind:?}");
            assert!(check(kind, bad.as_bytes()).is_err(), "{kind:?}");
            assert!(check(kind, b"\xff\xfe").is_err(), "{kind:?}");
        }
        assert!(check(Kind::Properties, b"a=b\\").unwrap_err().contains("last line"));
        assert!(check(Kind::Json, b"{\n x}").unwrap_err().contains("line 2"));
    }
}
