//! `pintle:config` on the store.

use crate::engine::OPERATION_BYTES;
use crate::error::is_passing;
use crate::local::Local;
use crate::lock::Lease;
use crate::store::{self, ConfigEvent, ConfigWatch, WatchStart};
use futures::future::select;
use pintle_plugin_sdk::config::{
    Change, Condition, Config, Delete, DeleteOutcome, Entry, Expectation, HistoryPage,
    HistoryRequest, ListRequest, Mismatch, Page, Put, PutOutcome, ReadOptions, Revision, Snapshot,
    Stored, Target, Txn, TxnOp, TxnOutcome, TxnPut, TxnResult, WatchRequest, WatchSink,
};
use pintle_plugin_sdk::time::{Instant, sleep};
use pintle_plugin_sdk::{Context, Error};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A quiet watch tells this often that nothing is missing.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
/// A watch asks a store that is closed again after so long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Config for Local {
    type Held = Lease;

    async fn get(
        &self,
        _: &Context,
        key: String,
        options: ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        let at = revision_at(&options)?;
        Ok(self.engine.read(|store| store.entry(&key, at))?.map(entry_to))
    }

    async fn get_many(
        &self,
        _: &Context,
        keys: Vec<String>,
        options: ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let at = revision_at(&options)?;
        let entries = self.engine.read(|store| store.entries(&keys, at))?;
        Ok(entries.into_iter().map(|entry| entry.map(entry_to)).collect())
    }

    async fn list(&self, _: &Context, request: ListRequest) -> Result<Page, Error> {
        let ListRequest { prefix, page, limit, keys_only, options } = request;
        let mut list = store::List {
            prefix,
            after: None,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            keys_only,
            at: revision_at(&options)?,
        };
        if let Some(page) = &page {
            let (at, after) = page_from(page)?;
            (list.at, list.after) = (Some(at), Some(after));
        }
        let page = self.engine.read(|store| store.list(&list))?;
        let next = page
            .entries
            .last()
            .filter(|_| page.more)
            .map(|last| format!("{}/{}", page.revision, last.key));
        Ok(Page {
            entries: page.entries.into_iter().map(entry_to).collect(),
            next,
            version: Some(page.revision.to_string()),
            skipped: 0,
        })
    }

    async fn put(&self, _: &Context, request: Put<Lease>) -> Result<PutOutcome, Error> {
        let put = store::Put {
            key: request.key,
            value: request.value,
            content_type: request.content_type,
            expect: expectation_from(&request.expect)?,
            held: request.held.map(|lease| lease.number),
            previous: request.previous,
        };
        let bytes = put.value.len();
        Ok(match self.engine.change(bytes, move |turn| turn.put(&put)).await? {
            store::PutOutcome::Stored { revision, previous } => PutOutcome::Stored(Stored {
                version: revision.to_string(),
                previous: previous.map(entry_to),
            }),
            store::PutOutcome::Stale(current) => PutOutcome::Stale(current.map(entry_to)),
            store::PutOutcome::Fenced => PutOutcome::Fenced,
        })
    }

    async fn delete(&self, _: &Context, request: Delete<Lease>) -> Result<DeleteOutcome, Error> {
        let delete = store::Delete {
            key: request.key,
            expect: expectation_from(&request.expect)?,
            held: request.held.map(|lease| lease.number),
            previous: request.previous,
        };
        Ok(match self.engine.change(0, move |turn| turn.delete(&delete)).await? {
            store::DeleteOutcome::Deleted(entry) => DeleteOutcome::Deleted(entry.map(entry_to)),
            store::DeleteOutcome::Absent => DeleteOutcome::Absent,
            store::DeleteOutcome::Stale(current) => DeleteOutcome::Stale(current.map(entry_to)),
            store::DeleteOutcome::Fenced => DeleteOutcome::Fenced,
        })
    }

    async fn delete_prefix(
        &self,
        _: &Context,
        prefix: String,
        held: Option<Rc<Lease>>,
    ) -> Result<u64, Error> {
        let held = held.map(|lease| lease.number);
        match self.engine.change(0, move |turn| turn.delete_prefix(&prefix, held)).await? {
            store::DeletePrefixOutcome::Deleted(keys) => Ok(keys),
            store::DeletePrefixOutcome::Fenced => {
                Err(Error::conflict("the lease is not held any more; nothing was deleted"))
            }
        }
    }

    async fn txn(&self, _: &Context, request: Txn<Lease>) -> Result<TxnOutcome, Error> {
        let conditions = request.conditions.into_iter().map(|Condition { key, expect }| {
            let expect = expectation_from(&expect)?;
            Ok((key, expect))
        });
        let txn = store::Txn {
            conditions: conditions.collect::<Result<_, Error>>()?,
            held: request.held.iter().map(|lease| lease.number).collect(),
            ops: request.ops.into_iter().map(op_from).collect(),
        };
        let bytes = txn.ops.iter().map(op_bytes).sum();
        Ok(match self.engine.change(bytes, move |turn| turn.txn(&txn)).await? {
            store::TxnOutcome::Committed(results) => {
                TxnOutcome::Committed(results.into_iter().map(result_to).collect())
            }
            store::TxnOutcome::Stale(mismatches) => {
                let mismatch = |(index, current): (usize, Option<store::Entry>)| Mismatch {
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    current: current.map(entry_to),
                };
                TxnOutcome::Stale(mismatches.into_iter().map(mismatch).collect())
            }
            store::TxnOutcome::Fenced => TxnOutcome::Fenced,
        })
    }

    async fn history(&self, _: &Context, request: HistoryRequest) -> Result<HistoryPage, Error> {
        let before = request.page.as_deref().map(page_before).transpose()?;
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let page = self.engine.read(|store| store.history(&request.key, before, limit))?;
        Ok(HistoryPage {
            revisions: page.changes.into_iter().map(revision_to).collect(),
            next: page.next.map(|before| before.to_string()),
            complete: page.complete,
        })
    }

    async fn watch(self: Rc<Self>, request: WatchRequest, sink: WatchSink) -> Result<(), Error> {
        let target = target_from(request.target)?;
        let start = match request.from_version.as_deref() {
            None => WatchStart::Snapshot,
            Some(version) => WatchStart::After(revision_from(version)?),
        };
        let mut watch = ConfigWatch::new(target, start, request.previous);
        let mut snapshot: Option<Snapshot> = None;
        let mut told = Instant::now();
        loop {
            let events = match self.engine.read(|store| watch.next(store)) {
                Ok(events) => events,
                Err(error) if !is_passing(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a watch waits for the store");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            if events.is_empty() {
                let quiet = told.elapsed();
                if quiet >= PROGRESS_PERIOD {
                    sink.progress(watch.complete_through().map(|revision| revision.to_string()));
                    told = Instant::now();
                } else {
                    select(pin!(self.engine.turned()), sleep(PROGRESS_PERIOD - quiet)).await;
                }
                continue;
            }
            told = Instant::now();
            // The log keeps what comes meanwhile, so a slow reader misses nothing.
            for event in events {
                deliver(&sink, &mut snapshot, event).await;
            }
            if snapshot.is_none() && sink.wants_snapshot() {
                watch.restart();
            }
        }
    }
}

