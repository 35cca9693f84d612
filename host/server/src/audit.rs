//! The audit trail: a line of JSON for each request that changed something, or would have.
//!
//! Lines go to numbered files in the data folder. A line is written before its request is answered;
//! when that fails, the log and a metric say so, and the request is answered all the same.

pub(crate) mod read;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use axum::{extract::FromRequestParts, response::Response};
use http::request::Parts;
use pintle_api::audit::{Change, Record};

use crate::{
    access::{Caller, Peer},
    convert::epoch_ms,
    failure::{Failure, ProblemCode},
    operations::{Kind, Operation},
};

/// After this many bytes a new file is begun.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files that are kept.
const FILES_MAX: usize = 16;
/// Outcome of a request that was answered with success.
const DONE: &str = "done";

/// What a route says of its request while it is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail(Option<Arc<Mutex<Note>>>);

#[derive(Debug, Default)]
struct Note {
    backend: Option<String>,
    changes: Vec<Change>,
    detail: Option<String>,
}

impl Trail {
    pub(crate) fn of(operation: &Operation) -> Self {
        Self((operation.kind != Kind::Read).then(Arc::default))
    }

    /// What the request is about, before anything is done.
    pub(crate) fn about(&self, backend: &str, keys: impl IntoIterator<Item = impl Into<String>>) {
        self.note(|note| {
            note.backend = Some(backend.into()).filter(|name: &String| !name.is_empty());
            let changes = keys.into_iter();
            note.changes =
                changes.map(|key| Change { key: key.into(), ..Change::default() }).collect();
        });
    }

    /// The versions of a thing that the request is about.
    pub(crate) fn versions(&self, key: &str, before: Option<String>, after: Option<String>) {
        self.note(|note| {
            for change in note.changes.iter_mut().filter(|change| change.key == key) {
                change.before = before.clone();
                change.after = after.clone();
            }
        });
    }

    /// More, for a person.
    pub(crate) fn detail(&self, detail: impl Into<String>) {
        self.note(|note| note.detail = Some(detail.into()));
    }

