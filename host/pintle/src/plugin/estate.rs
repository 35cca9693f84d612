//! What a host that ends leaves to the next one on the same data folder: the checkpoints of backends
//! whose registrations it keeps.
//!
//! Only a clean stop leaves one, when no lock is held any more: a successor ends what it finds of its
//! predecessor's locks, whose holders would not know. Whoever takes it has it alone, and it lies there
//! until a plugin runs that was started with it: one that cannot start, or a host that ends before,
//! leaves it to the next.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::backend::Backend;

/// Folder in that of the host's data.
const FOLDER: &str = "checkpoints";

/// The checkpoint of one backend.
#[derive(Serialize, Deserialize)]
struct Left {
    /// Nobody else can read it.
    plugin: String,
    /// In base64.
    checkpoint: String,
}

/// Leaves the backend's checkpoint, if it has one.
pub(super) fn leave(backend: &Backend) {
    let Some(state) = backend.checkpoint.load() else { return };
    let left = Left { plugin: backend.settings.plugin.clone(), checkpoint: STANDARD.encode(state) };
    let Some(path) = place(backend) else { return };
    if let Err(error) = write(&path, &left) {
        tracing::warn!(
            backend = &*backend.name,
            %error,
            "registrations are kept, but the next host cannot adopt them: they end with their TTL"
        );
    }
}

/// What the last host left for a backend, while no plugin has taken it over. Nobody else has it.
pub(super) struct Estate {
    path: PathBuf,
    /// Locked.
    _file: File,
}

impl Estate {
    /// A plugin has taken it over: nobody else is to.
    pub(super) fn settle(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "what was taken over still lies there");
        }
    }
}

/// Takes what the last host left for the backend, if anything.
pub(super) fn take(backend: &Backend) -> Option<Estate> {
    let path = place(backend)?;
    match read(&path) {
        Ok((left, file)) => {
            let estate = Estate { path, _file: file };
            let state = STANDARD.decode(left.checkpoint).ok();
            if left.plugin == backend.settings.plugin && state.is_some() {
                backend.checkpoint.restore(state);
                return Some(estate);
            }
            estate.settle();
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::warn!(
                backend = &*backend.name,
                "another host on this data folder has what the last one left"
            );
        }
        Err(error) => tracing::warn!(
            backend = &*backend.name,
            %error,
            "what the last host left cannot be read; what it kept ends with its TTL"
        ),
    }
    None
}

/// Nothing where the host has no folder for data.
fn place(backend: &Backend) -> Option<PathBuf> {
    let root = backend.shared.settings.data_root().ok()?;
    let name = utf8_percent_encode(&backend.name, NON_ALPHANUMERIC);
    Some(root.join(FOLDER).join(format!("{name}.json")))
}

fn write(path: &Path, left: &Left) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // It may hold what opens a session of the plugin's.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(left)?)?;
    file.sync_all()?;
    fs::rename(draft, path)?;
    File::open(folder)?.sync_all()
}

/// What is there, with the file that keeps others away while it is open.
fn read(path: &Path) -> io::Result<(Left, File)> {
    let file = File::open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Another host may have settled it, or left another, before this one had the lock.
    let (mine, there) = (file.metadata()?, fs::metadata(path)?);
    if (mine.dev(), mine.ino()) != (there.dev(), there.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let left = serde_json::from_reader(io::BufReader::new(&file))?;
    Ok((left, file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_left_is_for_its_owner_and_for_one_at_a_time_until_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints/main.json");
        write(&path, &Left { plugin: "etcd".into(), checkpoint: "AAE=".into() }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (left, file) = read(&path).unwrap();
        assert_eq!(left.checkpoint, "AAE=");
        assert_eq!(read(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        // Who had it has gone without starting anything.
        drop(file);
        let (_, file) = read(&path).unwrap();
        Estate { path: path.clone(), _file: file }.settle();
        assert_eq!(read(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}
