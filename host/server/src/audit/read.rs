//! Reads the audit trail, the newest record first.

use std::{fmt, fs, io, path::Path, path::PathBuf};

use pintle_api::audit::{AuditPage, AuditQuery, Record};

use super::{
    REFUSALS,
    book::{numbers, path_of},
};

/// Where a page ends in one book: everything before this byte of this file is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    file: u64,
    before: usize,
}

/// Where a page ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Positions {
    changes: Position,
    refusals: Position,
}

/// One page of what fits, of changes and refusals together.
///
/// # Errors
///
/// A file cannot be read, or the page is none of ours ([`io::ErrorKind::InvalidInput`]).
pub(crate) fn page(folder: &Path, query: &AuditQuery, limit: usize) -> io::Result<AuditPage> {
    let from = query.page.as_deref().map(Positions::parse).transpose()?;
    let mut changes = Backwards::begin(folder.to_owned(), query, from.map(|from| from.changes))?;
    let refused = folder.join(REFUSALS);
    let mut refusals = Backwards::begin(refused, query, from.map(|from| from.refusals))?;
    let mut page = AuditPage::default();
    loop {
        let newer = match (changes.peek()?, refusals.peek()?) {
            (None, None) => break,
            (Some(change), Some(refusal)) if refusal.time_ms > change.time_ms => &mut refusals,
            (None, Some(_)) => &mut refusals,
            (Some(_), _) => &mut changes,
        };
        if page.records.len() == limit {
            let next = Positions { changes: changes.position(), refusals: refusals.position() };
            page.next = Some(next.to_string());
            break;
        }
        page.records.extend(newer.next.take());
    }
    page.unreadable = changes.unreadable.saturating_add(refusals.unreadable);
    Ok(page)
}

/// The records of one book that fit a query, the newest first.
struct Backwards<'a> {
    folder: PathBuf,
    query: &'a AuditQuery,
    /// Files that are older than the present one, the newest last.
    older: Vec<u64>,
    file: u64,
    text: Vec<u8>,
    /// What is left of the present file.
    end: usize,
    /// The next record.
    next: Option<Record>,
    /// Where the line of the next record ends.
    next_end: usize,
    unreadable: u32,
}

impl<'a> Backwards<'a> {
    fn begin(folder: PathBuf, query: &'a AuditQuery, from: Option<Position>) -> io::Result<Self> {
        let older = numbers(&folder)?.into_iter();
        let older: Vec<u64> =
            older.filter(|number| from.is_none_or(|from| *number <= from.file)).collect();
        let mut book = Self {
            folder,
            query,
            older,
            file: 0,
            text: Vec::new(),
            end: 0,
            next: None,
            next_end: 0,
            unreadable: 0,
        };
        if let Some(from) = from
            && book.older.last() == Some(&from.file)
        {
            book.open_older()?;
            book.end = book.end.min(from.before);
        }
        Ok(book)
    }

    /// The next record, if there is one.
    fn peek(&mut self) -> io::Result<Option<&Record>> {
        while self.next.is_none() {
            let Some((older, line)) = self.text.get(..self.end).and_then(last_line) else {
                if !self.open_older()? {
                    break;
                }
                continue;
            };
            let (before, line_end) = (older.len(), self.end);
            if !line.is_empty() {
                match serde_json::from_slice::<Record>(line) {
                    Ok(record) if fits(&record, self.query) => {
                        (self.next, self.next_end) = (Some(record), line_end);
                    }
                    Ok(record)
                        if self.query.since_ms.is_some_and(|since| record.time_ms < since) =>
                    {
                        // What is older lies before it.
                        self.older.clear();
                        self.end = 0;
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => self.unreadable = self.unreadable.saturating_add(1),
                }
            }
            self.end = before;
        }
        Ok(self.next.as_ref())
    }

    /// Goes on with the file before; answers false when there is none.
    fn open_older(&mut self) -> io::Result<bool> {
        while let Some(number) = self.older.pop() {
            match fs::read(path_of(&self.folder, number)) {
                Ok(text) => {
                    (self.file, self.end, self.text) = (number, text.len(), text);
                    return Ok(true);
                }
                // It made room for a new one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn position(&self) -> Position {
        let before = if self.next.is_some() { self.next_end } else { self.end };
        Position { file: self.file, before }
    }
}

/// What lies before the last line, and that line.
fn last_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return None;
    }
    let start = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
    Some((text.get(..start)?, body.get(start..)?))
}

fn fits(record: &Record, query: &AuditQuery) -> bool {
    let is = |wanted: &Option<String>, found: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted == found)
    };
    query.since_ms.is_none_or(|since| record.time_ms >= since)
        && query.until_ms.is_none_or(|until| record.time_ms <= until)
        && is(&query.caller, &record.caller)
        && is(&query.outcome, &record.outcome)
        && is(&query.backend, record.backend.as_deref().unwrap_or_default())
        && query.operation.as_deref().is_none_or(|wanted| lies_at(&record.operation, wanted, '.'))
        && query.key.as_deref().is_none_or(|wanted| {
            record.changes.iter().any(|change| lies_at(&change.key, wanted, '/'))
        })
}

