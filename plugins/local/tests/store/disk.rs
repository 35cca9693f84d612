//! A disk that loses what was not synced, and that fails when it is told to.

use pintle_plugin_local::store::{Options, Result, Storage, StoreError, builder};
use redb::{Database, StorageBackend};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A disk in memory: writes reach its plate only when they are synced, or by chance at a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Surface>>);

/// One of the two files on a [`Disk`].
#[derive(Clone, Debug)]
pub(crate) struct File {
    disk: Disk,
    name: Name,
}

#[derive(Clone, Copy, Debug)]
enum Name {
    Database,
    Log,
}

#[derive(Debug, Default)]
struct Surface {
    database: Content,
    log: Content,
    /// Operations that change something, so far.
    operations: u64,
    /// How many times a store was opened on it, or on those whose crashes it is what is left of.
    openings: u64,
    /// How many times a database had to be repaired when it was opened.
    repairs: u64,
    /// From this operation on everything fails.
    fails_from: Option<(u64, io::ErrorKind)>,
    /// Whether there is no room for a longer file.
    is_full: bool,
}

#[derive(Debug, Default)]
struct Content {
    plate: Vec<u8>,
    cache: Vec<u8>,
    unsynced: Vec<Write>,
}

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

impl Content {
    fn is(bytes: Vec<u8>) -> Self {
        Self { plate: bytes.clone(), cache: bytes, unsynced: vec![] }
    }
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Bytes(offset, data) => {
                let start = *offset as usize;
                let end = start + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
            }
        }
    }

    /// How long the file is at least after it.
    fn end(&self) -> usize {
        match self {
            Self::Length(length) => *length as usize,
            Self::Bytes(offset, data) => *offset as usize + data.len(),
        }
    }

    /// The sectors of a write.
    fn sectors(&self) -> Vec<Self> {
        match self {
            Self::Length(_) => vec![self.clone()],
            Self::Bytes(offset, data) => (*offset..)
                .step_by(SECTOR_BYTES)
                .zip(data.chunks(SECTOR_BYTES))
                .map(|(offset, data)| Self::Bytes(offset, data.to_vec()))
                .collect(),
        }
    }
}

impl Disk {
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// Counts an opening, and answers how many there were before.
    pub(crate) fn opening(&self) -> u64 {
        let mut surface = self.0.lock().unwrap();
        surface.openings += 1;
        surface.openings - 1
    }

    pub(crate) fn repairs(&self) -> u64 {
        self.0.lock().unwrap().repairs
    }

    /// Lets everything fail after so many more operations that change something.
    pub(crate) fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        let mut surface = self.0.lock().unwrap();
        surface.fails_from = Some((surface.operations + operations, kind));
    }

    /// Lets files become longer, or not.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.0.lock().unwrap().is_full = is_full;
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().fails_from = None;
    }

    /// What a machine finds after a power cut: synced writes, and those others that `survives`
    /// picks; of those to the log, it picks single sectors.
    pub(crate) fn after_crash(&self, mut survives: impl FnMut() -> bool) -> Self {
        let surface = self.0.lock().unwrap();
        let mut left = |plate: &[u8], unsynced: Vec<Write>| {
            let mut plate = plate.to_vec();
            for write in unsynced.iter().filter(|_| survives()) {
                write.apply(&mut plate);
            }
            Content::is(plate)
        };
        let (database, log) = (&surface.database, &surface.log);
        let database = left(&database.plate, database.unsynced.clone());
        let log = left(&log.plate, log.unsynced.iter().flat_map(Write::sectors).collect());
        Self(Arc::new(Mutex::new(Surface {
            database,
            log,
            openings: surface.openings,
            ..Surface::default()
        })))
    }

    pub(crate) fn database(&self) -> File {
        File { disk: self.clone(), name: Name::Database }
    }

    pub(crate) fn log(&self) -> File {
        File { disk: self.clone(), name: Name::Log }
    }

    fn changing(&self) -> io::Result<MutexGuard<'_, Surface>> {
        let mut surface = self.0.lock().unwrap();
        match surface.fails_from {
            Some((from, kind)) if surface.operations >= from => {
                Err(io::Error::new(kind, "the disk was told to fail"))
            }
            _ => {
                surface.operations += 1;
                Ok(surface)
            }
        }
    }
}

impl Surface {
    fn content(&mut self, name: Name) -> &mut Content {
        match name {
            Name::Database => &mut self.database,
            Name::Log => &mut self.log,
        }
    }
}

impl File {
    /// What is in it, synced or not.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.disk.0.lock().unwrap().content(self.name).cache.clone()
    }

    /// Puts another file in its place.
    pub(crate) fn replace(&self, bytes: Vec<u8>) {
        *self.disk.0.lock().unwrap().content(self.name) = Content::is(bytes);
    }

    fn change(&self, write: Write) -> io::Result<()> {
        let mut surface = self.disk.changing()?;
        let is_full = surface.is_full;
        let content = surface.content(self.name);
        if is_full && write.end() > content.cache.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        write.apply(&mut content.cache);
        content.unsynced.push(write);
        Ok(())
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().unwrap().content(self.name).cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut surface = self.disk.0.lock().unwrap();
        let start = offset as usize;
        match surface.content(self.name).cache.get(start..start + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Write::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut surface = self.disk.changing()?;
        let content = surface.content(self.name);
        content.unsynced.clear();
        content.plate = content.cache.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Write::Bytes(offset, data.to_vec()))
    }
}

impl Storage for Disk {
    fn open(
        &self,
        options: &Options,
        initialise: &dyn Fn(&Database) -> Result<()>,
    ) -> Result<Database> {
        let fresh = self.database().bytes().is_empty();
        let failed = |error: redb::DatabaseError| StoreError::Closed { reason: error.to_string() };
        let repaired = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&repaired);
        let database = builder(options, false)
            .set_repair_callback(move |_| noted.store(true, Ordering::SeqCst))
            .create_with_backend(self.database())
            .map_err(failed)?;
        self.0.lock().unwrap().repairs += u64::from(repaired.load(Ordering::SeqCst));
        if fresh {
            initialise(&database)?;
        }
        Ok(database)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("(memory)")
    }

    fn length(&self) -> Result<u64> {
        Ok(self.database().bytes().len() as u64)
    }

    fn open_log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        let log = self.log();
        Ok(if log.bytes().is_empty() { None } else { Some(Box::new(log)) })
    }

    fn create_log(&self, contents: &[u8]) -> Result<Box<dyn StorageBackend>> {
        match self.changing() {
            Ok(mut surface) => surface.log = Content::is(contents.to_vec()),
            Err(error) => return Err(StoreError::Closed { reason: error.to_string() }),
        }
        Ok(Box::new(self.log()))
    }

    fn log_path(&self) -> PathBuf {
        PathBuf::from("(memory, log)")
    }
}
