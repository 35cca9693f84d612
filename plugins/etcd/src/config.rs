//! `pintle:config`: keys and values of etcd.

mod changes;
mod history;
mod watch;
mod write;

use crate::etcd::Etcd;
use crate::lock::Lease;
use crate::reader::Read;
use crate::wire::layout::Named;
use crate::wire::messages::KeyValue;
use crate::wire::version;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use pintle_plugin_sdk::config::{
    Config, Consistency, Delete, DeleteOutcome, Entry, HistoryPage, HistoryRequest, ListRequest,
    Page, Put, PutOutcome, ReadOptions, Txn, TxnOutcome, WatchRequest, WatchSink,
};
use pintle_plugin_sdk::{Context, Error};
use std::rc::Rc;

impl Config for Etcd {
    type Held = Lease;

    async fn get(
        &self,
        cx: &Context,
        key: String,
        options: ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        let revision = revision_at(&options)?;
        let found = self.reader.one(cx, self.config_key(&key)?, revision, options.consistency);
        Ok(found.await?.map(|kv| entry(key, kv)))
    }

    async fn get_many(
        &self,
        cx: &Context,
        keys: Vec<String>,
        options: ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let revision = revision_at(&options)?;
        let wanted = keys.iter().map(|key| self.config_key(key)).collect::<Result<Vec<_>, _>>()?;
        let found = self.reader.many(cx, &wanted, revision, options.consistency).await?;
        Ok(found.into_iter().zip(keys).map(|(kv, key)| Some(entry(key, kv?))).collect())
    }

    async fn list(&self, cx: &Context, request: ListRequest) -> Result<Page, Error> {
        let ListRequest { prefix, page, limit, keys_only, options } = request;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let begin = match page {
            Some(page) => Cursor::from_text(&page)?,
            None => Cursor { revision: revision_at(&options)?, after: Vec::new() },
        };
        let asked = List { prefix, begin, limit, keys_only, consistency: options.consistency };
        let first = self.list_from(cx, &asked).await;
        match first {
            // The revision that the pages showed is gone: go on with the newest.
            Err(error) if error.code() == "compacted" && !asked.begin.after.is_empty() => {
                let begin = Cursor { revision: 0, after: asked.begin.after.clone() };
                self.list_from(cx, &List { begin, ..asked }).await
            }
            other => other,
        }
    }

    async fn put(&self, cx: &Context, request: Put<Lease>) -> Result<PutOutcome, Error> {
        self.write_key(cx, request).await
    }

    async fn delete(&self, cx: &Context, request: Delete<Lease>) -> Result<DeleteOutcome, Error> {
        self.delete_key(cx, request).await
    }

    async fn delete_prefix(
        &self,
        cx: &Context,
        prefix: String,
        held: Option<Rc<Lease>>,
    ) -> Result<u64, Error> {
        self.delete_below(cx, &prefix, held.as_deref()).await
    }

    async fn txn(&self, cx: &Context, request: Txn<Lease>) -> Result<TxnOutcome, Error> {
        self.transact(cx, request).await
    }

    async fn history(&self, cx: &Context, request: HistoryRequest) -> Result<HistoryPage, Error> {
        self.history_of(cx, request).await
    }

    async fn watch(self: Rc<Self>, request: WatchRequest, sink: WatchSink) -> Result<(), Error> {
        self.follow(request, sink).await
    }
}

/// Where a page of a listing begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    /// The revision that all pages show; 0 for now.
    revision: i64,
    /// The last etcd key of the page before; empty at the beginning.
    after: Vec<u8>,
}

impl Cursor {
    fn to_text(&self) -> String {
        format!("{}/{}", self.revision, percent_encode(&self.after, NON_ALPHANUMERIC))
    }

    fn from_text(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('/').and_then(|(revision, after)| {
            let after: Vec<u8> = percent_decode_str(after).collect();
            Some(Self { revision: version::from_text(revision)?, after })
        });
        parts.ok_or_else(|| Error::invalid("`page` is not what a listing answered as `next`"))
    }
}

/// A listing.
#[derive(Clone, Debug)]
struct List {
    prefix: String,
    begin: Cursor,
    limit: usize,
    keys_only: bool,
    consistency: Consistency,
}

impl Etcd {
    /// One page of a listing.
    async fn list_from(&self, cx: &Context, list: &List) -> Result<Page, Error> {
        let ranges = self.layout.config_below(&list.prefix).ok_or_else(reserved)?;
        let (mut entries, mut skipped) = (Vec::new(), 0);
        let mut cursor = list.begin.clone();
        for range in ranges {
            let mut rest =
                if cursor.after.is_empty() { Some(range) } else { range.after(&cursor.after) };
            while let Some(range) = rest.take() {
                let room = list.limit.saturating_sub(entries.len());
                if room == 0 {
                    return Ok(page(entries, skipped, &cursor, true));
                }
                let read = Read {
                    range: range.clone(),
                    revision: cursor.revision,
                    consistency: list.consistency,
                    keys_only: list.keys_only,
                };
                let part = self.reader.part(cx, read, room).await?;
                cursor.revision = part.revision;
                if let Some(last) = part.kvs.last() {
                    cursor.after.clone_from(&last.key);
                }
                for kv in part.kvs {
                    match self.layout.named(&kv.key) {
                        Named::Key(key) => entries.push(entry(key, kv)),
                        Named::Unmappable => skipped += 1,
                        Named::Own => {}
                    }
                }
                if part.more && entries.is_empty() {
                    // Nothing that has a name so far: a page says more than that.
                    rest = range.after(&cursor.after);
                } else if part.more {
                    return Ok(page(entries, skipped, &cursor, true));
                }
            }
        }
        Ok(page(entries, skipped, &cursor, false))
    }

    /// The etcd key of a configuration key.
    fn config_key(&self, key: &str) -> Result<Vec<u8>, Error> {
        self.layout.config_key(key).ok_or_else(reserved)
    }
}

fn page(entries: Vec<Entry>, skipped: u32, cursor: &Cursor, more: bool) -> Page {
    Page {
        entries,
        next: more.then(|| cursor.to_text()),
        version: Some(version::to_text(cursor.revision)),
        skipped,
    }
}

fn reserved() -> Error {
    Error::invalid("`.pintle` and what lies below it is Pintle's own: choose another key")
}

fn entry(key: String, kv: KeyValue) -> Entry {
    Entry {
        key,
        value: kv.value,
        content_type: None,
        version: version::to_text(kv.mod_revision),
        modified_ms: None,
    }
}

fn revision_at(options: &ReadOptions) -> Result<i64, Error> {
    options.at.as_deref().map_or(Ok(0), revision)
}

fn revision(text: &str) -> Result<i64, Error> {
    let refuse = || Error::invalid(format!("`{text}` is no version of this backend"));
    version::from_text(text).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_last_ended_whatever_the_key_is() {
        for after in [&b"/prod/a"[..], b"", b"a/b%2F", &[0xff, 0x00, b'/']] {
            let cursor = Cursor { revision: 17, after: after.to_vec() };
            assert_eq!(Cursor::from_text(&cursor.to_text()).unwrap(), cursor);
        }
        for text in ["", "17", "x/a", "-1/a", "0/a"] {
            assert_eq!(Cursor::from_text(text).unwrap_err().code(), "invalid", "{text:?}");
        }
    }
}
