//! What was written, and which part of it an observation can mean.

use std::collections::BTreeMap;
use std::fmt;

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its version, where known.
    pub version: Option<String>,
    /// The value; `None` for a removal.
    pub value: Option<String>,
    /// False when the outcome was unknown: it may be missing, and may be seen later than its place.
    pub certain: bool,
}

impl Change {
    /// A write that was acknowledged.
    pub fn put(value: impl Into<String>, version: Option<String>) -> Change {
        Change { version, value: Some(value.into()), certain: true }
    }

    /// A removal that was acknowledged.
    pub fn removal(version: Option<String>) -> Change {
        Change { version, value: None, certain: true }
    }

    /// The same with unknown outcome.
    #[must_use]
    pub fn uncertain(self) -> Change {
        Change { certain: false, ..self }
    }

    fn is(&self, value: Option<&str>, version: Option<&str>) -> bool {
        let versions_agree = match (self.version.as_deref(), version) {
            (Some(written), Some(seen)) => written == seen,
            _ => true,
        };
        versions_agree && self.value.as_deref() == value
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{value:?}")?,
            None => write!(f, "removal")?,
        }
        if let Some(version) = &self.version {
            write!(f, " of version {version}")?;
        }
        if self.certain { Ok(()) } else { write!(f, " (outcome unknown)") }
    }
}

/// The changes of each key, in order. Keys are absent at the beginning.
#[derive(Debug, Clone, Default)]
pub struct Written {
    changes: BTreeMap<String, Vec<Change>>,
}

impl Written {
    /// Nothing yet.
    pub fn new() -> Written {
        Written::default()
    }

    /// The next change of this key.
    pub fn push(&mut self, key: &str, change: Change) {
        self.changes.entry(key.to_owned()).or_default().push(change);
    }

    /// The changes of a key, in order.
    pub fn changes(&self, key: &str) -> &[Change] {
        self.changes.get(key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.changes.keys().map(String::as_str)
    }

    /// After how many changes the key can look like this, in rising order.
    pub(super) fn places<'a>(
        &'a self,
        key: &str,
        value: Option<&'a str>,
        version: Option<&'a str>,
    ) -> impl Iterator<Item = usize> + 'a {
        let changes = self.changes(key).iter().enumerate();
        changes.filter(move |(_, change)| change.is(value, version)).map(|(index, _)| index + 1)
    }

    /// Whether each change after `from` up to `to` may not have happened.
    pub(super) fn may_skip(&self, key: &str, from: usize, to: usize) -> bool {
        let between = self.changes(key).get(from..to).unwrap_or_default();
        from <= to && between.iter().all(|change| !change.certain)
    }

    /// Whether the key may have been absent after this many changes, of which at least `floor` are
    /// behind.
    pub(super) fn may_be_absent(&self, key: &str, place: usize, floor: usize) -> bool {
        let changes = self.changes(key);
        let mut place = place;
        while place > floor {
            match place.checked_sub(1).and_then(|last| changes.get(last)) {
                Some(change) if change.value.is_some() && !change.certain => place -= 1,
                Some(change) => return change.value.is_none(),
                None => return true,
            }
        }
        match place.checked_sub(1).and_then(|last| changes.get(last)) {
            None => true,
            Some(change) => change.value.is_none(),
        }
    }
}
