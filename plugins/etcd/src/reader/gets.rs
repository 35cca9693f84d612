//! Single keys: those that come while others are read go out in one transaction that only reads.

use super::lags;
use crate::client::{Client, Lane, READ_TXN};
use crate::wire::messages::{KeyValue, RangeRequest, Request, Response, TxnRequest};
use pintle_plugin_sdk::coalesce::{Coalescer, Limits};
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

/// What is read over one connection.
pub(crate) struct Gets {
    linearizable: Coalescer<Get, Option<KeyValue>>,
    sequential: Coalescer<Get, Option<KeyValue>>,
}

impl Gets {
    pub(super) fn of(client: &Rc<Client>) -> Self {
        let coalescer = |consistency| {
            // The connection is the client's.
            let client = Rc::downgrade(client);
            let together = move |gets| -> futures::future::LocalBoxFuture<'static, _> {
                Box::pin(read_together(Weak::clone(&client), gets, consistency))
            };
            Coalescer::new(LIMITS, bytes, together)
        };
        Self {
            linearizable: coalescer(Consistency::Linearizable),
            sequential: coalescer(Consistency::Sequential),
        }
    }

    pub(super) fn with(&self, consistency: Consistency) -> &Coalescer<Get, Option<KeyValue>> {
        match consistency {
            Consistency::Linearizable => &self.linearizable,
            _ => &self.sequential,
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
) -> Option<Vec<Option<KeyValue>>> {
    let client = client.upgrade()?;
    let patience = gets.iter().map(|get| get.deadline).max()?.remaining();
    let cx = Context::background("config.get", patience);
    let keys = gets.into_iter().map(|get| get.key);
    read_keys(&client, &cx, keys, 0, consistency).await.ok()?
}

/// Reads keys as of a revision, 0 for now; nothing where the member lags behind what has to be read.
///
/// # Errors
///
/// As [`Client::call`].
pub(super) async fn read_keys(
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
