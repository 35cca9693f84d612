//! Layers file and environment, and turns them into [`Settings`] or into all that is wrong.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use serde_json::Value;

use super::check::{self, Finding};
use super::document::{Document, FILE_BYTES_MAX};
use super::environment::Overrides;
use super::error::{Origin, Problem, SettingsError};
use super::path::{KeyPath, Origins, Segment};
use super::{BackendSettings, Settings, explain};

/// Name of the backend, and of its plugin, that exists when the operator names none.
pub const IMPLICIT_BACKEND: &str = "local";

/// As many problems are shown at once.
const PROBLEMS_MAX: usize = 64;

impl Settings {
    /// Reads a file, then what environment variables set besides (`PINTLE_SERVER__LISTEN`).
    ///
    /// Relative paths start from the folder of the file, those in variables from the current one.
    /// When no backend is named, there is one: `local`, on a folder of the data root.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the environment is wrong: then all that is.
    ///
    /// # Limits
    /// A file may have 4 MiB.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SettingsError> {
        Self::load(Some(path.as_ref()))
    }

    /// Like [`Settings::from_file`]; without a file only the environment counts.
    ///
    /// # Errors
    /// As for [`Settings::from_file`].
    ///
    /// # Limits
    /// As for [`Settings::from_file`].
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let file = match file {
            Some(path) => Some((path.to_path_buf(), read_file(path)?)),
            None => None,
        };
        assemble(file, std::env::vars_os())
    }

    /// Adds the backend `local`, on a folder of the data root, when there is none at all.
    ///
    /// # Errors
    /// As for [`Settings::data_root`].
    pub fn ensure_backend(&mut self) -> Result<(), SettingsError> {
        if self.backends.is_empty() {
            let backend = BackendSettings {
                plugin: IMPLICIT_BACKEND.to_owned(),
                data_dir: Some(self.data_root()?.join("backends").join(IMPLICIT_BACKEND)),
                ..BackendSettings::default()
            };
            self.backends.insert(IMPLICIT_BACKEND.to_owned(), backend);
        }
        Ok(())
    }
}

