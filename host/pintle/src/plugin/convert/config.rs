//! `pintle:config`.

use std::sync::Arc;

use super::{shown, time};
use crate::{
    config::{
        DeleteOutcome, Entry, Expect, HistoryPage, Page, PutOutcome, Revision, Target, TxnOp,
        TxnOutcome, TxnResult, Version,
    },
    error::{Cause, Error, Place},
    mirror::Upstream,
    plugin::{bindings::config as wit, limits::Limits},
    secret::Scrubber,
};

pub(crate) fn entry(entry: wit::Entry) -> Entry {
    Entry {
        key: entry.key.into(),
        value: entry.value.into(),
        content_type: entry.content_type,
        version: entry.version.into(),
        modified: time(entry.modified_ms),
    }
}

pub(crate) fn page(page: wit::Page) -> Page {
    Page {
        entries: page.entries.into_iter().map(entry).collect(),
        next: page.next,
        version: page.version.map(Version::from),
        skipped: page.skipped,
    }
}

pub(crate) fn expectation(expect: &Expect) -> wit::Expectation {
    match expect {
        Expect::Anything => wit::Expectation::Anything,
        Expect::Absent => wit::Expectation::Absent,
        Expect::Exists => wit::Expectation::Exists,
        Expect::Version(version) => wit::Expectation::Version(version.as_str().to_owned()),
    }
}

pub(crate) fn put_outcome(outcome: wit::PutOutcome) -> PutOutcome {
    match outcome {
        wit::PutOutcome::Stored(stored) => PutOutcome::Stored {
            version: stored.version.into(),
            previous: stored.previous.map(entry),
        },
        wit::PutOutcome::Stale(current) => PutOutcome::Stale(current.map(entry)),
        wit::PutOutcome::Fenced => PutOutcome::Fenced,
    }
}

pub(crate) fn delete_outcome(outcome: wit::DeleteOutcome) -> DeleteOutcome {
    match outcome {
        wit::DeleteOutcome::Deleted(previous) => DeleteOutcome::Deleted(previous.map(entry)),
        wit::DeleteOutcome::Absent => DeleteOutcome::Absent,
        wit::DeleteOutcome::Stale(current) => DeleteOutcome::Stale(current.map(entry)),
        wit::DeleteOutcome::Fenced => DeleteOutcome::Fenced,
    }
}

pub(crate) fn txn_op(op: TxnOp) -> wit::TxnOp {
    match op {
        TxnOp::Get(key) => wit::TxnOp::Get(key),
        TxnOp::Put { key, value, content_type } => {
            wit::TxnOp::Put(wit::TxnPut { key, value: value.into(), content_type })
        }
        TxnOp::Delete(key) => wit::TxnOp::Delete(key),
    }
}

pub(crate) fn txn_outcome(outcome: wit::TxnOutcome) -> TxnOutcome {
    match outcome {
        wit::TxnOutcome::Committed(results) => TxnOutcome::Committed(
            results
                .into_iter()
                .map(|result| match result {
                    wit::TxnResult::Got(found) => TxnResult::Got(found.map(entry)),
                    wit::TxnResult::Stored(version) => TxnResult::Stored(version.into()),
                    wit::TxnResult::Deleted(existed) => TxnResult::Deleted(existed),
                })
                .collect(),
        ),
        wit::TxnOutcome::Stale(mismatches) => TxnOutcome::Stale(
            mismatches
                .into_iter()
                .map(|mismatch| {
                    let index = usize::try_from(mismatch.index).unwrap_or(usize::MAX);
                    (index, mismatch.current.map(entry))
                })
                .collect(),
        ),
        wit::TxnOutcome::Fenced => TxnOutcome::Fenced,
    }
}

pub(crate) fn history_page(page: wit::HistoryPage) -> HistoryPage {
    let revision = |revision: wit::Revision| {
        let modified = time(revision.modified_ms);
        match revision.change {
            wit::Change::Put(put) => {
                let entry = entry(put);
                Revision { version: entry.version.clone(), entry: Some(entry), modified }
            }
            wit::Change::Removed(version) => {
                Revision { version: version.into(), entry: None, modified }
            }
        }
    };
    HistoryPage {
        revisions: page.revisions.into_iter().map(revision).collect(),
        next: page.next,
        complete: page.complete,
    }
}

pub(crate) fn watch_request(
    target: &Target,
    from: Option<&Version>,
    previous: bool,
) -> wit::WatchRequest {
    wit::WatchRequest {
        target: match target {
            Target::Key(key) => wit::Target::Key(key.clone()),
            Target::Prefix(prefix) => wit::Target::Prefix(prefix.clone()),
        },
        from_version: from.map(ToString::to_string),
        previous,
        selectors: Vec::new(),
    }
}

pub(crate) fn event(
    event: wit::Event,
    place: &Place,
    scrubber: &Scrubber,
    limits: &Limits,
) -> Upstream<Entry> {
    match event {
        wit::Event::SnapshotBegin => Upstream::SnapshotBegin,
        wit::Event::Put(put) => {
            let value = Arc::new(entry(put.entry));
            let previous = put.previous.map(|previous| Arc::new(entry(previous)));
            Upstream::Put { key: Arc::clone(&value.key), value, previous }
        }
        wit::Event::Removed(removed) => Upstream::Removed {
            key: removed.key.into(),
            version: removed.version.map(Into::into),
            previous: removed.previous.map(|previous| Arc::new(entry(previous))),
        },
        wit::Event::SnapshotEnd(version) => Upstream::SnapshotEnd(version.map(Into::into)),
        wit::Event::Resync(reason) => Upstream::Resync(shown(&reason, scrubber, limits).into()),
        wit::Event::Progress(version) => Upstream::Progress(version.map(Into::into)),
        wit::Event::Ended(error) => {
            let cause = Cause::Plugin(super::error(error, scrubber, limits));
            Upstream::Ended(Error::new(cause, place.clone()))
        }
    }
}
