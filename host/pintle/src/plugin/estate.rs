//! What a host that ends leaves to the next one on the same data folder: the checkpoints of backends
//! whose registrations it keeps.
//!
//! Only a clean stop leaves one, when no lock is held any more: a successor ends what it finds of its
//! predecessor's locks, whose holders would not know. Whoever takes it has it alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
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

/// Takes what the last host left for the backend, if anything.
pub(super) fn take(backend: &Backend) {
    let Some(path) = place(backend) else { return };
    match read(&path) {
        Ok(left) if left.plugin == backend.settings.plugin => {
            let state = STANDARD.decode(left.checkpoint).ok();
            backend.checkpoint.restore(state);
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            backend = &*backend.name,
            %error,
            "what the last host left cannot be read; what it kept ends with its TTL"
        ),
    }
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

fn read(path: &Path) -> io::Result<Left> {
    // Of two who come at the same time one finds nothing.
    let mine = path.with_extension(format!("{}.taken", std::process::id()));
    fs::rename(path, &mine)?;
    let text = fs::read(&mine);
    fs::remove_file(&mine)?;
    Ok(serde_json::from_slice(&text?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_left_is_for_its_owner_and_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints/main.json");
        write(&path, &Left { plugin: "etcd".into(), checkpoint: "AAE=".into() }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().checkpoint, "AAE=");
        assert_eq!(read(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}