async fn deliver(sink: &WatchSink, snapshot: &mut Option<Snapshot>, event: ConfigEvent) {
    match event {
        ConfigEvent::SnapshotBegin => *snapshot = Some(sink.snapshot()),
        ConfigEvent::Put { entry, previous } => match snapshot {
            Some(snapshot) => snapshot.put(entry_to(entry)).await,
            None => sink.put_in_turn(entry_to(entry), previous.map(entry_to)).await,
        },
        ConfigEvent::Removed { key, revision, previous } => {
            let version = Some(revision.to_string());
            sink.removed_in_turn(key, version, previous.map(entry_to)).await;
        }
        ConfigEvent::SnapshotEnd(revision) => {
            if let Some(snapshot) = snapshot.take() {
                snapshot.end(Some(revision.to_string()));
            }
        }
        ConfigEvent::Resync(reason) => {
            *snapshot = None;
            sink.resync(&reason);
        }
    }
}

fn entry_to(entry: store::Entry) -> Entry {
    Entry {
        key: entry.key,
        value: entry.value,
        content_type: entry.content_type,
        version: entry.revision.to_string(),
        modified_ms: Some(entry.modified_ms),
    }
}

fn revision_to(change: store::Change) -> Revision {
    match change {
        store::Change::Put(entry) => {
            Revision { modified_ms: Some(entry.modified_ms), change: Change::Put(entry_to(entry)) }
        }
        store::Change::Removed { revision, modified_ms } => Revision {
            modified_ms: Some(modified_ms),
            change: Change::Removed(revision.to_string()),
        },
    }
}

fn result_to(result: store::TxnResult) -> TxnResult {
    match result {
        store::TxnResult::Got(entry) => TxnResult::Got(entry.map(entry_to)),
        store::TxnResult::Stored(revision) => TxnResult::Stored(revision.to_string()),
        store::TxnResult::Deleted(existed) => TxnResult::Deleted(existed),
    }
}

fn op_from(op: TxnOp) -> store::TxnOp {
    match op {
        TxnOp::Get(key) => store::TxnOp::Get(key),
        TxnOp::Put(TxnPut { key, value, content_type }) => {
            store::TxnOp::Put { key, value, content_type }
        }
        TxnOp::Delete(key) => store::TxnOp::Delete(key),
    }
}

fn op_bytes(op: &store::TxnOp) -> usize {
    let value = match op {
        store::TxnOp::Put { value, .. } => value.len(),
        store::TxnOp::Get(_) | store::TxnOp::Delete(_) => 0,
    };
    OPERATION_BYTES + value
}

fn target_from(target: Target) -> Result<store::Target, Error> {
    Ok(match target {
        Target::Key(key) => {
            store::check_key(&key)?;
            store::Target::Key(key)
        }
        Target::Prefix(prefix) => {
            store::check_prefix(&prefix)?;
            store::Target::Prefix(prefix)
        }
    })
}

fn expectation_from(expect: &Expectation) -> Result<store::Expectation, Error> {
    Ok(match expect {
        Expectation::Anything => store::Expectation::Anything,
        Expectation::Absent => store::Expectation::Absent,
        Expectation::Exists => store::Expectation::Exists,
        Expectation::Version(version) => store::Expectation::Revision(revision_from(version)?),
    })
}

fn revision_at(options: &ReadOptions) -> Result<Option<u64>, Error> {
    options.at.as_deref().map(revision_from).transpose()
}

/// A version has one spelling, so that two texts are the same version only when they are equal.
fn revision_from(version: &str) -> Result<u64, Error> {
    let revision = version.parse().ok().filter(|revision: &u64| revision.to_string() == version);
    revision.ok_or_else(|| Error::invalid(format!("`{version}` is no version of this backend")))
}

/// Where a page of a listing begins: the revision that the pages show, and the last key.
fn page_from(page: &str) -> Result<(u64, String), Error> {
    page.split_once('/')
        .and_then(|(revision, after)| Some((revision.parse().ok()?, after.to_owned())))
        .ok_or_else(|| Error::invalid("`page` is not what a listing answered as `next`"))
}

fn page_before(page: &str) -> Result<u64, Error> {
    page.parse().map_err(|_| Error::invalid("`page` is not what a history answered as `next`"))
}
