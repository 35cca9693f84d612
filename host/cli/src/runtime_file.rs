//! How commands find a running server: one file below the data directory.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
    /// Whether it can be asked.
    #[serde(default)]
    pub(crate) state: State,
}

/// Whether a server can be asked. In any of these it has the data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It listens already, and will answer.
    Starting,
    /// It answers.
    #[default]
    Serving,
    /// It answers no more, and lets go of the data.
    Stopping,
}

impl Record {
    pub(crate) fn of_this_process(url: String, state: State) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            url,
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or_default(),
            state,
        }
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

/// The file of what shows a server on this data directory that one may read it.
pub(crate) fn owner_path(data_root: &Path) -> PathBuf {
    path(data_root).with_file_name("owner.token")
}

/// Whether a server has this data directory, whatever the file says: that stays behind when a server
/// is killed.
pub(crate) fn is_reserved(data_root: &Path) -> Result<bool, RuntimeFileError> {
    let path = lock_path(data_root);
    let unreadable = |source| RuntimeFileError::Unusable { path: path.clone(), source };
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // Another user's server is named by its address; without that this is not about its data.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(unreadable(error)),
    };
    // Given back at once, with the file.
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(unreadable(error)),
    }
}

fn lock_path(data_root: &Path) -> PathBuf {
    path(data_root).with_file_name("server.lock")
}

/// A command that looks has the lock for a moment, and must not keep a server from starting.
const ATTEMPTS_MAX: u32 = 20;
const ATTEMPT_PERIOD: Duration = Duration::from_millis(10);

/// Why there is no runtime file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeFileError {
    /// Another server has it.
    #[error(
        "a server runs on this data directory already{}: stop it, or give this one a `data_dir` of \
         its own", .0.as_ref().map(|r| format!(", process {} at {}", r.pid, r.url)).unwrap_or_default()
    )]
    Taken(Option<Record>),
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The place of the file, for one server at a time. The system gives it free however that ends.
#[derive(Debug)]
pub(crate) struct Reservation {
    path: PathBuf,
    lock: File,
}

impl Reservation {
    /// Reserves the place.
    pub(crate) fn of(data_root: &Path) -> Result<Self, RuntimeFileError> {
        let path = path(data_root);
        let folder = path.parent().unwrap_or(data_root);
        let lock_path = lock_path(data_root);
        let opened = fs::create_dir_all(folder)
            .and_then(|()| File::options().create(true).append(true).open(&lock_path));
        let unusable = |source| RuntimeFileError::Unusable { path: lock_path.clone(), source };
        let lock = opened.map_err(unusable)?;
        for _ in 0..ATTEMPTS_MAX {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path, lock }),
                Err(TryLockError::WouldBlock) => thread::sleep(ATTEMPT_PERIOD),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
        }
        Err(RuntimeFileError::Taken(read(data_root)))
    }

    /// Writes down a secret that nobody else can read.
    pub(crate) fn write_owner_secret(&self, secret: &str) -> Result<(), RuntimeFileError> {
        let path = self.path.with_file_name("owner.token");
        let written = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::options().write(true).create_new(true).mode(0o600).open(&path),
        };
        written
            .and_then(|mut file| file.write_all(secret.as_bytes()))
            .map_err(|source| RuntimeFileError::Unusable { path, source })
    }

    /// Writes the file.
    pub(crate) fn announce(self, record: Record) -> Result<RuntimeFile, RuntimeFileError> {
        let file = RuntimeFile { reservation: self, record };
        file.write()?;
        Ok(file)
    }
}

/// A file that is taken away when this is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeFile {
    reservation: Reservation,
    record: Record,
}

impl RuntimeFile {
    /// Writes down a secret that nobody else can read.
    pub(crate) fn write_owner_secret(&self, secret: &str) -> Result<(), RuntimeFileError> {
        self.reservation.write_owner_secret(secret)
    }

    /// Tells that the server is in another state now.
    pub(crate) fn turn(&mut self, state: State) -> Result<(), RuntimeFileError> {
        self.record.state = state;
        self.write()
    }

    /// At once and as a whole.
    fn write(&self) -> Result<(), RuntimeFileError> {
        let path = &self.reservation.path;
        let draft = path.with_extension("json.new");
        serde_json::to_vec_pretty(&self.record)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, path))
            .map_err(|source| RuntimeFileError::Unusable { path: draft, source })
    }
}

impl Drop for RuntimeFile {
    fn drop(&mut self) {
        for path in [&self.reservation.path, &self.reservation.path.with_file_name("owner.token")] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "not removed");
                }
                _ => {}
            }
        }
        // Given free by closing it in any case.
        let _ = self.reservation.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: i32) -> Record {
        Record { url: "http://127.0.0.1:1".into(), pid, started_ms: 0, state: State::Serving }
    }

    #[test]
    fn the_file_is_found_while_its_server_lives_and_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let ours = Record::of_this_process("http://127.0.0.1:1".into(), State::Starting);
        let mut file = Reservation::of(root.path()).unwrap().announce(ours.clone()).unwrap();
        assert_eq!(read(root.path()), Some(ours.clone()));
        file.turn(State::Serving).unwrap();
        assert_eq!(read(root.path()).map(|record| record.state), Some(State::Serving));
        assert!(is_reserved(root.path()).unwrap());
        drop(file);
        assert_eq!(read(root.path()), None);
        assert!(!is_reserved(root.path()).unwrap());
        assert!(Reservation::of(root.path()).is_ok());
    }

    #[test]
    fn a_second_server_is_told_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let reservation = Reservation::of(root.path()).unwrap();
        let early = Reservation::of(root.path()).unwrap_err();
        assert!(matches!(early, RuntimeFileError::Taken(None)), "{early}");
        let _file = reservation.announce(record(17)).unwrap();
        let text = Reservation::of(root.path()).unwrap_err().to_string();
        assert!(text.contains("process 17 at http://127.0.0.1:1"), "{text}");
    }

    #[test]
    fn commands_that_look_do_not_keep_a_server_from_starting() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_reserved(root.path()).unwrap());
        drop(Reservation::of(root.path()).unwrap());
        let look = File::open(lock_path(root.path())).unwrap();
        look.try_lock_shared().unwrap();
        let looking = thread::spawn(move || {
            thread::sleep(ATTEMPT_PERIOD * 3);
            drop(look);
        });
        assert!(Reservation::of(root.path()).is_ok());
        looking.join().unwrap();
    }

    #[test]
    fn the_secret_of_the_owner_is_for_the_owner_while_the_server_lives() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let file = Reservation::of(root.path()).unwrap().announce(record(17)).unwrap();
        fs::write(owner_path(root.path()), "left behind").unwrap();
        file.write_owner_secret("pintle_x").unwrap();
        assert_eq!(fs::read_to_string(owner_path(root.path())).unwrap(), "pintle_x");
        assert_eq!(fs::metadata(owner_path(root.path())).unwrap().mode() & 0o777, 0o600);
        drop(file);
        assert!(!owner_path(root.path()).exists());
    }

    #[test]
    fn garbage_is_as_good_as_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run")).unwrap();
        fs::write(path(root.path()), "{\"url\":").unwrap();
        assert_eq!(read(root.path()), None);
    }
}
