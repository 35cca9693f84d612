//! The one directory that a backend is granted, held by one host at a time.

use std::{
    collections::HashSet,
    fs, io,
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::limits::Limits;
use crate::settings::ByteSize;

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

/// What to say of a directory, if more of it is taken than `limits` allow.
pub(crate) async fn excess(path: PathBuf, limits: &Limits) -> Option<String> {
    let (bytes_max, files_max) = (limits.data_bytes, limits.open_files);
    let looked = tokio::task::spawn_blocking(move || (Usage::of(&path), path)).await;
    // Fails only when the host is going.
    let (usage, path) = looked.ok()?;
    let dir = path.display();
    match usage {
        Ok(Usage { bytes, .. }) if bytes > bytes_max => Some(too_full(bytes, &path, bytes_max)),
        Ok(Usage { open_files, .. }) if open_files > files_max => {
            Some(too_many_open(open_files, &path, files_max))
        }
        Ok(_) => None,
        // Not its fault, and nothing that lasts.
        Err(error) if is_want_of_files(&error) => {
            tracing::warn!(%dir, %error, "what it holds cannot be told");
            None
        }
        Err(error) => Some(untold(&error, &path, bytes_max)),
    }
}

/// What a directory holds, or what to say if that is more than it may.
pub(crate) fn held(path: &Path, bytes_max: u64) -> Result<u64, String> {
    match Usage::of(path) {
        Ok(Usage { bytes, .. }) if bytes > bytes_max => Err(too_full(bytes, path, bytes_max)),
        Ok(Usage { bytes, .. }) => Ok(bytes),
        // Not its fault. As far as anybody knows it is full, so that the next look comes soon.
        Err(error) if is_want_of_files(&error) => Ok(bytes_max),
        Err(error) => Err(untold(&error, path, bytes_max)),
    }
}

fn too_full(bytes: u64, path: &Path, bytes_max: u64) -> String {
    let (dir, max) = (path.display(), ByteSize::from_bytes(bytes_max));
    format!(
        "{dir} holds {bytes} bytes and may hold data_bytes = \"{max}\"; make room, or raise that in \
         the backend's limits.more"
    )
}

/// What cannot be measured is not within a limit: names may nest until no path reaches them.
fn untold(error: &io::Error, path: &Path, bytes_max: u64) -> String {
    let (dir, max) = (path.display(), ByteSize::from_bytes(bytes_max));
    format!("what {dir} holds cannot be told: {error}; make room for data_bytes = \"{max}\" there")
}

/// What to say of a plugin that is about to open one more file of its directory than it may.
pub(crate) fn one_too_many(path: &Path, files_max: u64) -> Option<String> {
    let mut usage = Usage::default();
    // Where the system does not tell, the next look at the directory says why.
    let known = usage.add_open(path).is_ok();
    (known && usage.open_files >= files_max)
        .then(|| too_many_open(usage.open_files, path, files_max))
}

fn too_many_open(count: u64, path: &Path, files_max: u64) -> String {
    let dir = path.display();
    format!(
        "{count} files of {dir} are open and there may be open_files = {files_max}; raise that in \
         the backend's limits.more"
    )
}

/// The least that a file takes, even an empty one: its name and what the system notes of it.
pub(crate) const FILE_BYTES_MIN: u64 = 4096;
/// Bytes of one block, in which systems count what a file takes.
const BLOCK_BYTES: u64 = 512;

/// What a file takes.
pub(crate) fn size(metadata: &fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(BLOCK_BYTES).max(FILE_BYTES_MIN)
}

/// What is taken of a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Of everything below it, and of what is still open there after it was removed.
    bytes: u64,
    /// Files and directories of it that this process has open.
    open_files: u64,
}

impl Usage {
    /// Links are not followed; what vanishes meanwhile does not count.
    fn of(path: &Path) -> io::Result<Self> {
        let mut usage = Self::default();
        usage.add_below(path)?;
        usage.add_open(path)?;
        Ok(usage)
    }

