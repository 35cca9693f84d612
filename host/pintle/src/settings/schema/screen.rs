//! Reads a schema with bounds, before anything runs that could be made to work without end.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::refer;
use crate::settings::schema::words::printable;

/// Levels of the schema's text.
const LEVELS_MAX: usize = 64;

/// Levels with references followed. Code that checks a schema recurses as deep.
const UNFOLDED_LEVELS_MAX: usize = 128;

/// Parts with references followed: an upper bound of the work for each value that is checked.
const UNFOLDED_PARTS_MAX: u64 = 65_536;

/// Patterns take memory when they are compiled, however short they are.
const PATTERNS_MAX: usize = 64;

/// Longest pattern, in bytes.
const PATTERN_TEXT_BYTES_MAX: usize = 1 << 10;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Refuses a schema that is not safe to use, with the reason.
pub(super) fn screen(schema: &Value) -> Result<(), String> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err("it is no JSON object".into());
    }
    if let Some(draft) = schema.get("$schema")
        && draft.as_str().map(|text| text.trim_end_matches('#')) != Some(DRAFT)
    {
        return Err(format!("its $schema is not \"{DRAFT}\""));
    }
    let mut text = Text { patterns: BTreeSet::new() };
    text.read(schema, 0, true)?;
    if text.patterns.len() > PATTERNS_MAX {
        return Err(format!("it has more than {PATTERNS_MAX} patterns"));
    }
    let mut unfolding = Unfolding { schema, known: HashMap::new(), open: HashSet::new() };
    unfolding.measure(schema, 0)?;
    Ok(())
}

/// What can be seen without following references.
struct Text<'a> {
    patterns: BTreeSet<&'a str>,
}

impl<'a> Text<'a> {
    fn read(&mut self, value: &'a Value, level: usize, root: bool) -> Result<(), String> {
        if level > LEVELS_MAX {
            return Err(format!("it has more than {LEVELS_MAX} levels"));
        }
        match value {
            Value::Array(items) => {
                items.iter().try_for_each(|item| self.read(item, level + 1, false))
            }
            Value::Object(entries) => {
                for (key, entry) in entries {
                    self.keyword(key, entry, root)?;
                    self.read(entry, level + 1, false)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn keyword(&mut self, key: &str, entry: &'a Value, root: bool) -> Result<(), String> {
        match (key, entry) {
            ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                Err(format!("{key} is not supported; use $ref"))
            }
            ("$id" | "$schema", Value::String(_)) if !root => {
                Err(format!("{key} is allowed at its root only"))
            }
            ("pattern", Value::String(pattern)) => self.pattern(pattern),
            ("patternProperties", Value::Object(table)) => {
                table.keys().try_for_each(|pattern| self.pattern(pattern))
            }
            _ => Ok(()),
        }
    }

    fn pattern(&mut self, pattern: &'a str) -> Result<(), String> {
        if pattern.len() > PATTERN_TEXT_BYTES_MAX {
            return Err(format!("it has a pattern of more than {PATTERN_TEXT_BYTES_MAX} bytes"));
        }
        self.patterns.insert(pattern);
        Ok(())
    }
}

/// The size that a part has once references in it are followed.
#[derive(Clone, Copy, Default)]
struct Extent {
    parts: u64,
    levels: usize,
}

struct Unfolding<'a> {
    schema: &'a Value,
    known: HashMap<&'a str, Extent>,
    /// References that are being followed.
    open: HashSet<&'a str>,
}

impl<'a> Unfolding<'a> {
    fn measure(&mut self, value: &'a Value, level: usize) -> Result<Extent, String> {
        if level > UNFOLDED_LEVELS_MAX {
            return Err(too_deep());
        }
        let mut whole = Extent { parts: 1, levels: 0 };
        match value {
            Value::Array(items) => {
                for item in items {
                    whole.add(self.measure(item, level + 1)?)?;
                }
            }
            Value::Object(entries) => {
                for (key, entry) in entries {
                    let part = match (key.as_str(), entry) {
                        ("$ref", Value::String(reference)) => self.follow(reference, level + 1)?,
                        _ => self.measure(entry, level + 1)?,
                    };
                    whole.add(part)?;
                }
            }
            _ => {}
        }
        Ok(whole)
    }

    fn follow(&mut self, reference: &'a str, level: usize) -> Result<Extent, String> {
        let shown = printable(reference);
        if reference != "#" && !reference.starts_with("#/") {
            return Err(format!("\"{shown}\" refers to elsewhere; only \"#/…\" is allowed"));
        }
        if let Some(known) = self.known.get(reference) {
            return if level + known.levels > UNFOLDED_LEVELS_MAX {
                Err(too_deep())
            } else {
                Ok(*known)
            };
        }
        if reference == "#" || !self.open.insert(reference) {
            return Err(format!("\"{shown}\" refers to itself"));
        }
        let target = refer(self.schema, reference)
            .ok_or_else(|| format!("\"{shown}\" refers to nothing"))?;
        let extent = self.measure(target, level)?;
        self.open.remove(reference);
        self.known.insert(reference, extent);
        Ok(extent)
    }
}

impl Extent {
    fn add(&mut self, part: Self) -> Result<(), String> {
        self.parts = self.parts.saturating_add(part.parts);
        self.levels = self.levels.max(part.levels + 1);
        if self.parts > UNFOLDED_PARTS_MAX {
            return Err(format!(
                "it has more than {UNFOLDED_PARTS_MAX} parts when references are followed"
            ));
        }
        Ok(())
    }
}

fn too_deep() -> String {
    format!("it has more than {UNFOLDED_LEVELS_MAX} levels when references are followed")
}
