//! Reading keys: how fresh, how many at a time.

mod gets;

use crate::client::{Answer, Client, Lane, RANGE};
use crate::wire::layout::Range;
use crate::wire::messages::{KeyValue, RangeRequest, RangeResponse};
use gets::{Get, read_keys_fresh};
use pintle_plugin_sdk::config::Consistency;
use pintle_plugin_sdk::{Context, Error};
use std::cell::Cell;
use std::rc::Rc;

pub(crate) use gets::Gets;

/// Bytes of keys and values that one page has at most, but for a single larger entry.
pub(crate) const PAGE_BYTES_MAX: usize = 4 << 20;
/// Most keys asked for at once.
const STEP_KEYS_MAX: i64 = 1_000;

/// What is read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) range: Range,
    /// 0 for now.
    pub(crate) revision: i64,
    pub(crate) consistency: Consistency,
    pub(crate) keys_only: bool,
}

/// Reads keys.
pub(crate) struct Reader {
    client: Rc<Client>,
    /// How many keys to ask for: fewer after an answer that was too large.
    step_keys: Cell<i64>,
}

/// A part of a range.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) kvs: Vec<KeyValue>,
    /// Whether the range has more.
    pub(crate) more: bool,
    /// The revision of the store that it shows.
    pub(crate) revision: i64,
}

/// Whether the member that answered by itself lags behind what has to be read: what others told us,
/// or the revision that was asked for.
pub(crate) fn lags<A: Answer>(
    answer: &Result<A, Error>,
    consistency: Consistency,
    revision: i64,
    seen: i64,
) -> bool {
    match answer {
        Ok(answer) => consistency == Consistency::Sequential && answer.revision() < seen,
        Err(error) => error.code() == "invalid" && revision > 0,
    }
}

impl Reader {
    pub(crate) fn new(client: Rc<Client>) -> Self {
        Self { client, step_keys: Cell::new(STEP_KEYS_MAX) }
    }

    /// Reads one key, together with others that are read at the same time.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub(crate) async fn one(
        &self,
        cx: &Context,
        key: Vec<u8>,
        revision: i64,
        consistency: Consistency,
    ) -> Result<Option<KeyValue>, Error> {
        let alone = async |key| {
            let read = Read { range: Range::of_key(key), revision, consistency, keys_only: false };
            Ok(self.range(cx, read, 1).await?.kvs.pop())
        };
        if revision > 0 {
            return alone(key).await;
        }
        let server = self.client.server(cx, Lane::Data).await?;
        let gets = Rc::clone(&server.gets);
        // What is left is not kept open.
        drop(server);
        let coalescer = gets.get_or_init(|| Gets::of(&self.client)).with(consistency);
        coalescer.ask(Get { key, deadline: cx.deadline() }, async |get| alone(get.key).await).await
    }

    /// Reads several keys as of a revision; 0 for now.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub(crate) async fn many(
        &self,
        cx: &Context,
        keys: &[Vec<u8>],
        revision: i64,
        consistency: Consistency,
    ) -> Result<Vec<Option<KeyValue>>, Error> {
        read_keys_fresh(&self.client, cx, keys, revision, consistency).await
    }

    /// Reads the beginning of a range: at most `limit` keys, fewer where values are large.
    ///
    /// # Errors
    ///
    /// As [`Client::call`]; `too-large` when a single entry does not fit.
    pub(crate) async fn part(&self, cx: &Context, read: Read, limit: usize) -> Result<Part, Error> {
        let limit = i64::try_from(limit).unwrap_or(STEP_KEYS_MAX);
        loop {
            let step_keys = self.step_keys.get();
            let asked = limit.min(step_keys);
            let response = match self.range(cx, read.clone(), asked).await {
                Err(error) if error.code() == "too-large" && asked > 1 => {
                    self.step_keys.set(asked / 2);
                    continue;
                }
                response => response?,
            };
            let revision = if read.revision > 0 { read.revision } else { response.revision() };
            let mut part = Part { kvs: response.kvs, more: response.more, revision };
            self.adapt(step_keys, &mut part);
            return Ok(part);
        }
    }

    /// Reads a whole range as of a revision; 0 for now.
    ///
    /// # Errors
    ///
    /// As [`part`](Self::part); `compacted` when the revision is gone meanwhile.
    pub(crate) async fn all(
        &self,
        cx: &Context,
        range: Range,
        revision: i64,
    ) -> Result<Vec<KeyValue>, Error> {
        Ok(self.all_from(cx, range, revision).await?.0)
    }

    /// Reads a whole range, and answers the revision that it shows.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    pub(crate) async fn all_now(
        &self,
        cx: &Context,
        range: Range,
    ) -> Result<(Vec<KeyValue>, i64), Error> {
        self.all_from(cx, range, 0).await
    }

    async fn all_from(
        &self,
        cx: &Context,
        range: Range,
        mut revision: i64,
    ) -> Result<(Vec<KeyValue>, i64), Error> {
        let (mut kvs, mut rest) = (Vec::new(), Some(range));
        while let Some(range) = rest.take() {
            let read = Read {
                range: range.clone(),
                revision,
                consistency: Consistency::Linearizable,
                keys_only: false,
            };
            let part = self.part(cx, read, usize::MAX).await?;
            revision = part.revision;
            if part.more {
                rest = part.kvs.last().and_then(|last| range.after(&last.key));
            }
            kvs.extend(part.kvs);
        }
        Ok((kvs, revision))
    }

    /// Cuts a part that is larger than a page, and asks for as much as fits next time.
    fn adapt(&self, step_keys: i64, part: &mut Part) {
        let mut bytes = 0;
        let fitting = part.kvs.iter().take_while(|kv| {
            bytes += kv.key.len() + kv.value.len();
            bytes <= PAGE_BYTES_MAX
        });
        let fitting = fitting.count().max(1);
        if fitting < part.kvs.len() {
            part.kvs.truncate(fitting);
            part.more = true;
            self.step_keys.set(i64::try_from(fitting).unwrap_or(step_keys));
        } else if bytes <= PAGE_BYTES_MAX / 4 {
            self.step_keys.set((step_keys * 2).min(STEP_KEYS_MAX));
        }
    }

    /// # Errors
    ///
    /// As [`Client::call`].
    async fn range(&self, cx: &Context, read: Read, limit: i64) -> Result<RangeResponse, Error> {
        let serializable = read.consistency != Consistency::Linearizable;
        let request = RangeRequest {
            key: read.range.start,
            range_end: read.range.end,
            limit,
            revision: read.revision,
            serializable,
            keys_only: read.keys_only,
            ..RangeRequest::default()
        };
        if !serializable {
            return self.client.call(cx, Lane::Data, RANGE, request).await;
        }
        let seen = self.client.revision_seen();
        let answer = self.client.call(cx, Lane::Data, RANGE, request.clone()).await;
        if !lags(&answer, read.consistency, read.revision, seen) {
            return answer;
        }
        let request = RangeRequest { serializable: false, ..request };
        self.client.call(cx, Lane::Data, RANGE, request).await
    }
}
