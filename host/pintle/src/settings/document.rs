//! Reads TOML and remembers on which line each key stands.

use std::path::Path;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, Problem};
use super::path::{KeyPath, Origins};

/// Largest settings file, in bytes: far above any that a person writes.
pub(crate) const FILE_BYTES_MAX: u64 = 4 << 20;

/// A settings file as a tree of values.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) root: Value,
    pub(crate) origins: Origins,
}

impl Document {
    pub(crate) fn empty() -> Self {
        Self { root: Value::Object(Map::new()), origins: Origins::default() }
    }

    /// Reads `text`, which came from `path`.
    ///
    /// # Errors
    /// Everything that is no TOML, each with its line.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let lines = LineIndex::new(text);
        let at = |offset: usize| Origin::File { path: path.into(), line: lines.line(offset) };
        if !errors.is_empty() {
            let problem = |error: &toml::de::Error| {
                let offset = error.span().map_or(0, |span| span.start);
                Problem::new("", format!("no valid TOML: {}", error.message())).at(at(offset))
            };
            let mut errors = errors;
            errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
            return Err(errors.iter().map(problem).collect());
        }
        let mut reader =
            Reader { lines: &lines, path, origins: Origins::default(), problems: vec![] };
        let root = reader.table(&KeyPath::default(), table.get_ref());
        if !reader.problems.is_empty() {
            return Err(reader.problems);
        }
        reader.origins.file = Some(path.to_path_buf());
        Ok(Self { root, origins: reader.origins })
    }
}

/// Reads one value as it stands in an environment variable, where a text needs no quotes: what is
/// no value of TOML is a text.
///
/// # Errors
/// The same text, and why it is no list or table although it begins like one.
pub(crate) fn parse_value(text: &str) -> Result<Value, (Value, Option<String>)> {
    let plain = |reason: String| {
        let structured = text.trim_start().starts_with(['[', '{']);
        (Value::String(text.to_owned()), structured.then_some(reason))
    };
    let value = DeValue::parse(text.trim())
        .map_err(|error| plain(format!("no valid TOML value: {}", error.message())))?;
    if value.get_ref().is_datetime() {
        return Ok(Value::String(text.to_owned()));
    }
    let lines = LineIndex::new(text);
    let origins = Origins::default();
    let mut reader = Reader { lines: &lines, path: Path::new(""), origins, problems: vec![] };
    let read = reader.spanned(&KeyPath::default(), &value);
    match reader.problems.into_iter().next() {
        Some(problem) => Err(plain(problem.text)),
        None => Ok(read),
    }
}

struct Reader<'a> {
    lines: &'a LineIndex,
    path: &'a Path,
    origins: Origins,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, at: &KeyPath, table: &DeTable<'_>) -> Value {
        let mut object = Map::new();
        for (key, value) in table {
            let place = at.key(key.get_ref());
            self.origins.lines.insert(place.clone(), self.lines.line(key.span().start));
            object.insert(key.get_ref().to_string(), self.spanned(&place, value));
        }
        Value::Object(object)
    }

    fn spanned(&mut self, at: &KeyPath, value: &Spanned<DeValue<'_>>) -> Value {
        self.value(at, value.get_ref(), value.span().start)
    }

    fn value(&mut self, at: &KeyPath, value: &DeValue<'_>, offset: usize) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(on) => Value::Bool(*on),
            DeValue::Datetime(time) => Value::String(time.to_string()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Value::Number(number.into()),
                    Err(_) => self.refuse(at, offset, "this number does not fit into 64 bits"),
                }
            }
            DeValue::Float(number) => {
                match number.as_str().parse().ok().and_then(Number::from_f64) {
                    Some(number) => Value::Number(number),
                    None => self.refuse(at, offset, "expected a finite number"),
                }
            }
            DeValue::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let place = at.index(index);
                    self.origins.lines.insert(place.clone(), self.lines.line(item.span().start));
                    list.push(self.spanned(&place, item));
                }
                Value::Array(list)
            }
            DeValue::Table(table) => self.table(at, table),
        }
    }

    fn refuse(&mut self, at: &KeyPath, offset: usize, text: &str) -> Value {
        let origin = Origin::File { path: self.path.into(), line: self.lines.line(offset) };
        self.problems.push(Problem::new(at.to_string(), text).at(origin));
        Value::Null
    }
}

/// Offsets at which lines begin.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn new(text: &str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self(std::iter::once(0).chain(after_breaks).collect())
    }

    /// Line of a byte, counted from 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}
