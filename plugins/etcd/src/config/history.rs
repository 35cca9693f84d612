//! What a key was before, as far as it is not compacted.
//!
//! Within the present life of a key each revision names the one before it: one read each. What was
//! before its creation or after its deletion no read can name; there the changes themselves are read,
//! by a watch that begins in the past.

use super::{entry, revision};
use crate::client::Lane;
use crate::error::Failure;
use crate::etcd::Etcd;
use crate::reader::{PAGE_BYTES_MAX, Read};
use crate::wire::layout::Range;
use crate::wire::messages::{
    Event, KeyValue, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchRequestUnion, WatchResponse,
};
use crate::wire::version;
use futures::channel::mpsc;
use futures::future::{Either, select};
use pintle_plugin_sdk::config::{Change, Consistency, HistoryPage, HistoryRequest, Revision};
use pintle_plugin_sdk::time::sleep;
use pintle_plugin_sdk::{Context, Error, grpc};
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// How often a server is asked whether it has told all changes.
const ASK_PERIOD: Duration = Duration::from_millis(50);
/// A server that does not say that it has told all is believed after so many questions.
const QUESTIONS_MAX: u32 = 20;

/// Revisions found so far, newest first.
struct Found {
    key: String,
    name: Vec<u8>,
    limit: usize,
    revisions: Vec<Revision>,
    bytes: usize,
    /// The oldest of them.
    oldest: i64,
    /// Older ones are there that do not fit.
    cut: bool,
}

/// A search for changes of one key, by a watch that begins in the past.
struct Search<'a> {
    name: &'a [u8],
    from: i64,
    until: i64,
    /// A revision after that at which the key was changed, if there is one: the search ends there.
    later: Option<i64>,
    room: usize,
}

/// Changes of one key, oldest first.
#[derive(Default)]
struct Past {
    events: VecDeque<Event>,
    bytes: usize,
    /// Older ones are there that do not fit.
    cut: bool,
    /// Whether the search began at the beginning of the store and reached its end for certain.
    complete: bool,
}

impl Etcd {
    pub(super) async fn history_of(
        &self,
        cx: &Context,
        request: HistoryRequest,
    ) -> Result<HistoryPage, Error> {
        let HistoryRequest { key, limit, page } = request;
        let name = self.config_key(&key)?;
        let mut found = Found {
            key,
            name,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            revisions: Vec::new(),
            bytes: 0,
            oldest: 0,
            cut: false,
        };
        let before = page.as_deref().map(revision).transpose()?;
        let complete = self.walk(cx, &mut found, before).await?;
        Ok(HistoryPage {
            next: (found.cut || found.is_full()).then(|| version::to_text(found.oldest)),
            revisions: found.revisions,
            complete,
        })
    }

    /// Finds revisions older than `before`. Answers whether nothing older is missing.
    async fn walk(
        &self,
        cx: &Context,
        found: &mut Found,
        before: Option<i64>,
    ) -> Result<bool, Error> {
        if before == Some(1) {
            return Ok(true);
        }
        // 0 is now.
        let mut at = before.map_or(0, |before| before - 1);
        while !found.is_full() {
            let read = Read {
                range: Range::of_key(found.name.clone()),
                revision: at,
                consistency: Consistency::Linearizable,
                keys_only: false,
            };
            let part = match self.reader.part(cx, read, 1).await {
                Ok(part) => part,
                Err(error) if error.code() == "compacted" => return Ok(false),
                Err(error) => return Err(error),
            };
            let Some(kv) = part.kvs.into_iter().next() else {
                return self.before_the_deletion(cx, found, part.revision, before).await;
            };
            let (is_creation, modified) = (kv.version == 1, kv.mod_revision);
            found.put(kv);
            at = modified - 1;
            if at == 0 {
                return Ok(true);
            }
            if is_creation && !found.is_full() {
                return self.before_the_deletion(cx, found, at, Some(modified)).await;
            }
        }
        // Older ones may be there: the next page tells.
        Ok(true)
    }

    /// Finds changes up to the revision `until`, at which there is no key.
    async fn before_the_deletion(
        &self,
        cx: &Context,
        found: &mut Found,
        until: i64,
        later: Option<i64>,
    ) -> Result<bool, Error> {
        let scanned = i64::from(self.settings.history_scan_revisions_max);
        let from = (until - scanned).max(1);
        let room = found.limit.saturating_sub(found.revisions.len());
        let search = Search { name: &found.name, from, until, later, room };
        let past = self.search(cx, search).await?;
        found.cut = past.cut;
        for event in past.events.into_iter().rev() {
            let deleted = event.is_deletion();
            let Some(kv) = event.kv else { continue };
            if deleted { found.removed(kv.mod_revision) } else { found.put(kv) }
        }
        Ok(past.complete)
    }

