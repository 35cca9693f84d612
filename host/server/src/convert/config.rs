//! Configuration.

use bytes::Bytes;
use pintle::config as host;
use pintle_api::{
    bytes::Value,
    config as api,
    event::{ConfigEvent, EntryPut, EntryRemoved, Resync},
};

use super::epoch_ms;
use crate::failure::Failure;

pub(crate) fn entry(entry: &host::Entry) -> api::Entry {
    api::Entry { value: Value::of(&entry.value), ..entry_without_value(entry) }
}

pub(crate) fn entry_without_value(entry: &host::Entry) -> api::Entry {
    api::Entry {
        key: entry.key.to_string(),
        value: Value::omitted(),
        content_type: entry.content_type.clone(),
        version: entry.version.to_string(),
        modified_ms: entry.modified.map(epoch_ms),
    }
}

pub(crate) fn consistency(consistency: api::Consistency) -> host::Consistency {
    match consistency {
        api::Consistency::Linearizable => host::Consistency::Linearizable,
        api::Consistency::Sequential => host::Consistency::Sequential,
        api::Consistency::Any => host::Consistency::Any,
    }
}

pub(crate) fn read_options(
    asked: Option<api::Consistency>,
    at: Option<String>,
) -> host::ReadOptions {
    host::ReadOptions {
        consistency: asked.map(consistency),
        at: at.map(host::Version::from),
        ..host::ReadOptions::default()
    }
}

pub(crate) fn expect(expect: api::Expect) -> host::Expect {
    match expect {
        api::Expect::Anything => host::Expect::Anything,
        api::Expect::Absent => host::Expect::Absent,
        api::Expect::Exists => host::Expect::Exists,
        api::Expect::Version(version) => host::Expect::Version(version.into()),
    }
}

pub(crate) fn page(page: &host::Page, keys_only: bool) -> api::EntriesPage {
    let convert = if keys_only { entry_without_value } else { entry };
    api::EntriesPage {
        entries: page.entries.iter().map(convert).collect(),
        next: page.next.clone(),
        version: page.version.as_ref().map(ToString::to_string),
        skipped: page.skipped,
    }
}

pub(crate) fn history(page: &host::HistoryPage) -> api::HistoryPage {
    let revision = |revision: &host::Revision| api::Revision {
        version: revision.version.to_string(),
        modified_ms: revision.modified.map(epoch_ms),
        entry: revision.entry.as_ref().map(entry),
    };
    api::HistoryPage {
        revisions: page.revisions.iter().map(revision).collect(),
        next: page.next.clone(),
        complete: page.complete,
    }
}

pub(crate) fn op(op: api::TxnOp) -> Result<host::TxnOp, Failure> {
    Ok(match op {
        api::TxnOp::Get { key } => host::TxnOp::Get(key),
        api::TxnOp::Delete { key } => host::TxnOp::Delete(key),
        api::TxnOp::Put { key, value, content_type } => {
            let refused = |text: &str| Failure::invalid(format!("operation on {key:?}: {text}"));
            let bytes = value
                .bytes()
                .map_err(|text| refused(&text))?
                .ok_or_else(|| refused("a put needs `value` or `value_base64`"))?;
            host::TxnOp::Put { key, value: Bytes::from(bytes), content_type }
        }
    })
}

pub(crate) fn result(result: host::TxnResult) -> api::TxnResult {
    match result {
        host::TxnResult::Got(found) => api::TxnResult::Get { entry: found.as_ref().map(entry) },
        host::TxnResult::Stored(version) => api::TxnResult::Put { version: version.to_string() },
        host::TxnResult::Deleted(deleted) => api::TxnResult::Delete { deleted },
    }
}

pub(crate) fn event(event: host::WatchEvent) -> ConfigEvent {
    match event {
        host::WatchEvent::SnapshotBegin => ConfigEvent::SnapshotBegin,
        host::WatchEvent::SnapshotEnd => ConfigEvent::SnapshotEnd,
        host::WatchEvent::Resync(reason) => {
            ConfigEvent::Resync(Resync { reason: reason.to_string() })
        }
        host::WatchEvent::Put { entry: present, previous } => {
            ConfigEvent::Put(Box::new(EntryPut {
                entry: entry(&present),
                previous: previous.as_deref().map(entry),
            }))
        }
        host::WatchEvent::Removed { key, version, previous } => {
            ConfigEvent::Removed(Box::new(EntryRemoved {
                key: key.to_string(),
                version: version.as_ref().map(ToString::to_string),
                previous: previous.as_deref().map(entry),
            }))
        }
    }
}
