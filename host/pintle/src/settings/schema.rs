//! A plugin's own JSON Schema: plugin settings are checked against it before the plugin starts.

use std::collections::BTreeSet;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use super::path::KeyPath;

mod screen;
mod secrets;
mod words;

/// Largest schema, in bytes of its text.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;

/// As many problems are told at once.
const PROBLEMS_MAX: usize = 64;

/// Memory for one compiled pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A plugin's schema, known to be harmless.
///
/// A schema comes from a plugin, so it may be hostile. Before anything else looks at it, it is read
/// with bounds on size, depth, number of patterns, and on the work that checking against it can
/// take; schemas that refer to themselves or to anywhere else are refused. Patterns run on an
/// engine whose time grows with the text only. So no time limit is needed.
pub struct SettingsSchema {
    schema: Value,
    validator: Validator,
}

/// Why a schema cannot be used. It is the plugin's fault, not the operator's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plugin's settings schema cannot be used: {0}")]
pub struct SchemaError(String);

/// One thing that the schema does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaProblem {
    /// Key with its path below `settings`, like `auth.user`; empty for the whole.
    pub key: String,
    /// What is wrong, and what would be right; never the value.
    pub text: String,
    pub(crate) path: KeyPath,
}

impl SettingsSchema {
    /// Reads a schema (JSON Schema 2020-12).
    ///
    /// # Errors
    /// It is no schema, or one that is not safe to use.
    ///
    /// # Limits
    /// 256 KiB; 64 levels, 128 with references followed; 65,536 parts with references followed; 64
    /// different patterns of at most 1 KiB.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(SchemaError(format!("it has more than {} KiB", SCHEMA_BYTES_MAX >> 10)));
        }
        let schema: Value = serde_json::from_str(text)
            .map_err(|error| SchemaError(format!("it is no JSON: {error}")))?;
        screen::screen(&schema).map_err(SchemaError)?;
        let patterns =
            PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "its root".to_owned() } else { place };
                SchemaError(words::printable(&format!("at {place}: {error}")))
            })?;
        Ok(Self { schema, validator })
    }

    /// What in `settings` the schema does not allow; nothing when all is well.
    pub fn problems(&self, settings: &Value) -> Vec<SchemaProblem> {
        let words = words::Words { schema: &self.schema, settings };
        let mut problems = BTreeSet::new();
        for error in self.validator.iter_errors(settings).take(PROBLEMS_MAX) {
            problems.extend(words.of(&error));
        }
        let problem =
            |(path, text): (KeyPath, String)| SchemaProblem { key: path.to_string(), text, path };
        problems.into_iter().take(PROBLEMS_MAX).map(problem).collect()
    }

    /// Texts in `settings` that the schema calls secret (`"writeOnly": true`).
    pub(crate) fn secret_texts(&self, settings: &Value) -> Vec<KeyPath> {
        secrets::texts(&self.schema, settings)
    }
}

impl std::fmt::Debug for SettingsSchema {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("SettingsSchema").field(&self.schema).finish()
    }
}

/// Looks up what a reference inside a schema means: `#` or `#/…`.
fn refer<'a>(schema: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    let pointer = percent_encoding::percent_decode_str(pointer).decode_utf8().ok()?;
    schema.pointer(&pointer)
}

#[cfg(test)]
mod tests;
