//! What a key was before, as far as it is not compacted.
//!
//! Within the present life of a key each revision names the one before it: one read each. What was
//! before its creation or after its deletion no read can name; there the changes themselves are read,
//! by a watch that begins in the past.

use super::{entry, revision};
use crate::client::Lane;
use crate::error::Failure;
use crate::etcd::Etcd;
use crate::reader::Read;
use crate::wire::layout::Range;
use crate::wire::messages::{
    Event, KeyValue, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchRequestUnion,
    WatchResponse,
};
use crate::wire::version;
use futures::channel::mpsc;
use futures::future::{Either, select};
use pintle_plugin_sdk::config::{Change, Consistency, HistoryPage, HistoryRequest, Revision};
use pintle_plugin_sdk::time::sleep;
use pintle_plugin_sdk::{Context, Error, grpc};
use std::pin::pin;
use std::time::Duration;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// How often a server is asked whether it has told all changes.
const ASK_PERIOD: Duration = Duration::from_millis(50);

/// Revisions found so far, newest first.
struct Found {
    key: String,
    name: Vec<u8>,
    limit: usize,
    revisions: Vec<Revision>,
    /// The oldest of them.
    oldest: i64,
}

/// Changes of one key.
struct Past {
    events: Vec<Event>,
    /// Whether the search began at the beginning of the store.
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
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = Found { key, name, limit, revisions: Vec::new(), oldest: 0 };
        let before = page.as_deref().map(revision).transpose()?;
        let complete = self.walk(cx, &mut found, before).await?;
        let more = found.revisions.len() >= found.limit;
        Ok(HistoryPage {
            next: more.then(|| version::to_text(found.oldest)),
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
        // 0 is now.
        let mut at = before.map_or(0, |before| before - 1);
        if before == Some(1) {
            return Ok(true);
        }
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

    /// Finds changes up to the revision `until`, at which there is no key. `later`: a revision after
    /// that at which it was changed, if there is one.
    async fn before_the_deletion(
        &self,
        cx: &Context,
        found: &mut Found,
        until: i64,
        later: Option<i64>,
    ) -> Result<bool, Error> {
        let scanned = i64::from(self.settings.history_scan_revisions_max);
        let from = (until - scanned).max(1);
        let Past { events, complete } = self.past(cx, &found.name, from, until, later).await?;
        for event in events.into_iter().rev() {
            if found.is_full() {
                return Ok(true);
            }
            let deleted = event.is_deletion();
            let Some(kv) = event.kv else { continue };
            if deleted { found.removed(kv.mod_revision) } else { found.put(kv) }
        }
        Ok(complete)
    }

    /// The changes of a key from one revision to another, oldest first.
    async fn past(
        &self,
        cx: &Context,
        name: &[u8],
        from: i64,
        until: i64,
        later: Option<i64>,
    ) -> Result<Past, Error> {
        let (requests, sent) = mpsc::unbounded();
        let server = self.client.server(cx, Lane::Watch).await?;
        let peer = server.channel.peer();
        let failed = |status| Failure::of(&status, peer).error.effect_none();
        let signed = self.client.sign_stream(&server, sent).await;
        let signed = signed.map_err(|failure| failure.error.effect_none())?;
        ask(&requests, create(name, from));
        let opened = grpc::streaming(&server.channel, WATCH, signed).await;
        let mut answers: grpc::tonic::Streaming<WatchResponse> = opened.map_err(failed)?;
        let mut past = Past { events: Vec::new(), complete: from == 1 };
        loop {
            let answer = match select(pin!(answers.message()), sleep(ASK_PERIOD)).await {
                Either::Left((answer, _)) => answer.map_err(failed)?,
                Either::Right(_) => {
                    if later.is_none() {
                        ask(&requests, WatchRequestUnion::Progress(WatchProgressRequest {}));
                    }
                    continue;
                }
            };
            let Some(answer) = answer else { return Err(Failure::ended(peer).error) };
            if answer.compact_revision > until {
                return Ok(Past { events: Vec::new(), complete: false });
            }
            if answer.compact_revision > 0 {
                past.complete = false;
                ask(&requests, create(name, answer.compact_revision));
            } else if answer.canceled {
                return Err(Failure::of_reason(&answer.cancel_reason, peer).error);
            }
            let caught_up = answer.watch_id < 0 && !answer.created;
            let passed = answer.events.last().is_some_and(|event| event.revision() > until);
            past.events.extend(answer.events.into_iter().filter(|event| event.revision() <= until));
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

fn create(name: &[u8], start_revision: i64) -> WatchRequestUnion {
    WatchRequestUnion::Create(WatchCreateRequest {
        key: name.to_vec(),
        start_revision,
        fragment: true,
        ..WatchCreateRequest::default()
    })
}

impl Found {
    fn is_full(&self) -> bool {
        self.revisions.len() >= self.limit
    }

    fn put(&mut self, kv: KeyValue) {
        self.oldest = kv.mod_revision;
        let change = Change::Put(entry(self.key.clone(), kv));
        self.revisions.push(Revision { change, modified_ms: None });
    }

    fn removed(&mut self, revision: i64) {
        self.oldest = revision;
        let change = Change::Removed(version::to_text(revision));
        self.revisions.push(Revision { change, modified_ms: None });
    }
}
