//! Settings from environment variables: `PINTLE_SERVER__LISTEN` is `server.listen`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::{Map, Value};

use super::document::parse_value;
use super::error::{Origin, Problem};
use super::path::{KeyPath, Segment};

const PREFIX: &str = "PINTLE_";
const SEPARATOR: &str = "__";

/// Keys outside any table. Other variables without `__` are not settings (`PINTLE_TOKEN`).
const TOP_LEVEL: [&str; 2] = ["node", "data_dir"];

/// What the environment sets, as a tree like that of a file.
#[derive(Debug)]
pub(crate) struct Overrides {
    pub(crate) root: Value,
    pub(crate) variables: BTreeMap<KeyPath, String>,
    /// The text of each variable, where it was read as something else.
    pub(crate) texts: BTreeMap<KeyPath, String>,
    /// Why a text that begins like a list or a table is none.
    pub(crate) malformed: BTreeMap<KeyPath, String>,
}

impl Overrides {
    /// Picks the settings out of `variables`. Names are compared with `file` without regard to
    /// case, and `_` stands for `-` too, since a shell knows no variables with it.
    ///
    /// # Errors
    /// Values that are no UTF-8, and keys that are set twice.
    pub(crate) fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        file: &Value,
    ) -> Result<Self, Vec<Problem>> {
        let mut found: Vec<(KeyPath, String, OsString)> = vec![];
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(segments) = segments(name) else { continue };
            found.push((resolve(&segments, file), name.to_owned(), value));
        }
        // A table before what is in it, so that the more precise variable wins.
        found.sort();
        let mut problems = vec![];
        for ((path, one, _), (same, other, _)) in found.iter().zip(found.iter().skip(1)) {
            if path == same {
                let text = format!("{one} sets the same key");
                problems.push(Problem::new(path.to_string(), text).at(variable(other)));
            }
        }
        let mut overrides = Self {
            root: Value::Object(Map::new()),
            variables: BTreeMap::new(),
            texts: BTreeMap::new(),
            malformed: BTreeMap::new(),
        };
        for (path, name, value) in found {
            match value.to_str() {
                Some(text) => overrides.add(path, name, text),
                None => {
                    let text = "the value is no valid UTF-8";
                    problems.push(Problem::new(path.to_string(), text).at(variable(&name)));
                }
            }
        }
        if problems.is_empty() { Ok(overrides) } else { Err(problems) }
    }

    fn add(&mut self, path: KeyPath, name: String, text: &str) {
        let value = match parse_value(text) {
            Ok(value) => value,
            Err((value, reason)) => {
                self.malformed.extend(reason.map(|reason| (path.clone(), reason)));
                value
            }
        };
        if !value.is_string() {
            self.texts.insert(path.clone(), text.to_owned());
        }
        self.variables.insert(path.clone(), name);
        insert(&mut self.root, &path, value);
    }
}

fn variable(name: &str) -> Origin {
    Origin::Variable(name.to_owned())
}

/// The keys that a variable names, in small letters; none when it is not about settings.
fn segments(name: &str) -> Option<Vec<String>> {
    let prefix = name.get(..PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let rest = name.get(PREFIX.len()..)?.to_ascii_lowercase();
    if !rest.contains(SEPARATOR) {
        return TOP_LEVEL.contains(&rest.as_str()).then(|| vec![rest]);
    }
    Some(rest.split(SEPARATOR).map(str::to_owned).collect())
}

/// Takes the spelling of the file for keys that it has already.
fn resolve(segments: &[String], file: &Value) -> KeyPath {
    let same = |key: &str, segment: &str| {
        key.len() == segment.len()
            && key.to_ascii_lowercase().replace('-', "_") == segment.replace('-', "_")
    };
    let mut here = Some(file);
    let mut path = KeyPath::default();
    for segment in segments {
        let table = here.and_then(Value::as_object);
        let known = table.and_then(|table| table.keys().find(|key| same(key, segment)));
        let key = known.unwrap_or(segment);
        path = path.key(key);
        here = table.and_then(|table| table.get(key));
    }
    path
}

/// Puts `value` at `path`, making tables on the way; what is in the way is replaced.
fn insert(root: &mut Value, path: &KeyPath, value: Value) {
    let mut here = root;
    for segment in path.segments() {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        let Segment::Key(key) = segment else { return };
        let Value::Object(table) = here else { return };
        here = table.entry(key.clone()).or_insert(Value::Null);
    }
    *here = value;
}