    fn note(&self, write: impl FnOnce(&mut Note)) {
        if let Some(note) = &self.0 {
            write(&mut note.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn take(&self) -> Note {
        let note = self.0.as_ref();
        note.map(|note| std::mem::take(&mut *note.lock().unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Trail {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The audit trail of one data folder.
#[derive(Debug)]
pub(crate) struct Audit {
    folder: Option<PathBuf>,
    out: Mutex<Option<Out>>,
    failures: std::sync::atomic::AtomicU64,
}

#[derive(Debug)]
struct Out {
    file: File,
    number: u64,
    bytes: u64,
}

/// The audit trail cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit trail in {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl Audit {
    /// For an API that keeps none.
    pub(crate) fn none() -> Self {
        Self { folder: None, out: Mutex::default(), failures: Default::default() }
    }

    pub(crate) fn open(folder: PathBuf) -> Result<Self, AuditError> {
        let failed = |source| AuditError { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let number = numbers(&folder).map_err(failed)?.last().copied().unwrap_or(1);
        let out = Out::open(&folder, number).map_err(failed)?;
        Ok(Self { folder: Some(folder), out: Mutex::new(Some(out)), failures: Default::default() })
    }

    /// Whether there is one.
    pub(crate) fn is_kept(&self) -> bool {
        self.folder.is_some()
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Lines that could not be written.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes down what became of a request.
    pub(crate) fn record(
        &self,
        operation: &Operation,
        caller: &Caller,
        peer: Option<Peer>,
        trail: &Trail,
        response: &Response,
    ) {
        if !self.is_kept() {
            return;
        }
        let Note { backend, changes, detail } = trail.take();
        let problem = response.extensions().get::<ProblemCode>();
        self.write(&Record {
            time_ms: epoch_ms(SystemTime::now()),
            caller: caller.name().into(),
            address: peer.map(|peer| peer.address.to_string()),
            operation: operation.id.into(),
            backend,
            changes,
            detail,
            outcome: problem.map_or_else(|| DONE.into(), |problem| problem.0.clone()),
            status: response.status().as_u16(),
        });
    }

    /// Writes down that somebody came with a token that nobody has.
    pub(crate) fn refused_token(&self, operation: &Operation, address: IpAddr, why: &Failure) {
        self.write(&Record {
            time_ms: epoch_ms(SystemTime::now()),
            caller: "unknown".into(),
            address: Some(address.to_string()),
            operation: operation.id.into(),
            outcome: why.problem().code().into(),
            status: why.problem().status,
            ..Record::default()
        });
    }

    fn write(&self, record: &Record) {
        let Some(folder) = &self.folder else { return };
        let mut out = self.out();
        let written = serde_json::to_vec(record).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            let present = match out.take() {
                Some(present) if present.bytes < FILE_BYTES_MAX => present,
                Some(full) => Out::next(folder, full.number)?,
                None => {
                    let number = numbers(folder)?.last().copied().unwrap_or(1);
                    Out::open(folder, number)?
                }
            };
            let present = out.insert(present);
            // In one piece: another process may write to the same file.
            present.file.write_all(&line)?;
            present.bytes += u64::try_from(line.len()).unwrap_or_default();
            Ok(())
        });
        if let Err(error) = written {
            *out = None;
            self.failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::error!(
                %error, operation = record.operation, caller = record.caller,
                "not written to the audit trail"
            );
        }
    }

    fn out(&self) -> MutexGuard<'_, Option<Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    fn open(folder: &Path, number: u64) -> io::Result<Self> {
        let path = path_of(folder, number);
        let mut file =
            File::options().create(true).append(true).read(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        if bytes > 0 {
            // A crash may have cut the last line; the next must not be lost with it.
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file, number, bytes })
    }

    /// Begins the next file, and takes the oldest away.
    fn next(folder: &Path, number: u64) -> io::Result<Self> {
        let out = Self::open(folder, number + 1)?;
        let numbers = numbers(folder)?;
        let excess = numbers.len().saturating_sub(FILES_MAX);
        for old in numbers.into_iter().take(excess) {
            fs::remove_file(path_of(folder, old))?;
        }
        Ok(out)
    }
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.jsonl"))
}

/// The numbers of the files that there are.
fn numbers(folder: &Path) -> io::Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::audit::AuditQuery;

    fn record(key: &str) -> Record {
        let changes = vec![Change { key: key.into(), ..Change::default() }];
        let (operation, outcome) = ("config.put".into(), DONE.into());
        Record { time_ms: 7, operation, changes, outcome, status: 200, ..Record::default() }
    }

    fn keys(folder: &Path) -> Vec<String> {
        let page = read::page(folder, &AuditQuery::default(), 1_000).unwrap();
        page.records.into_iter().flat_map(|record| record.changes).map(|c| c.key).collect()
    }

    #[test]
    fn lines_outlive_the_process_and_one_that_was_cut_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        Audit::open(folder.path().into()).unwrap().write(&record("a"));
        let path = path_of(folder.path(), 1);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"time_ms\":");
        fs::write(&path, text).unwrap();
        Audit::open(folder.path().into()).unwrap().write(&record("b"));
        assert_eq!(keys(folder.path()), ["b", "a"]);
        let page = read::page(folder.path(), &AuditQuery::default(), 10).unwrap();
        assert_eq!(page.unreadable, 1);
    }

    #[test]
    fn old_files_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path().into()).unwrap();
        for number in 0..FILES_MAX + 3 {
            audit.write(&record(&format!("k{number}")));
            if let Some(out) = &mut *audit.out() {
                out.bytes = FILE_BYTES_MAX;
            }
        }
        let files = numbers(folder.path()).unwrap();
        assert_eq!(files.len(), FILES_MAX);
        assert!(!files.contains(&1));
        let newest = format!("k{}", FILES_MAX + 2);
        assert_eq!(keys(folder.path()).first(), Some(&newest));
    }

    #[test]
    fn a_trail_that_cannot_be_written_is_counted_and_goes_on_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("audit");
        let audit = Audit::open(place.clone()).unwrap();
        *audit.out() = None;
        fs::remove_dir_all(&place).unwrap();
        audit.write(&record("lost"));
        assert_eq!(audit.failures(), 1);
        fs::create_dir(&place).unwrap();
        audit.write(&record("found"));
        assert_eq!(keys(&place), ["found"]);
    }
}
