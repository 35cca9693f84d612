//! Reads the audit trail, the newest record first.

use std::{fs, io, path::Path};

use pintle_api::audit::{AuditPage, AuditQuery, Record};

use super::{numbers, path_of};

/// Where a page ends: everything before this byte of this file is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    file: u64,
    before: usize,
}

/// One page of what fits.
///
/// # Errors
///
/// A file cannot be read, or the page is none of ours ([`io::ErrorKind::InvalidInput`]).
pub(crate) fn page(folder: &Path, query: &AuditQuery, limit: usize) -> io::Result<AuditPage> {
    let from = query.page.as_deref().map(Position::parse).transpose()?;
    let mut page = AuditPage::default();
    let files = numbers(folder)?;
    for number in files.into_iter().rev() {
        if from.is_some_and(|from| number > from.file) {
            continue;
        }
        let text = match fs::read(path_of(folder, number)) {
            Ok(text) => text,
            // It made room for a new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let end = from.filter(|from| from.file == number).map_or(text.len(), |from| from.before);
        let mut rest = text.get(..end).unwrap_or(&text);
        while let Some((older, line)) = last_line(rest) {
            let position = Position { file: number, before: rest.len() };
            if !line.is_empty() {
                match serde_json::from_slice::<Record>(line) {
                    Ok(record) if fits(&record, query) => {
                        if page.records.len() == limit {
                            page.next = Some(position.to_string());
                            return Ok(page);
                        }
                        page.records.push(record);
                    }
                    Ok(record) if query.since_ms.is_some_and(|since| record.time_ms < since) => {
                        // What is older lies before it.
                        return Ok(page);
                    }
                    Ok(_) => {}
                    Err(_) => page.unreadable = page.unreadable.saturating_add(1),
                }
            }
            rest = older;
        }
    }
    Ok(page)
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

impl Position {
    fn parse(text: &str) -> io::Result<Self> {
        let unknown = || io::Error::new(io::ErrorKind::InvalidInput, "page: not one of ours");
        let (file, before) = text.split_once('-').ok_or_else(unknown)?;
        let file = file.parse().map_err(|_| unknown())?;
        Ok(Self { file, before: before.parse().map_err(|_| unknown())? })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.file, self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::audit::Change;

    fn trail() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
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

    fn times(page: &AuditPage) -> Vec<u64> {
        page.records.iter().map(|record| record.time_ms).collect()
    }

    #[test]
    fn pages_go_back_in_time_over_all_files() {
        let folder = trail();
        let mut query = AuditQuery::default();
        let mut seen = Vec::new();
        loop {
            let page = page(folder.path(), &query, 4).unwrap();
            seen.extend(times(&page));
            query.page = page.next;
            if query.page.is_none() {
                break;
            }
        }
        assert_eq!(seen, [32, 31, 22, 21, 12, 11]);
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
        for text in ["", "1", "x-1", "1-y"] {
            let query = AuditQuery { page: Some(text.into()), ..AuditQuery::default() };
            let refused = page(folder.path(), &query, 1).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
        let beyond = AuditQuery { page: Some("2-99999".into()), ..AuditQuery::default() };
        assert_eq!(times(&page(folder.path(), &beyond, 1).unwrap()), [22]);
    }
}
