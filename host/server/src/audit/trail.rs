//! What is said of a request while it is under way.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::extract::FromRequestParts;
use http::request::Parts;
use pintle_api::audit::{Change, Record};

use crate::operations::Subject;

/// Bytes of one text; a caller chooses most of them, and must not choose how long a line is.
const TEXT_BYTES_MAX: usize = 1_024;
/// Changes of one request that are named; further ones are counted.
const CHANGES_MAX: usize = 128;

/// What a route says of its request while it is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail(Option<Arc<Mutex<Note>>>);

#[derive(Debug, Default)]
pub(super) struct Note {
    backend: Option<String>,
    changes: Vec<Change>,
    changes_left_out: usize,
    detail: Option<String>,
    /// The request asked for what is so already.
    pub(super) changed_nothing: bool,
}

impl Trail {
    /// For a request that is about this, as far as its path tells.
    pub(crate) fn of(subject: Subject) -> Self {
        let trail = Self(Some(Arc::default()));
        trail.about(&subject.backend.unwrap_or_default(), subject.key);
        trail
    }

    /// What the request is about, before anything is done.
    pub(crate) fn about(&self, backend: &str, keys: impl IntoIterator<Item = impl AsRef<str>>) {
        self.note(|note| {
            note.backend = Some(cut(backend)).filter(|name| !name.is_empty());
            let mut keys = keys.into_iter();
            let named = keys.by_ref().take(CHANGES_MAX);
            note.changes =
                named.map(|key| Change { key: cut(key.as_ref()), ..Change::default() }).collect();
            note.changes_left_out = keys.count();
        });
    }

    /// The versions of a thing that the request is about.
    pub(crate) fn versions(&self, key: &str, before: Option<String>, after: Option<String>) {
        let key = cut(key);
        let [before, after] = [before, after].map(|version| version.as_deref().map(cut));
        self.note(|note| {
            for change in note.changes.iter_mut().filter(|change| change.key == key) {
                change.before = before.clone();
                change.after = after.clone();
            }
        });
    }

    /// More, for a person.
    pub(crate) fn detail(&self, detail: impl AsRef<str>) {
        self.note(|note| note.detail = Some(cut(detail.as_ref())));
    }

    /// The request asked for what is so already: success is not worth a line.
    pub(crate) fn changed_nothing(&self) {
        self.note(|note| note.changed_nothing = true);
    }

    fn note(&self, write: impl FnOnce(&mut Note)) {
        if let Some(note) = &self.0 {
            write(&mut note.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn take(&self) -> Note {
        let note = self.0.as_ref();
        note.map(|note| std::mem::take(&mut *note.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Trail {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

impl Note {
    /// A record with what was said.
    pub(super) fn record(self) -> Record {
        let more = match self.changes_left_out {
            0 => None,
            count => Some(format!("and {count} more changes")),
        };
        let details = [self.detail, more].into_iter().flatten().collect::<Vec<_>>();
        Record {
            backend: self.backend,
            changes: self.changes,
            detail: Some(details.join("; ")).filter(|detail| !detail.is_empty()),
            ..Record::default()
        }
    }
}

/// The beginning of a text that is too long.
pub(super) fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_bound_whatever_the_request_says() {
        let long = "ü".repeat(50_000);
        let trail = Trail::of(Subject { backend: Some(long.clone()), key: Some(long.clone()) });
        trail.detail(&long);
        trail.versions(&long, Some(long.clone()), Some(long.clone()));
        let record = trail.take().record();
        let change = &record.changes[0];
        assert!(change.before.is_some() && change.after.is_some(), "the change was not found");
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.len() < 6 * TEXT_BYTES_MAX, "{} bytes", line.len());

        let trail = Trail::of(Subject::default());
        trail.about("main", (0..100_000).map(|number| format!("k/{number}")));
        let record = trail.take().record();
        assert_eq!(record.changes.len(), CHANGES_MAX);
        assert_eq!(record.detail.as_deref(), Some("and 99872 more changes"));
    }
}