    async fn search(&self, cx: &Context, search: Search<'_>) -> Result<Past, Error> {
        let (requests, sent) = mpsc::unbounded();
        let server = self.client.server(cx, Lane::Watch).await?;
        let (peer, reliable) = (server.channel.peer(), server.has_reliable_progress());
        let failed = |status| Failure::of(&status, peer).error.effect_none();
        let signed = self.client.sign_stream(&server, sent).await;
        let signed = signed.map_err(|failure| failure.error.effect_none())?;
        let mut watch_id = 1;
        ask(&requests, search.create(watch_id, search.from));
        let opened = grpc::streaming(&server.channel, WATCH, signed).await;
        let mut answers: grpc::tonic::Streaming<WatchResponse> = opened.map_err(failed)?;
        let mut past = Past { complete: search.from == 1, ..Past::default() };
        let mut questions = 0;
        loop {
            let answer = match select(pin!(answers.message()), sleep(ASK_PERIOD)).await {
                Either::Left((answer, _)) => answer.map_err(failed)?,
                Either::Right(_) => {
                    questions += 1;
                    if questions > QUESTIONS_MAX {
                        past.complete = false;
                        return Ok(past);
                    }
                    if search.later.is_none() {
                        ask(&requests, WatchRequestUnion::Progress(WatchProgressRequest {}));
                    }
                    continue;
                }
            };
            let Some(answer) = answer else { return Err(Failure::ended(peer).error) };
            if answer.compact_revision > search.until {
                return Ok(Past::default());
            }
            if answer.compact_revision > 0 {
                past.complete = false;
                // The server keeps the watch that it has ended, until it is told.
                ask(&requests, WatchRequestUnion::Cancel(WatchCancelRequest { watch_id }));
                watch_id += 1;
                ask(&requests, search.create(watch_id, answer.compact_revision));
                continue;
            }
            if answer.canceled && answer.watch_id == watch_id {
                return Err(Failure::of_reason(&answer.cancel_reason, peer).error);
            }
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let caught_up =
                answer.watch_id < 0 && !answer.created && reliable && revision >= search.until;
            let passed = answer.events.last().is_some_and(|event| event.revision() > search.until);
            for event in answer.events {
                past.push(event, &search);
            }
            if caught_up || passed {
                return Ok(past);
            }
        }
    }
}

/// Sends a request; where the stream is broken, reading it tells.
fn ask(requests: &mpsc::UnboundedSender<WatchRequest>, request: WatchRequestUnion) {
    let _ = requests.unbounded_send(request.into());
}

impl Search<'_> {
    fn create(&self, watch_id: i64, start_revision: i64) -> WatchRequestUnion {
        WatchRequestUnion::Create(WatchCreateRequest {
            key: self.name.to_vec(),
            start_revision,
            watch_id,
            fragment: true,
            ..WatchCreateRequest::default()
        })
    }
}

impl Past {
    /// Keeps the newest changes that fit.
    fn push(&mut self, event: Event, search: &Search<'_>) {
        if event.revision() > search.until {
            return;
        }
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > search.room.max(1)
            || (self.bytes > PAGE_BYTES_MAX && self.events.len() > 1)
        {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.cut = true;
        }
    }
}

fn weight(event: &Event) -> usize {
    event.kv.as_ref().map_or(0, |kv| kv.value.len())
}

impl Found {
    fn is_full(&self) -> bool {
        self.revisions.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX
    }

    fn put(&mut self, kv: KeyValue) {
        self.oldest = kv.mod_revision;
        self.bytes += kv.value.len();
        let change = Change::Put(entry(self.key.clone(), kv));
        self.revisions.push(Revision { change, modified_ms: None });
    }

    fn removed(&mut self, revision: i64) {
        self.oldest = revision;
        let change = Change::Removed(version::to_text(revision));
        self.revisions.push(Revision { change, modified_ms: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mod_revision: i64, bytes: usize) -> Event {
        let kv = KeyValue { mod_revision, value: vec![0; bytes], ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn kept(events: impl IntoIterator<Item = Event>, room: usize) -> (Vec<i64>, bool) {
        let search = Search { name: b"a", from: 1, until: 100, later: None, room };
        let mut past = Past::default();
        events.into_iter().for_each(|event| past.push(event, &search));
        (past.events.iter().map(Event::revision).collect(), past.cut)
    }

    #[test]
    fn the_newest_that_fit_are_kept() {
        assert_eq!(kept([event(1, 1), event(2, 1), event(101, 1)], 2), (vec![1, 2], false));
        assert_eq!(kept([event(1, 1), event(2, 1), event(3, 1)], 2), (vec![2, 3], true));
        let large = PAGE_BYTES_MAX - 1;
        assert_eq!(kept([event(1, large), event(2, large)], 9), (vec![2], true));
        assert_eq!(kept([event(1, PAGE_BYTES_MAX + 1)], 9), (vec![1], false));
    }
}
