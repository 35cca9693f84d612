//! A disk that loses what was not synced, and that fails when it is told to.

use pintle_plugin_local::store::{Options, Result, Storage, StoreError, builder};
use redb::{BackendError, Database, StorageBackend};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A disk in memory: writes reach its plate only when they are synced, or by chance at a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Surface>>);

#[derive(Debug, Default)]
struct Surface {
    plate: Vec<u8>,
    cache: Vec<u8>,
    unsynced: Vec<Write>,
    /// Operations that change something, so far.
    operations: u64,
    /// How many times a database had to be repaired when it was opened.
    repairs: u64,
    /// From this operation on everything fails.
    fails_from: Option<(u64, io::ErrorKind)>,
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
}

impl Disk {
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    pub(crate) fn repairs(&self) -> u64 {
        self.0.lock().unwrap().repairs
    }

    /// Lets everything fail after so many more operations that change something.
    pub(crate) fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        let mut surface = self.0.lock().unwrap();
        surface.fails_from = Some((surface.operations + operations, kind));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().fails_from = None;
    }

    /// What a machine finds after a power cut: synced writes, and those others that `survives`
    /// picks.
    pub(crate) fn after_crash(&self, mut survives: impl FnMut() -> bool) -> Self {
        let surface = self.0.lock().unwrap();
        let mut plate = surface.plate.clone();
        for write in surface.unsynced.iter().filter(|_| survives()) {
            write.apply(&mut plate);
        }
        let surface = Surface { cache: plate.clone(), plate, ..Surface::default() };
        Self(Arc::new(Mutex::new(surface)))
    }

    fn change(&self, write: Write) -> Result<(), BackendError> {
        let mut surface = self.0.lock().unwrap();
        surface.check()?;
        surface.operations += 1;
        write.apply(&mut surface.cache);
        surface.unsynced.push(write);
        Ok(())
    }
}

impl Surface {
    fn check(&self) -> Result<(), BackendError> {
        match self.fails_from {
            Some((from, kind)) if self.operations >= from => {
                Err(BackendError::Io(io::Error::new(kind, "the disk was told to fail")))
            }
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, BackendIoError> {
        Ok(self.0.lock().unwrap().cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BackendIoError> {
        let surface = self.0.lock().unwrap();
        let start = offset as usize;
        match surface.cache.get(start..start + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, length: u64) -> Result<(), BackendIoError> {
        Ok(self.change(Write::Length(length))?)
    }

    fn sync_data(&self) -> Result<(), BackendIoError> {
        let mut surface = self.0.lock().unwrap();
        surface.check()?;
        surface.operations += 1;
        surface.unsynced.clear();
        surface.plate = surface.cache.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BackendIoError> {
        Ok(self.change(Write::Bytes(offset, data.to_vec()))?)
    }
}

type BackendIoError = io::Error;

impl Storage for Disk {
    fn open(
        &self,
        options: &Options,
        initialise: &dyn Fn(&Database) -> Result<()>,
    ) -> Result<Database> {
        let fresh = self.0.lock().unwrap().cache.is_empty();
        let failed = |error: redb::DatabaseError| StoreError::Closed { reason: error.to_string() };
        let repaired = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&repaired);
        let database = builder(options, false)
            .set_repair_callback(move |_| noted.store(true, Ordering::SeqCst))
            .create_with_backend(self.clone())
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
        Ok(self.0.lock().unwrap().cache.len() as u64)
    }
}
