//! Files of plugins that the operator let take over, kept over restarts of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{audit, cache};
use crate::settings::{BackendSettings, Settings};

/// Where it is written, in the data folder.
const FILE: &str = "accepted.json";

/// What was accepted, by plugin.
#[derive(Default)]
pub(crate) struct Accepted {
    /// Without one, it is forgotten when the host ends.
    file: Option<PathBuf>,
    records: Mutex<BTreeMap<String, Record>>,
}

/// One acceptance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    sha256: String,
    /// The pins of the settings that it counts instead of. A pin that was changed since then counts
    /// itself.
    instead_of: BTreeSet<String>,
}

impl Accepted {
    /// What was accepted on this host. Where it has no place on disk, it counts until the host ends.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self::open(settings.data_root().ok().map(|root| root.join(FILE)))
    }

    /// Reads `file`, which nobody else may write. What cannot be used counts as nothing.
    fn open(file: Option<PathBuf>) -> Self {
        let records = file.as_deref().map(read).unwrap_or_default();
        Self { file, records: Mutex::new(records) }
    }

    /// The digest that the file of a backend's plugin must have, if it must have one.
    pub(crate) fn pin_of(&self, backend: &str, settings: &BackendSettings) -> Option<String> {
        let pin = settings.sha256.as_deref()?.to_ascii_lowercase();
        let records = self.lock();
        let accepted = records.get(&settings.plugin);
        match accepted.filter(|record| record.instead_of.contains(&pin)) {
            Some(record) => {
                tracing::debug!(backend, sha256 = record.sha256, "an accepted file counts instead");
                Some(record.sha256.clone())
            }
            None => Some(pin),
        }
    }

    /// Whether this file of `plugin` was accepted.
    pub(crate) fn holds(&self, plugin: &str, sha256: &str) -> bool {
        self.lock().get(plugin).is_some_and(|record| record.sha256 == sha256)
    }

    /// Accepts a file of `plugin` instead of `pins`.
    ///
    /// # Errors
    ///
    /// It counts, and is forgotten when the host ends: it could not be written down.
    pub(crate) fn accept(
        &self,
        plugin: &str,
        sha256: &str,
        pins: impl IntoIterator<Item = String>,
    ) -> io::Result<()> {
        let mut records = self.lock();
        let record = records.entry(plugin.to_owned()).or_default();
        sha256.clone_into(&mut record.sha256);
        record.instead_of.extend(pins);
        match &self.file {
            Some(file) => write(file, &records),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> BTreeMap<String, Record> {
    let refuse = |reason: &str| {
        tracing::error!(file = %file.display(), reason, "what was accepted before does not count");
        audit::refused("read-accepted", &file.display().to_string(), reason);
        BTreeMap::new()
    };
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => return refuse(&error.to_string()),
        Ok(metadata) if !cache::is_ours(&metadata) => {
            return refuse("its owner or its permissions let others write it");
        }
        Ok(_) => {}
    }
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return refuse(&error.to_string()),
    };
    serde_json::from_str(&text).unwrap_or_else(|error| refuse(&error.to_string()))
}

fn write(file: &Path, records: &BTreeMap<String, Record>) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = file.with_extension(format!("{}.tmp", std::process::id()));
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    out.write_all(&serde_json::to_vec_pretty(records)?)?;
    out.sync_all()?;
    fs::rename(unfinished, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn backend(sha256: Option<&str>) -> BackendSettings {
        BackendSettings {
            plugin: "etcd".into(),
            sha256: sha256.map(String::from),
            ..BackendSettings::default()
        }
    }

    #[test]
    fn an_accepted_file_counts_instead_of_the_pin_until_that_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = Some(dir.path().join("run/accepted.json"));
        let accepted = Accepted::open(file.clone());
        assert_eq!(accepted.pin_of("main", &backend(Some("AA"))).unwrap(), "aa");
        accepted.accept("etcd", "bb", ["aa".to_owned()]).unwrap();
        for accepted in [accepted, Accepted::open(file)] {
            assert_eq!(accepted.pin_of("main", &backend(Some("aa"))).unwrap(), "bb");
            assert_eq!(accepted.pin_of("main", &backend(Some("cc"))).unwrap(), "cc");
            assert_eq!(accepted.pin_of("main", &backend(None)), None);
            assert!(accepted.holds("etcd", "bb") && !accepted.holds("etcd", "aa"));
        }
    }

    #[test]
    fn what_others_may_write_counts_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("accepted.json");
        Accepted::open(Some(file.clone())).accept("etcd", "bb", ["aa".to_owned()]).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!Accepted::open(Some(file.clone())).holds("etcd", "bb"));
        fs::remove_file(&file).unwrap();
        fs::write(&file, "no JSON").unwrap();
        assert!(!Accepted::open(Some(file)).holds("etcd", "bb"));
    }
}
