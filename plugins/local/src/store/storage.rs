//! Where the database is kept, and whether a file may be used as one.

use super::options::Options;
use super::{Result, StoreError};
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend};
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Name of the database's file.
pub const FILE_NAME: &str = "pintle.redb";
/// Name of the file of the log ahead of it.
pub const LOG_FILE_NAME: &str = "pintle.wal";
/// What every file of redb begins with.
const MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

/// Opens the database, at the start and again after a failure.
pub trait Storage: Debug {
    /// Opens the database, or makes one and has `initialise` write its first rows.
    fn open(
        &self,
        options: &Options,
        initialise: &dyn Fn(&Database) -> Result<()>,
    ) -> Result<Database>;

    /// What messages call it.
    fn path(&self) -> PathBuf;

    /// How many bytes it takes now.
    fn length(&self) -> Result<u64>;

    /// Opens the log ahead of the database; none if there is none.
    fn open_log(&self) -> Result<Option<Box<dyn StorageBackend>>>;

    /// Makes the log anew, durably: with these contents, or not at all.
    fn create_log(&self, contents: &[u8]) -> Result<Box<dyn StorageBackend>>;

    /// What messages call the log.
    fn log_path(&self) -> PathBuf;
}

/// Two files in a directory that nobody else writes to.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    log: PathBuf,
}

impl Directory {
    /// The files [`FILE_NAME`] and [`LOG_FILE_NAME`] in a directory.
    pub fn new(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self { path: directory.join(FILE_NAME), log: directory.join(LOG_FILE_NAME) }
    }
}

impl Storage for Directory {
    fn open(
        &self,
        options: &Options,
        initialise: &dyn Fn(&Database) -> Result<()>,
    ) -> Result<Database> {
        match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => open_existing(&self.path, file, options),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(&self.path, options, initialise)
            }
            Err(error) => Err(StoreError::storage("opening the file of the store", io(error))),
        }
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn length(&self) -> Result<u64> {
        let failed = |error| StoreError::storage("measuring the file of the store", io(error));
        Ok(std::fs::metadata(&self.path).map_err(failed)?.len())
    }

    fn open_log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        match OpenOptions::new().read(true).write(true).open(&self.log) {
            Ok(file) => Ok(Some(Box::new(LogFile(file)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::storage("opening the log of the store", io(error))),
        }
    }

    fn create_log(&self, contents: &[u8]) -> Result<Box<dyn StorageBackend>> {
        let failed = |error| StoreError::storage("creating the log of the store", io(error));
        let unfinished = self.log.with_extension("wal.new");
        let mut file = create_anew(&unfinished).map_err(failed)?;
        file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&unfinished, &self.log).map_err(failed)?;
        sync_directory(&self.log).map_err(failed)?;
        Ok(Box::new(LogFile(file)))
    }

    fn log_path(&self) -> PathBuf {
        self.log.clone()
    }
}

/// The log's file. The standard library would write what the system knows of the file with each
/// sync, where WASI is its system; the log needs its bytes only, since its length never changes.
#[derive(Debug)]
struct LogFile(File);

impl StorageBackend for LogFile {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let mut file = &self.0;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let (mut rest, mut at) = (data, offset);
        while !rest.is_empty() {
            match rustix::io::pwrite(&self.0, rest, at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    at += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn create_anew(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// Sets a database up under another name first: a file under the right name is always whole, so
/// that one that is not can be told from a beginning.
fn create(
    path: &Path,
    options: &Options,
    initialise: &dyn Fn(&Database) -> Result<()>,
) -> Result<Database> {
    let failed = |error| StoreError::storage("creating the file of the store", io(error));
    let unfinished = path.with_extension("new");
    let file = create_anew(&unfinished).map_err(failed)?;
    let database = open_database(path, file, options, false)?;
    initialise(&database)?;
    std::fs::rename(&unfinished, path).map_err(failed)?;
    sync_directory(path).map_err(failed)?;
    Ok(database)
}

/// Makes a new name durable, where the system lets directories be synced.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

fn open_existing(path: &Path, file: File, options: &Options) -> Result<Database> {
    let unusable = |reason: &str, remedy| StoreError::Unusable {
        path: path.to_owned(),
        reason: reason.to_owned(),
        remedy,
    };
    let failed = |error| StoreError::storage("reading the file of the store", io(error));
    let length = file.metadata().map_err(failed)?.len();
    let mut magic = Vec::new();
    (&file).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed)?;
    if magic != MAGIC {
        let empty = length == 0;
        let reason = if empty { "the file is empty" } else { "this is no database of Pintle" };
        let remedy = if empty {
            "put back a copy, or remove the file to begin with an empty store"
        } else {
            "move the file away, or grant another directory"
        };
        return Err(unusable(reason, remedy));
    }
    open_database(path, file, options, length <= options.verify_bytes_max)
}

fn open_database(path: &Path, file: File, options: &Options, verify: bool) -> Result<Database> {
    let backend = FileBackend::new(file).map_err(|error| classify(path, error))?;
    builder(options, verify).create_with_backend(backend).map_err(|error| classify(path, error))
}

/// The settings that every opening shares.
pub fn builder(options: &Options, verify: bool) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(verify);
    builder
}

fn classify(path: &Path, error: DatabaseError) -> StoreError {
    const PUT_BACK: &str = "put back a copy, or move the file away to begin with an empty store";
    let unusable =
        |reason: String, remedy| StoreError::Unusable { path: path.to_owned(), reason, remedy };
    match error {
        DatabaseError::DatabaseAlreadyOpen => unusable(
            "another process has the store open".into(),
            "stop that process, or grant another directory",
        ),
        DatabaseError::UpgradeRequired(version) => unusable(
            format!("the file has format {version} of redb, which is too old"),
            "convert it with an earlier release",
        ),
        DatabaseError::Storage(redb::StorageError::Corrupted(reason)) => {
            unusable(format!("the file is damaged ({reason})"), PUT_BACK)
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            unusable(format!("the file is damaged ({error})"), PUT_BACK)
        }
        error => StoreError::storage("opening the database", error),
    }
}

fn io(error: std::io::Error) -> redb::Error {
    redb::Error::Io(error)
}
