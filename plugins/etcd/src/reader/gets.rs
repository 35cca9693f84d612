//! Single keys: those that come while others are read go out in one transaction that only reads.

use super::lags;
use crate::client::{Client, Lane, READ_TXN};
use crate::wire::messages::{KeyValue, RangeRequest, Request, Response, TxnRequest};
use futures::future::LocalBoxFuture;
use pintle_plugin_sdk::coalesce::{Coalescer, Failed, Limits};
use pintle_plugin_sdk::config::Consistency;
use pintle_plugin_sdk::time::Instant;
use pintle_plugin_sdk::{Context, Error};
use std::rc::{Rc, Weak};

/// A server takes transactions of 128 operations where its operator says nothing else, and refuses
/// longer ones: then each key is read by itself.
const LIMITS: Limits = Limits { under_way: 2, questions: 32, answer_bytes: 1 << 20 };

/// A key to read, for a call that has to be done by then.
#[derive(Clone)]
pub(super) struct Get {
    pub(super) key: Vec<u8>,
    pub(super) deadline: Instant,
}

/// What is read over one connection. What the quorum does not answer holds up nobody who does without.
pub(crate) struct Gets {
    linearizable: Coalescer<Get, Option<KeyValue>>,
    sequential: Coalescer<Get, Option<KeyValue>>,
    any: Coalescer<Get, Option<KeyValue>>,
}

impl Gets {
    pub(super) fn of(client: &Rc<Client>) -> Self {
        let coalescer = |consistency| {
            // The connection is the client's.
            let client = Rc::downgrade(client);
            let together = move |gets| -> LocalBoxFuture<'static, _> {
                Box::pin(read_together(Weak::clone(&client), gets, consistency))
            };
            Coalescer::new(LIMITS, bytes, together)
        };
        Self {
            linearizable: coalescer(Consistency::Linearizable),
            sequential: coalescer(Consistency::Sequential),
            any: coalescer(Consistency::Any),
        }
    }

    pub(super) fn with(&self, consistency: Consistency) -> &Coalescer<Get, Option<KeyValue>> {
        match consistency {
            Consistency::Linearizable => &self.linearizable,
            Consistency::Sequential => &self.sequential,
            Consistency::Any => &self.any,
        }
    }
}

fn bytes(found: &Option<KeyValue>) -> usize {
    found.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

async fn read_together(
    client: Weak<Client>,
    gets: Vec<Get>,
    consistency: Consistency,
) -> Result<Vec<Option<KeyValue>>, Failed> {
    let client = client.upgrade().ok_or(Failed::Otherwise)?;
    // When the first of them has to be done, the others go on alone: nobody's patience with a server
    // that keeps silent is another's.
    let deadline = gets.iter().map(|get| get.deadline).min().unwrap_or_else(Instant::now);
    let cx = Context::background("config.get", deadline.remaining());
    let keys: Vec<_> = gets.into_iter().map(|get| get.key).collect();
    let found = read_keys_fresh(&client, &cx, &keys, 0, consistency).await;
    found.map_err(|error| match error.code() {
        "too-large" => Failed::TooMuch,
        _ => Failed::Otherwise,
    })
}

/// Reads keys as of a revision, 0 for now; by the quorum where the member lags behind what has to be
/// read.
///
/// # Errors
///
/// As [`Client::call`].
pub(super) async fn read_keys_fresh(
    client: &Client,
    cx: &Context,
    keys: &[Vec<u8>],
    revision: i64,
    consistency: Consistency,
) -> Result<Vec<Option<KeyValue>>, Error> {
    let read = async |consistency| {
        read_keys(client, cx, keys.iter().cloned(), revision, consistency).await
    };
    if let Some(found) = read(consistency).await? {
        return Ok(found);
    }
    // What the quorum says never lags.
    Ok(read(Consistency::Linearizable).await?.unwrap_or_default())
}

/// Reads keys as of a revision, 0 for now; nothing where the member lags behind what has to be read.
///
/// # Errors
///
/// As [`Client::call`].
async fn read_keys(
    client: &Client,
    cx: &Context,
    keys: impl Iterator<Item = Vec<u8>>,
    revision: i64,
    consistency: Consistency,
) -> Result<Option<Vec<Option<KeyValue>>>, Error> {
    let serializable = consistency != Consistency::Linearizable;
    let get = |key| {
        let range = RangeRequest { key, revision, serializable, ..RangeRequest::default() };
        Request::Range(range).into()
    };
    let request = TxnRequest { success: keys.map(get).collect(), ..TxnRequest::default() };
    let seen = client.revision_seen();
    let answer = client.call_in_time(cx, Lane::Data, READ_TXN, request).await;
    if serializable && lags(&answer, consistency, revision, seen) {
        return Ok(None);
    }
    let found = answer?.responses.into_iter().map(|response| match response.response {
        Some(Response::Range(mut range)) => range.kvs.pop(),
        _ => None,
    });
    Ok(Some(found.collect()))
}