/// Reads settings from a text alone: no file and no environment variable plays a part.
impl FromStr for Settings {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        assemble(Some((PathBuf::from("settings"), text.to_owned())), [])
    }
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    let refuse = |text: String| {
        let origin = Origin::File { path: path.to_path_buf(), line: 0 };
        SettingsError::from(Problem::new("", text).at(origin))
    };
    let cannot = |reason: std::io::Error| refuse(format!("cannot read the settings: {reason}"));
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse(format!("the file has more than {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(text)
}

/// The whole way from the sources to settings that are known to be right.
pub(crate) fn assemble(
    file: Option<(PathBuf, String)>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, SettingsError> {
    let document = match &file {
        Some((path, text)) => Document::parse(path, text),
        None => Ok(Document::empty()),
    };
    let document = document.map_err(|problems| SettingsError { problems })?;
    let overrides = Overrides::read(variables, &document.root)
        .map_err(|problems| SettingsError { problems })?;
    let mut layers = Layers::new(document, overrides);
    let extracted = layers.extract();
    let Layers { origins, mut problems, removed, .. } = layers;
    if let Some(mut settings) = extracted {
        settings.origins = origins;
        problems.extend(settings.make_paths_absolute());
        let backends = KeyPath::of(&["backends"]);
        if !removed.iter().any(|path| path.starts_with(&backends)) {
            settings.ensure_backend()?;
        }
        let follows_from_removed = |finding: &Finding| {
            let depends_on = |gone: &KeyPath| {
                finding.path.overlaps(gone)
                    || finding.relies_on.as_ref().is_some_and(|other| other.overlaps(gone))
            };
            removed.iter().any(depends_on)
        };
        let found = check::findings(&settings).into_iter();
        let new = found.filter(|finding| !follows_from_removed(finding));
        problems.extend(new.map(|finding| (finding.path, finding.text)));
        if problems.is_empty() {
            return Ok(settings);
        }
        return Err(in_order(problems, &settings.origins));
    }
    Err(in_order(problems, &origins))
}

fn in_order(mut problems: Vec<(KeyPath, String)>, origins: &Origins) -> SettingsError {
    problems.sort_by_cached_key(|(path, _)| match origins.nearest(path) {
        Some(Origin::File { line, .. }) => (0, line, path.clone()),
        _ => (1, 0, path.clone()),
    });
    let problem = |(path, text): (KeyPath, String)| {
        let origin = origins.nearest(&path);
        Problem { origin, key: path.to_string(), text }
    };
    SettingsError { problems: problems.into_iter().map(problem).collect() }
}

/// The sources of settings. What is found to be wrong is taken out, so that the next wrong thing
/// comes to light.
struct Layers {
    file: Value,
    overrides: Overrides,
    origins: Origins,
    problems: Vec<(KeyPath, String)>,
    removed: Vec<KeyPath>,
}

impl Layers {
    fn new(document: Document, mut overrides: Overrides) -> Self {
        let mut origins = document.origins;
        origins.variables = std::mem::take(&mut overrides.variables);
        Self { file: document.root, overrides, origins, problems: vec![], removed: vec![] }
    }

    fn figment(&self) -> Figment {
        Figment::new()
            .merge(Serialized::defaults(&self.file))
            .merge(Serialized::defaults(&self.overrides.root))
    }

    /// Settings without what is wrong; none when too much is.
    fn extract(&mut self) -> Option<Settings> {
        while self.problems.len() < PROBLEMS_MAX {
            let figment = self.figment();
            let error = match figment.extract::<Settings>() {
                Ok(settings) => return Some(settings),
                Err(error) => error,
            };
            let merged = figment.extract().unwrap_or_default();
            if !self.note(&KeyPath::within(&merged, &error.path), error.kind) {
                return None;
            }
        }
        None
    }

    /// Takes one problem down; false when it cannot be got out of the way.
    fn note(&mut self, path: &KeyPath, kind: Kind) -> bool {
        if let (Kind::InvalidType(..), Some(text)) = (&kind, self.overrides.texts.remove(path)) {
            // A text that looks like a number: the key decides what it is.
            return self.replace_in_overrides(path, Value::String(text));
        }
        let place = self.as_written(path);
        if let Kind::MissingField(field) = &kind {
            let place = place.key(field);
            if !self.removed.contains(&place) {
                self.problems.push((place.clone(), explain::missing(field)));
                self.removed.push(place);
            }
            return self.put_placeholder(path, field);
        }
        if let (Kind::UnknownField(key, known), Some(table)) = (&kind, place.parent())
            && let Some(meant) = explain::closest(key, known.iter().copied())
        {
            self.removed.push(table.key(meant));
        }
        let malformed = self.overrides.malformed.remove(path);
        let malformed = malformed.filter(|_| matches!(kind, Kind::InvalidType(..)));
        let text = malformed.unwrap_or_else(|| explain::kind(&kind, &place));
        self.problems.push((place.clone(), text));
        self.removed.push(place);
        remove(&mut self.overrides.root, path) || remove(&mut self.file, path)
    }

    /// `path` as the operator counts: elements of a list that were removed before count as well.
    fn as_written(&self, path: &KeyPath) -> KeyPath {
        let mut written = KeyPath::default();
        for segment in path.segments() {
            written = match segment {
                Segment::Key(key) => written.key(key),
                Segment::Index(index) => {
                    let mut gone: Vec<_> = self
                        .removed
                        .iter()
                        .filter(|place| place.parent().as_ref() == Some(&written))
                        .filter_map(|place| match place.segments().last() {
                            Some(Segment::Index(gone)) => Some(*gone),
                            _ => None,
                        })
                        .collect();
                    gone.sort_unstable();
                    let later = |index, gone| if gone <= index { index + 1 } else { index };
                    written.index(gone.into_iter().fold(*index, later))
                }
            };
        }
        written
    }

    fn replace_in_overrides(&mut self, path: &KeyPath, value: Value) -> bool {
        match path.find_mut(&mut self.overrides.root) {
            Some(place) => {
                *place = value;
                true
            }
            None => false,
        }
    }

    fn put_placeholder(&mut self, path: &KeyPath, field: &str) -> bool {
        let layers = [&mut self.file, &mut self.overrides.root];
        let tables = layers.into_iter().filter_map(|layer| path.find_mut(layer)?.as_object_mut());
        let mut put = false;
        for table in tables {
            table.insert(field.to_owned(), Value::String("missing".to_owned()));
            put = true;
        }
        put
    }
}

fn remove(root: &mut Value, path: &KeyPath) -> bool {
    let (Some(parent), Some(last)) = (path.parent(), path.segments().last()) else {
        return false;
    };
    match (parent.find_mut(root), last) {
        (Some(Value::Object(table)), Segment::Key(key)) => table.remove(key).is_some(),
        (Some(Value::Array(list)), Segment::Index(index)) if *index < list.len() => {
            list.remove(*index);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
