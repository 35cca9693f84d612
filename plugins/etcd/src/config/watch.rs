//! Watches of configuration: a snapshot of one revision, then every change after it.

use super::changes::{Changes, Next};
use super::{Cursor, List, entry, reserved, revision};
use crate::error::is_passing;
use crate::etcd::Etcd;
use crate::reader::Read;
use crate::watches::{End, Notice, Target as Watched};
use crate::wire::layout::{Named, Range};
use crate::wire::messages::{Event, KeyValue};
use crate::wire::version;
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::config::{Consistency, Entry, Target, WatchRequest, WatchSink};
use pintle_plugin_sdk::{Context, Error};
use std::rc::Rc;
use std::time::Duration;

/// How long one page of a snapshot may take.
const PAGE_LIMIT: Duration = Duration::from_secs(30);
/// Keys in one page of a snapshot.
const PAGE_KEYS: usize = 500;

/// What ended the delivery of changes.
enum Delivered {
    /// The reader was behind; it goes on at this revision.
    GoOnAt(i64),
    Ended(End),
    /// The reader was told of a gap.
    SnapshotWanted,
}

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
            Some(after) => Box::pin(self.next_after(revision(after)?, &range, &sink)).await?,
            None => None,
        };
        let mut pauses = Backoff::default();
        loop {
            let start_revision = match next.take() {
                Some(revision) => revision,
                // In a box, of which thousands of watches that wait have none.
                None => Box::pin(self.show_all(&request.target, &sink)).await? + 1,
            };
            let prev_kv = request.previous;
            let watched = Watched { range: range.clone(), start_revision, prev_kv };
            match self.deliver(watched, &sink).await {
                Delivered::GoOnAt(revision) => next = Some(revision),
                Delivered::Ended(End::Refused(error)) if !is_passing(&error) => return Err(error),
                Delivered::Ended(end) => {
                    sink.resync(&end.reason());
                    pauses.wait().await;
                }
                Delivered::SnapshotWanted => {}
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

    /// Passes changes on as the reader takes them, and answers what ended that.
    async fn deliver(&self, watched: Watched, sink: &WatchSink) -> Delivered {
        let prev_kv = watched.prev_kv;
        let mut changes = Changes::open(&self.watches, watched);
        loop {
            match changes.next().await {
                Next::Notice(Notice::Events(events)) => {
                    for event in events {
                        if prev_kv && event.lacks_previous() {
                            return Delivered::Ended(End::Compacted(event.revision()));
                        }
                        Box::pin(self.change(sink, event)).await;
                    }
                }
                Next::Notice(Notice::Progress(revision)) => {
                    sink.progress(Some(version::to_text(revision)));
                }
                Next::GoOnAt(revision) => return Delivered::GoOnAt(revision),
                Next::Ended(end) => return Delivered::Ended(end),
            }
            if sink.wants_snapshot() {
                return Delivered::SnapshotWanted;
            }
        }
    }

    async fn change(&self, sink: &WatchSink, event: Event) {
        let (is_deletion, previous) = (event.is_deletion(), event.prev_kv);
        let Some(kv) = event.kv else { return };
        // Others' keys that no key can name, and Pintle's own, are not configuration.
        let Named::Key(key) = self.layout.named(&kv.key) else { return };
        let previous = previous.map(|kv| entry(key.clone(), kv));
        if is_deletion {
            let version = Some(version::to_text(kv.mod_revision));
            sink.removed_in_turn(key, version, previous).await;
        } else {
            sink.put_in_turn(entry(key, kv), previous).await;
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
