//! How commands find a running server: one file below the data directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where the server listens.
    pub(crate) url: String,
    /// Its process.
    pub(crate) pid: i32,
    /// When it started, in milliseconds of the Unix epoch.
    pub(crate) started_ms: u64,
}

impl Record {
    pub(crate) fn of_this_process(url: String) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            url,
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or_default(),
        }
    }

    /// Whether its process lives. The file stays behind when a server is killed.
    pub(crate) fn is_alive(&self) -> bool {
        // Zero and below would name groups of processes.
        self.pid > 0 && !matches!(kill(Pid::from_raw(self.pid), None), Err(Errno::ESRCH))
    }
}

/// The file of a server that runs on this data directory.
pub(crate) fn path(data_root: &Path) -> PathBuf {
    data_root.join("run").join("server.json")
}

/// Reads the file; none when there is none, or none that can be understood.
pub(crate) fn read(data_root: &Path) -> Option<Record> {
    let text = fs::read(path(data_root)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// A file that is taken away when this is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeFile {
    path: PathBuf,
    record: Record,
}

impl RuntimeFile {
    /// Writes the file at once and as a whole.
    pub(crate) fn write(data_root: &Path, record: Record) -> io::Result<Self> {
        let path = path(data_root);
        let folder = path.parent().unwrap_or(data_root);
        fs::create_dir_all(folder)?;
        let draft = folder.join(format!(".server.json.{}", record.pid));
        fs::write(&draft, serde_json::to_vec_pretty(&record)?)?;
        fs::rename(&draft, &path)?;
        Ok(Self { path, record })
    }
}

impl Drop for RuntimeFile {
    fn drop(&mut self) {
        // Another server may have replaced it.
        let present = fs::read(&self.path).ok();
        let is_ours = present
            .and_then(|text| serde_json::from_slice::<Record>(&text).ok())
            .is_some_and(|present| present == self.record);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: i32) -> Record {
        Record { url: "http://127.0.0.1:1".into(), pid, started_ms: 0 }
    }

    #[test]
    fn the_file_is_found_while_its_server_lives_and_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let ours = Record::of_this_process("http://127.0.0.1:1".into());
        let file = RuntimeFile::write(root.path(), ours.clone()).unwrap();
        assert_eq!(read(root.path()), Some(ours.clone()));
        assert!(ours.is_alive());
        drop(file);
        assert_eq!(read(root.path()), None);
    }

    #[test]
    fn the_file_of_a_successor_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let first = RuntimeFile::write(root.path(), record(1)).unwrap();
        let _second = RuntimeFile::write(root.path(), record(2)).unwrap();
        drop(first);
        assert_eq!(read(root.path()).unwrap().pid, 2);
    }

    #[test]
    fn a_dead_process_is_told_from_a_living_one() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(!record(pid).is_alive());
        assert!(!record(0).is_alive());
        assert!(!record(-1).is_alive());
    }

    #[test]
    fn garbage_is_as_good_as_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run")).unwrap();
        fs::write(path(root.path()), "{\"url\":").unwrap();
        assert_eq!(read(root.path()), None);
    }
}
