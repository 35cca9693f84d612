//! The one directory that a backend is granted, held by one host at a time.

use std::{
    fs, io,
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Keeps other hosts out of a data directory while it lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: fs::File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("the data directory {} is in use by {holder}; stop that first, or grant another by `data_dir`", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("the data directory {} cannot be used: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl DataDir {
    /// Creates `path` for its owner only, if need be, and locks it.
    ///
    /// The lock is a file beside the directory, which the plugin cannot see; the system takes it
    /// back when this process ends, however it ends.
    ///
    /// # Errors
    ///
    /// Names the holder when another process has it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let mut lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.with_file_name(name))
            .map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(failed)?;
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(DataDirError::InUse { path, holder });
        }
        lock.set_len(0).map_err(failed)?;
        lock.rewind().map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes of all files below `path`. Links are not followed; what vanishes meanwhile does not count.
///
/// # Errors
///
/// Fails when a directory cannot be read.
pub(crate) fn bytes_below(path: &Path) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            bytes = bytes.saturating_add(metadata.len());
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_below_a_directory_count_and_links_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let empty = bytes_below(root.path()).unwrap();
        fs::write(root.path().join("a/b/c"), [0; 1000]).unwrap();
        fs::write(root.path().join("d"), [0; 500]).unwrap();
        assert_eq!(bytes_below(root.path()).unwrap(), empty + 1500);
        std::os::unix::fs::symlink("/", root.path().join("a/root")).unwrap();
        assert!(bytes_below(root.path()).unwrap() < empty + 1500 + 4096);
    }

    #[test]
    fn a_directory_in_use_is_refused_naming_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        let refused = DataDir::open(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("in use by process {}", std::process::id())),
            "{refused}"
        );
        drop(held);
        DataDir::open(&path).unwrap();
    }
}
