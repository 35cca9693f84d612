//! Names of places inside the settings, and where each of them was written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::Origin;

/// One step into a table or a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

/// A place inside the settings: `backends.main.endpoints[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyPath(Vec<Segment>);

impl KeyPath {
    pub(crate) fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Segment::Key((*key).to_owned())).collect())
    }

    /// Reads `keys` as they lead through `document`: below a list they are indices.
    pub(crate) fn within(document: &Value, keys: &[String]) -> Self {
        let mut here = Some(document);
        let mut path = Self::default();
        for key in keys {
            let index = key.parse().ok().filter(|_| here.is_some_and(Value::is_array));
            path = match index {
                Some(index) => path.index(index),
                None => path.key(key),
            };
            here = match path.0.last() {
                Some(Segment::Index(index)) => here.and_then(|value| value.get(index)),
                _ => here.and_then(|value| value.get(key)),
            };
        }
        path
    }

    #[must_use]
    pub(crate) fn key(&self, key: &str) -> Self {
        let mut longer = self.clone();
        longer.0.push(Segment::Key(key.to_owned()));
        longer
    }

    #[must_use]
    pub(crate) fn index(&self, index: usize) -> Self {
        let mut longer = self.clone();
        longer.0.push(Segment::Index(index));
        longer
    }

    #[must_use]
    pub(crate) fn join(&self, rest: &Self) -> Self {
        Self(self.0.iter().chain(&rest.0).cloned().collect())
    }

    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }

    /// One of them is, or belongs to, the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.starts_with(other) || other.starts_with(self)
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub(crate) fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// The place itself, then what it is in, up to the root.
    fn upwards(&self) -> impl Iterator<Item = Self> {
        (0..=self.0.len()).rev().map(|length| Self(self.0.iter().take(length).cloned().collect()))
    }

    pub(crate) fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, segment| match segment {
            Segment::Key(key) => value.get(key),
            Segment::Index(index) => value.get(index),
        })
    }

    pub(crate) fn find_mut<'a>(&self, document: &'a mut Value) -> Option<&'a mut Value> {
        self.0.iter().try_fold(document, |value, segment| match segment {
            Segment::Key(key) => value.get_mut(key),
            Segment::Index(index) => value.get_mut(index),
        })
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(out, "[{index}]")?,
                Segment::Key(key) => {
                    let dot = if position > 0 { "." } else { "" };
                    write!(out, "{dot}{}", Bare(key))?;
                }
            }
        }
        Ok(())
    }
}

/// A key as TOML wants it: bare where it can be, in quotes where it must.
pub(crate) struct Bare<'a>(pub(crate) &'a str);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !self.0.is_empty() && self.0.bytes().all(bare) {
            out.write_str(self.0)
        } else {
            write!(out, "{:?}", self.0)
        }
    }
}

/// Where each value was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Origins {
    pub(crate) file: Option<PathBuf>,
    pub(crate) lines: BTreeMap<KeyPath, usize>,
    pub(crate) variables: BTreeMap<KeyPath, String>,
}

impl Origins {
    /// Where exactly this value was written, [`Origin::Default`] when it was not.
    pub(crate) fn exact(&self, path: &KeyPath) -> Origin {
        if let Some(name) = path.upwards().find_map(|place| self.variables.get(&place)) {
            return Origin::Variable(name.clone());
        }
        match (&self.file, self.lines.get(path)) {
            (Some(file), Some(line)) => Origin::File { path: file.clone(), line: *line },
            _ => Origin::Default,
        }
    }

    /// Where to look for this value: where it was written, or the nearest to it that was.
    pub(crate) fn nearest(&self, path: &KeyPath) -> Option<Origin> {
        let written = |origin: &Origin| *origin != Origin::Default;
        let above = || path.upwards().map(|place| self.exact(&place)).find(written);
        let below = || {
            let mut variables = self.variables.iter();
            variables.find(|(place, _)| place.starts_with(path)).map(|(_, name)| name.clone())
        };
        let file = || self.file.as_ref().map(|file| Origin::File { path: file.clone(), line: 0 });
        above().or_else(|| below().map(Origin::Variable)).or_else(file)
    }

    /// The folder that relative paths of this value start from.
    pub(crate) fn folder(&self, path: &KeyPath) -> PathBuf {
        match self.exact(path) {
            Origin::File { path, .. } => path.parent().map(Path::to_path_buf).unwrap_or_default(),
            Origin::Variable(_) | Origin::Default => PathBuf::new(),
        }
    }
}