    fn add_below(&mut self, path: &Path) -> io::Result<()> {
        // Under several names a file takes its bytes once.
        let mut seen = HashSet::new();
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let Some(entries) = present(fs::read_dir(&folder))? else { continue };
            for entry in entries {
                let entry = entry?;
                let Some(metadata) = present(entry.metadata())? else { continue };
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else if metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino())) {
                    continue;
                }
                self.add(&metadata);
            }
        }
        Ok(())
    }

    /// What is open is told by the system's list of this process's files, where there is one.
    fn add_open(&mut self, path: &Path) -> io::Result<()> {
        let Some(entries) = present(fs::read_dir("/proc/self/fd"))? else { return Ok(()) };
        for entry in entries {
            let entry = entry?.path();
            let target = match fs::read_link(&entry) {
                // Whose it is cannot be told. Who made it is found by its directory, and others are
                // not to pay for it.
                Err(error) if is_too_long(&error) => continue,
                target => present(target)?,
            };
            let Some(target) = target else { continue };
            if !target.starts_with(path) {
                continue;
            }
            self.open_files += 1;
            let Some(metadata) = present(fs::metadata(&entry))? else { continue };
            if metadata.nlink() == 0 {
                self.add(&metadata);
            }
        }
        Ok(())
    }

    fn add(&mut self, metadata: &fs::Metadata) {
        self.bytes = self.bytes.saturating_add(size(metadata));
    }
}

/// Nothing for what is not there any more.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a path is too long for the system to tell it.
fn is_too_long(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NAMETOOLONG)
}

/// Whether the host itself has too many files open.
fn is_want_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(path: &Path) -> u64 {
        Usage::of(path).unwrap().bytes
    }

    #[test]
    fn all_files_below_a_directory_count_and_links_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let empty = bytes(root.path());
        fs::write(root.path().join("a/b/c"), vec![1; 1 << 20]).unwrap();
        let one = bytes(root.path());
        assert!(one >= empty + (1 << 20), "{one}");
        std::os::unix::fs::symlink("/", root.path().join("a/root")).unwrap();
        // A second name is no second file.
        fs::hard_link(root.path().join("a/b/c"), root.path().join("d")).unwrap();
        assert!(bytes(root.path()) < one + (1 << 20));
    }

    #[test]
    fn an_empty_file_counts_too() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..100 {
            fs::write(root.path().join(number.to_string()), "").unwrap();
        }
        assert!(bytes(root.path()) >= 100 * FILE_BYTES_MIN);
    }

    #[test]
    fn what_was_removed_counts_as_long_as_it_is_open() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::write(root.join("a"), vec![1; 1 << 20]).unwrap();
        let open = fs::File::open(root.join("a")).unwrap();
        fs::remove_file(root.join("a")).unwrap();
        let usage = Usage::of(&root).unwrap();
        assert!(usage.bytes >= 1 << 20, "{usage:?}");
        assert_eq!(usage.open_files, 1);
        drop(open);
        assert_eq!(Usage::of(&root).unwrap(), Usage::default());
    }

    /// A folder that no path reaches, open.
    fn too_deep(root: &Path) -> std::os::fd::OwnedFd {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let name = "x".repeat(250);
        let mut folder = openat(CWD, root, OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..20 {
            mkdirat(&folder, &*name, Mode::RWXU).unwrap();
            folder = openat(&folder, &*name, OFlags::RDONLY, Mode::empty()).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn what_no_path_reaches_is_more_than_there_may_be() {
        let root = tempfile::tempdir().unwrap();
        let _open = too_deep(root.path());
        let text = excess(root.path().to_owned(), &Limits::default()).await.unwrap();
        assert!(text.contains("cannot be told"), "{text}");
    }

    #[tokio::test]
    async fn what_no_path_reaches_is_held_against_nobody_else() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _open = too_deep(root.path());
        assert_eq!(excess(other.path().to_owned(), &Limits::default()).await, None);
        assert_eq!(one_too_many(other.path(), 1), None);
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
