//! Values within JSON: as text where they are text, in base64 where they are not.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// Bytes of a value. `value` when they are UTF-8, else `value_base64`; neither when the value was
/// left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Value {
    /// The value as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value in base64 (RFC 4648 section 4), where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl Value {
    /// Writes bytes as text if they are UTF-8, else in base64.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { value: Some(text.into()), value_base64: None },
            Err(_) => Self { value: None, value_base64: Some(BASE64_STANDARD.encode(bytes)) },
        }
    }

    /// No value at all: it was left out of the answer.
    #[must_use]
    pub fn omitted() -> Self {
        Self::default()
    }

    /// The bytes; none when the value was left out.
    ///
    /// # Errors
    /// Says what is wrong with the JSON: invalid base64, or both forms at once.
    pub fn bytes(&self) -> Result<Option<Vec<u8>>, String> {
        match (&self.value, &self.value_base64) {
            (Some(_), Some(_)) => Err("give `value` or `value_base64`, not both".into()),
            (Some(text), None) => Ok(Some(text.clone().into_bytes())),
            (None, Some(encoded)) => BASE64_STANDARD
                .decode(encoded)
                .map(Some)
                .map_err(|error| format!("`value_base64` is not base64: {error}")),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_readable_and_anything_else_is_base64() {
        assert_eq!(serde_json::to_string(&Value::of(b"hi")).unwrap(), r#"{"value":"hi"}"#);
        assert_eq!(serde_json::to_string(&Value::of(b"")).unwrap(), r#"{"value":""}"#);
        assert_eq!(
            serde_json::to_string(&Value::of(b"\xff\x00")).unwrap(),
            r#"{"value_base64":"/wA="}"#
        );
        assert_eq!(serde_json::to_string(&Value::omitted()).unwrap(), "{}");
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        for bytes in [&b"text"[..], b"", b"\xff\xfe", b"nul\0"] {
            assert_eq!(Value::of(bytes).bytes().unwrap().unwrap(), bytes);
        }
    }

    #[test]
    fn two_forms_at_once_and_broken_base64_are_refused() {
        let both = Value { value: Some("a".into()), value_base64: Some("YQ==".into()) };
        assert!(both.bytes().unwrap_err().contains("not both"));
        let broken = Value { value: None, value_base64: Some("!".into()) };
        assert!(broken.bytes().is_err());
    }
}