/// Whether a path is the one that is wanted, or lies below it.
fn lies_at(path: &str, wanted: &str, separator: char) -> bool {
    let wanted = wanted.trim_end_matches(separator);
    path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}

impl Positions {
    fn parse(text: &str) -> io::Result<Self> {
        let positions = text.split_once('.').and_then(|(changes, refusals)| {
            let (changes, refusals) = (Position::parse(changes)?, Position::parse(refusals)?);
            Some(Self { changes, refusals })
        });
        let unknown = || io::Error::new(io::ErrorKind::InvalidInput, "page: not one of ours");
        positions.ok_or_else(unknown)
    }
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let (file, before) = text.split_once('-')?;
        Some(Self { file: file.parse().ok()?, before: before.parse().ok()? })
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.changes, self.refusals)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.file, self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::audit::Change;

    /// Changes in three files.
    fn trail() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let refused = folder.path().join(REFUSALS);
        fs::create_dir(&refused).unwrap();
        fs::write(path_of(&refused, 1), "").unwrap();
        for file in 1..=3_u64 {
            let line = |number: u64| {
                let record = Record {
                    time_ms: file * 10 + number,
                    caller: if number == 1 { "ann" } else { "bob" }.into(),
                    operation: "config.put".into(),
                    backend: Some("main".into()),
                    changes: vec![Change {
                        key: format!("app/{file}/{number}"),
                        ..Change::default()
                    }],
                    outcome: "done".into(),
                    status: 200,
                    ..Record::default()
                };
                serde_json::to_string(&record).unwrap() + "\n"
            };
            fs::write(path_of(folder.path(), file), (1..=2).map(line).collect::<String>()).unwrap();
        }
        folder
    }

    /// Refusals between them, in two files.
    fn refusals(folder: &Path) {
        for file in 1..=2_u64 {
            let line = |number: u64| {
                let record = Record {
                    time_ms: file * 10 + 5 * number,
                    outcome: "forbidden".into(),
                    ..Record::default()
                };
                serde_json::to_string(&record).unwrap() + "\n"
            };
            let path = path_of(&folder.join(REFUSALS), file);
            fs::write(path, (0..=1).map(line).collect::<String>()).unwrap();
        }
    }

    fn times(page: &AuditPage) -> Vec<u64> {
        page.records.iter().map(|record| record.time_ms).collect()
    }

    #[test]
    fn pages_go_back_in_time_over_all_files() {
        let folder = trail();
        let seen = |limit| {
            let mut query = AuditQuery::default();
            let mut seen = Vec::new();
            loop {
                let page = page(folder.path(), &query, limit).unwrap();
                assert!(page.records.len() <= limit);
                seen.extend(times(&page));
                query.page = page.next;
                if query.page.is_none() {
                    return seen;
                }
            }
        };
        for limit in 1..8 {
            assert_eq!(seen(limit), [32, 31, 22, 21, 12, 11], "{limit}");
        }
        refusals(folder.path());
        for limit in 1..12 {
            assert_eq!(seen(limit), [32, 31, 25, 22, 21, 20, 15, 12, 11, 10], "{limit}");
        }
    }

    #[test]
    fn a_line_that_was_cut_is_counted_and_harms_no_other() {
        let folder = trail();
        let path = path_of(folder.path(), 3);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen('\n', "\n{\"time_ms\":\n", 1)).unwrap();
        let page = page(folder.path(), &AuditQuery::default(), 10).unwrap();
        assert_eq!((times(&page).len(), page.unreadable), (6, 1));
    }

    #[test]
    fn what_is_asked_for_is_what_comes() {
        let folder = trail();
        let of = |query: AuditQuery| times(&page(folder.path(), &query, 100).unwrap());
        let query = AuditQuery::default;
        assert_eq!(of(AuditQuery { caller: Some("ann".into()), ..query() }), [31, 21, 11]);
        assert_eq!(of(AuditQuery { key: Some("app/2".into()), ..query() }), [22, 21]);
        assert_eq!(of(AuditQuery { key: Some("app/2/1".into()), ..query() }), [21]);
        assert!(of(AuditQuery { key: Some("ap".into()), ..query() }).is_empty());
        assert_eq!(of(AuditQuery { operation: Some("config".into()), ..query() }).len(), 6);
        assert!(of(AuditQuery { operation: Some("lock".into()), ..query() }).is_empty());
        assert!(of(AuditQuery { backend: Some("other".into()), ..query() }).is_empty());
        let window = AuditQuery { since_ms: Some(12), until_ms: Some(22), ..query() };
        assert_eq!(of(window), [22, 21, 12]);
    }

    #[test]
    fn a_page_that_is_none_of_ours_is_refused() {
        let folder = trail();
        for text in ["", "1", "1-1", "x-1.1-1", "1-y.1-1", "1-1.", "1-1.1-1.1-1"] {
            let query = AuditQuery { page: Some(text.into()), ..AuditQuery::default() };
            let refused = page(folder.path(), &query, 1).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
        let beyond = AuditQuery { page: Some("2-99999.0-0".into()), ..AuditQuery::default() };
        assert_eq!(times(&page(folder.path(), &beyond, 1).unwrap()), [22]);
    }
}
