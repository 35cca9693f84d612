//! Watches of configuration: a snapshot of one revision, then every change after it.

use super::{Cursor, List, entry, reserved, revision};
use crate::error::is_passing;
use crate::etcd::Etcd;
use crate::reader::Read;
use crate::watches::{End, Notice, Subscription, Target as Watched};
use crate::wire::layout::{Named, Range};
use crate::wire::messages::{Event, KeyValue};
use crate::wire::version;
use futures::future::{Either, select};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::config::{Consistency, Entry, Target, WatchRequest, WatchSink};
use pintle_plugin_sdk::{Context, Error};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long one page of a snapshot may take.
const PAGE_LIMIT: Duration = Duration::from_secs(30);
/// Keys in one page of a snapshot.
const PAGE_KEYS: usize = 500;

impl Etcd {
    pub(super) async fn follow(
        self: Rc<Self>,
        request: WatchRequest,
        sink: WatchSink,
    ) -> Result<(), Error> {
        let range = match &request.target {
            Target::Key(key) => Range::of_key(self.config_key(key)?),
            Target::Prefix(prefix) => self.layout.config_around(prefix).ok_or_else(reserved)?,
        };
        let mut next = match request.from_version.as_deref() {
            Some(after) => self.next_after(revision(after)?, &range, &sink).await?,
            None => None,
        };
        let mut pauses = Backoff::default();
        loop {
            let start_revision = match next.take() {
                Some(revision) => revision,
                None => self.show_all(&request.target, &sink).await? + 1,
            };
            let prev_kv = request.previous;
            let watched = Watched { range: range.clone(), start_revision, prev_kv };
            let mut changes = self.deliver(watched, &sink);
            let wanted = pin!(sink.snapshot_wanted());
            match select(pin!(changes.ended()), wanted).await {
                Either::Left((End::Refused(error), _)) if !is_passing(&error) => return Err(error),
                Either::Left((end, _)) => {
                    sink.resync(&end.reason());
                    pauses.wait().await;
                }
                // The reader fell behind, and was told so.
                Either::Right(_) => {}
            }
        }
    }

    /// The revision behind this one; none, and the reader knows why, when the store is not there yet:
    /// a watch from a version that lies ahead would keep silent.
    async fn next_after(
        &self,
        after: i64,
        range: &Range,
        sink: &WatchSink,
    ) -> Result<Option<i64>, Error> {
        let mut pauses = Backoff::default();
        loop {
            let cx = Context::background("config.watch", PAGE_LIMIT);
            match self.reader.part(&cx, latest(range.clone()), 1).await {
                Ok(part) if after <= part.revision => return Ok(Some(after + 1)),
                Ok(part) => {
                    let now = part.revision;
                    sink.resync(&format!("version {after} lies ahead of this backend's {now}"));
                    return Ok(None);
                }
                Err(error) if is_passing(&error) => {
                    tracing::debug!(%error, "the present revision is asked for again");
                }
                Err(error) => return Err(error),
            }
            pauses.wait().await;
        }
    }

    /// Passes changes on as they come.
    fn deliver(self: &Rc<Self>, watched: Watched, sink: &WatchSink) -> Subscription {
        let (this, told) = (Rc::clone(self), sink.clone());
        self.watches.open(watched, move |notice| match notice {
            Notice::Events(events) => {
                events.into_iter().for_each(|event| this.change(&told, event));
            }
            Notice::Progress(revision) => told.progress(Some(version::to_text(revision))),
        })
    }

    fn change(&self, sink: &WatchSink, event: Event) {
        let (is_deletion, previous) = (event.is_deletion(), event.prev_kv);
        let Some(kv) = event.kv else { return };
        // Others' keys that no key can name, and Pintle's own, are not configuration.
        let Named::Key(key) = self.layout.named(&kv.key) else { return };
        let previous = previous.map(|kv| entry(key.clone(), kv));
        if is_deletion {
            sink.removed(key, Some(version::to_text(kv.mod_revision)), previous);
        } else {
            sink.put(entry(key, kv), previous);
        }
    }

    /// Sends a snapshot, for as long as it takes, and answers the revision that it shows.
    async fn show_all(&self, target: &Target, sink: &WatchSink) -> Result<i64, Error> {
        let mut pauses = Backoff::default();
        loop {
            match self.snapshot(target, sink).await {
                Ok(revision) => return Ok(revision),
                Err(error) if is_passing(&error) || error.code() == "compacted" => {
                    tracing::debug!(%error, "a snapshot is tried again");
                }
                Err(error) => return Err(error),
            }
            pauses.wait().await;
        }
    }

    async fn snapshot(&self, target: &Target, sink: &WatchSink) -> Result<i64, Error> {
        // The first read comes before the beginning, so that a server that is away for long does not
        // leave a reader with half a snapshot. What is delivered shows its revision.
        let first = match target {
            Target::Key(key) => self.read_one(key).await?,
            Target::Prefix(prefix) => self.read_page(prefix, None).await?,
        };
        let revision = first.cursor.revision;
        let mut snapshot = sink.snapshot();
        let mut page = first;
        loop {
            for entry in page.entries {
                snapshot.put(entry).await;
            }
            let (true, Target::Prefix(prefix)) = (page.more, target) else { break };
            page = self.read_page(prefix, Some(page.cursor)).await?;
        }
        snapshot.end(Some(version::to_text(revision)));
        Ok(revision)
    }

    async fn read_one(&self, key: &str) -> Result<Shown, Error> {
        let cx = Context::background("config.watch", PAGE_LIMIT);
        let range = Range::of_key(self.config_key(key)?);
        let part = self.reader.part(&cx, latest(range), 1).await?;
        let named = |kv: KeyValue| entry(key.to_owned(), kv);
        Ok(Shown {
            entries: part.kvs.into_iter().map(named).collect(),
            cursor: Cursor { revision: part.revision, after: Vec::new() },
            more: false,
        })
    }

    async fn read_page(&self, prefix: &str, begin: Option<Cursor>) -> Result<Shown, Error> {
        let cx = Context::background("config.watch", PAGE_LIMIT);
        let list = List {
            prefix: prefix.to_owned(),
            begin: begin.unwrap_or(Cursor { revision: 0, after: Vec::new() }),
            limit: PAGE_KEYS,
            keys_only: false,
            consistency: Consistency::Linearizable,
        };
        let page = self.list_from(&cx, &list).await?;
        let cursor = match &page.next {
            Some(next) => Cursor::from_text(next)?,
            None => {
                let shown = page.version.as_deref().map_or(Ok(0), revision)?;
                Cursor { revision: shown, after: Vec::new() }
            }
        };
        Ok(Shown { entries: page.entries, more: page.next.is_some(), cursor })
    }
}

fn latest(range: Range) -> Read {
    Read { range, revision: 0, consistency: Consistency::Linearizable, keys_only: false }
}

/// A part of a snapshot.
struct Shown {
    entries: Vec<Entry>,
    cursor: Cursor,
    more: bool,
}
