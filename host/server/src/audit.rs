//! The audit trail: a line of JSON for each request that changed something, or would have.
//!
//! Lines go to numbered files in the data folder; those of requests that were not let in go to files
//! of their own, so that nobody who may do nothing can make the trail of changes forget. A line is
//! written before its request is answered; when that fails, the log and a metric say so, and the
//! request is answered all the same.

mod book;
pub(crate) mod read;
mod trail;

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use axum::response::Response;
use pintle_api::audit::{ABANDONED, DONE, Record};

use crate::{
    convert::epoch_ms,
    failure::{Failure, ProblemCode},
    operations::Operation,
};
use book::Book;
pub(crate) use trail::Trail;

/// Bytes of one file of changes.
const CHANGES_BYTES_MAX: u64 = 16 << 20;
/// Bytes of one file of refusals.
const REFUSALS_BYTES_MAX: u64 = 1 << 20;
/// Folder of the refusals, in that of the changes.
const REFUSALS: &str = "refused";

/// The audit trail of one data folder.
#[derive(Debug)]
pub(crate) struct Audit {
    books: Option<Books>,
    failures: AtomicU64,
}

#[derive(Debug)]
struct Books {
    changes: Book,
    refusals: Book,
}

/// The audit trail cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit trail in {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// Who asked for something, and for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) operation: &'static Operation,
    pub(crate) caller: &'a str,
    pub(crate) address: Option<IpAddr>,
    pub(crate) trail: &'a Trail,
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate<'a> {
    /// Its route answered.
    Answered(&'a Response),
    /// It was not let in.
    Refused(&'a Failure),
    /// Nobody was left to hear the answer: what it did is not known.
    Abandoned,
}

impl Audit {
    /// For an API that keeps none.
    pub(crate) fn none() -> Self {
        Self { books: None, failures: AtomicU64::default() }
    }

    pub(crate) fn open(folder: PathBuf) -> Result<Self, AuditError> {
        let books = Books::open(&folder).map_err(|source| AuditError { path: folder, source })?;
        Ok(Self { books: Some(books), failures: AtomicU64::default() })
    }

    /// Whether there is one.
    pub(crate) fn is_kept(&self) -> bool {
        self.books.is_some()
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.books.as_ref().map(|books| books.changes.folder())
    }

    /// Lines that could not be written.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Writes down what became of a request.
    pub(crate) fn record(&self, asked: Asked<'_>, fate: Fate<'_>) {
        let Some(books) = &self.books else { return };
        let note = asked.trail.take();
        let (outcome, status) = match fate {
            Fate::Answered(response) => {
                let problem = response.extensions().get::<ProblemCode>();
                if problem.is_none() && note.changed_nothing {
                    return;
                }
                let outcome = problem.map_or(DONE, |problem| problem.0.as_str());
                (outcome, response.status().as_u16())
            }
            Fate::Refused(failure) => (failure.problem().code(), failure.problem().status),
            Fate::Abandoned => (ABANDONED, 0),
        };
        let record = Record {
            time_ms: epoch_ms(SystemTime::now()),
            caller: asked.caller.into(),
            address: asked.address.map(|address| address.to_string()),
            operation: asked.operation.id.into(),
            outcome: trail::cut(outcome),
            status,
            ..note.record()
        };
        let book = match fate {
            Fate::Refused(_) => &books.refusals,
            Fate::Answered(_) | Fate::Abandoned => &books.changes,
        };
        if let Err(error) = write(book, &record) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                %error, operation = record.operation, caller = record.caller,
                "not written to the audit trail"
            );
        }
    }
}

impl Books {
    fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            changes: Book::open(folder.to_owned(), CHANGES_BYTES_MAX)?,
            refusals: Book::open(folder.join(REFUSALS), REFUSALS_BYTES_MAX)?,
        })
    }
}

fn write(book: &Book, record: &Record) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    book.write(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{self, Subject};
    use axum::response::IntoResponse;
    use pintle_api::{audit::AuditQuery, problem::code};

    fn subject(key: &str) -> Subject {
        Subject { backend: Some("main".into()), key: Some(key.into()) }
    }

    /// Writes down that somebody asked to write a key.
    fn record(audit: &Audit, key: &str, fate: Fate<'_>) {
        let operation = operations::all().find(|operation| operation.id == "config.put").unwrap();
        let trail = Trail::of(subject(key));
        audit.record(Asked { operation, caller: "ann", address: None, trail: &trail }, fate);
    }

    fn told(audit: &Audit) -> Vec<(String, String)> {
        let page = read::page(audit.folder().unwrap(), &AuditQuery::default(), 1_000).unwrap();
        let told = page.records.into_iter();
        told.map(|mut record| (record.changes.remove(0).key, record.outcome)).collect()
    }

    #[test]
    fn refusals_take_no_room_from_changes() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path().join("audit")).unwrap();
        let done = ().into_response();
        record(&audit, "first", Fate::Answered(&done));
        let refused = Failure::of(code::FORBIDDEN, "");
        let long = "x".repeat(100_000);
        let bytes_max = u64::try_from(book::FILES_MAX).unwrap() * REFUSALS_BYTES_MAX;
        for _ in 0..bytes_max / 1_024 + 1_024 {
            record(&audit, &long, Fate::Refused(&refused));
        }
        let changes = fs_bytes(audit.folder().unwrap());
        assert!(changes < 1_024, "{changes} bytes");
        let refusals = fs_bytes(&audit.folder().unwrap().join(REFUSALS));
        assert!(refusals <= bytes_max + 100_000, "{refusals} bytes");
        let query = AuditQuery { outcome: Some(DONE.into()), ..AuditQuery::default() };
        let page = read::page(audit.folder().unwrap(), &query, 10).unwrap();
        assert_eq!(page.records[0].changes[0].key, "first");
    }

    fn fs_bytes(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        files.map(|entry| entry.metadata().unwrap().len()).sum()
    }

    #[test]
    fn what_was_given_up_is_there_and_what_changed_nothing_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path().join("audit")).unwrap();
        record(&audit, "given-up", Fate::Abandoned);
        let operation = operations::all().find(|operation| operation.id == "config.put").unwrap();
        let trail = Trail::of(subject("same"));
        let asked = Asked { operation, caller: "ann", address: None, trail: &trail };
        trail.changed_nothing();
        audit.record(asked, Fate::Answered(&().into_response()));
        assert_eq!(told(&audit), [("given-up".to_owned(), ABANDONED.to_owned())]);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("audit");
        let audit = Audit::open(place.clone()).unwrap();
        let refused = Failure::of(code::FORBIDDEN, "");
        std::fs::remove_dir_all(&place).unwrap();
        // The open file goes on to take what is written; a new one cannot be made.
        audit.books.as_ref().unwrap().refusals.close();
        record(&audit, "lost", Fate::Refused(&refused));
        assert_eq!(audit.failures(), 1);
    }
}
