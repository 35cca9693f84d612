//! `pintle:config`: values in nodes.
//!
//! A node with data is a value, also with empty data. A node without (null) is a directory: it holds
//! children and is no key.

mod clear;
mod list;
mod plan;
mod transact;
mod tree;
mod values;
mod watch;

use crate::lock::Lease;
use crate::session::Failure;
use crate::wire::{Content, ErrorCode, Stat};
use crate::zookeeper::ZooKeeper;
use futures::future::{OptionFuture, join};
use pintle_plugin_sdk::config::{
    Condition, Config, Consistency, Delete, DeleteOutcome, Entry, Expectation, ListRequest, Page,
    Put, PutOutcome, ReadOptions, Stored, Txn, TxnOp, TxnOutcome, TxnPut, TxnResult, WatchRequest,
    WatchSink,
};
use pintle_plugin_sdk::{Context, Error};
use std::rc::Rc;
use transact::{Committed, Transacted, Transaction};
use values::{Wanted, read_values};

impl Config for ZooKeeper {
    type Held = Lease;

    async fn get(
        &self,
        cx: &Context,
        key: String,
        options: ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        let path = self.paths.node(&key)?;
        let doing = format!("reading `{key}`");
        let data = self.read(cx, &doing, async |client| {
            // It goes out first, and the read behind it without waiting.
            let barrier = is_linearizable(&options).then(|| client.barrier());
            let (barrier, read) = join(OptionFuture::from(barrier), client.get(&path)).await;
            barrier.transpose()?;
            found(read)
        });
        Ok(data.await?.and_then(|(data, stat)| entry(key, data, &stat)))
    }

    async fn get_many(
        &self,
        cx: &Context,
        keys: Vec<String>,
        options: ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let paths = keys.iter().map(|key| self.paths.node(key));
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        let doing = format!("reading {} keys", keys.len());
        let nodes = self.read(cx, &doing, async |client| {
            let wanted = paths.iter().map(|path| Wanted { path, is_shown: true });
            read_values(&client, is_linearizable(&options), wanted).await
        });
        let nodes = nodes.await?;
        let entries = keys.into_iter().zip(nodes);
        Ok(entries
            .map(|(key, node)| node.and_then(|(data, stat)| entry(key, data, &stat)))
            .collect())
    }

    async fn list(&self, cx: &Context, request: ListRequest) -> Result<Page, Error> {
        self.list_page(cx, request).await
    }

    async fn put(&self, cx: &Context, request: Put<Lease>) -> Result<PutOutcome, Error> {
        let Put { key, value, expect, held, previous, .. } = request;
        if expect == Expectation::Anything && !previous {
            return self.put_blindly(cx, &key, &value, held.as_deref()).await;
        }
        if expect == Expectation::Absent
            && let Some(outcome) = self.put_new(cx, &key, &value, held.as_deref()).await?
        {
            return Ok(outcome);
        }
        let condition = Condition { key: key.clone(), expect };
        let put = TxnPut { key, value, content_type: None };
        let transaction = Transaction {
            conditions: vec![condition],
            held: held.into_iter().collect(),
            ops: vec![TxnOp::Put(put)],
        };
        match self.transact(cx, transaction).await? {
            Transacted::Committed(Committed { mut results, mut before }) => {
                let previous = before.pop().flatten().filter(|_| previous);
                match results.pop() {
                    Some(TxnResult::Stored(version)) => {
                        Ok(PutOutcome::Stored(Stored { version, previous }))
                    }
                    _ => Err(transact::without_version()),
                }
            }
            Transacted::Stale(mut mismatches) => {
                Ok(PutOutcome::Stale(mismatches.pop().and_then(|mismatch| mismatch.current)))
            }
            Transacted::Fenced => Ok(PutOutcome::Fenced),
        }
    }

    async fn delete(&self, cx: &Context, request: Delete<Lease>) -> Result<DeleteOutcome, Error> {
        let Delete { key, expect, held, previous, .. } = request;
        let transaction = Transaction {
            conditions: vec![Condition { key: key.clone(), expect }],
            held: held.into_iter().collect(),
            ops: vec![TxnOp::Delete(key)],
        };
        match self.transact(cx, transaction).await? {
            Transacted::Committed(Committed { mut results, mut before }) => {
                Ok(match results.pop() {
                    Some(TxnResult::Deleted(true)) => {
                        DeleteOutcome::Deleted(before.pop().flatten().filter(|_| previous))
                    }
                    _ => DeleteOutcome::Absent,
                })
            }
            Transacted::Stale(mut mismatches) => {
                Ok(DeleteOutcome::Stale(mismatches.pop().and_then(|mismatch| mismatch.current)))
            }
            Transacted::Fenced => Ok(DeleteOutcome::Fenced),
        }
    }

    async fn delete_prefix(
        &self,
        cx: &Context,
        prefix: String,
        held: Option<Rc<Lease>>,
    ) -> Result<u64, Error> {
        self.delete_tree(cx, &prefix, held.as_deref()).await
    }

    async fn txn(&self, cx: &Context, request: Txn<Lease>) -> Result<TxnOutcome, Error> {
        let Txn { conditions, held, ops } = request;
        Ok(match self.transact(cx, Transaction { conditions, held, ops }).await? {
            Transacted::Committed(committed) => TxnOutcome::Committed(committed.results),
            Transacted::Stale(mismatches) => TxnOutcome::Stale(mismatches),
            Transacted::Fenced => TxnOutcome::Fenced,
        })
    }

    async fn watch(self: Rc<Self>, request: WatchRequest, sink: WatchSink) -> Result<(), Error> {
        self.feed_watch(request, sink).await
    }
}

fn is_linearizable(options: &ReadOptions) -> bool {
    options.consistency == Consistency::Linearizable
}

/// A node that was read: nothing where there is none.
fn found(read: Result<Content, Failure>) -> Result<Option<Content>, Failure> {
    match read {
        Ok(node) => Ok(Some(node)),
        Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The entry of a node; none for a directory.
fn entry(key: String, data: Option<Vec<u8>>, stat: &Stat) -> Option<Entry> {
    Some(Entry {
        key,
        value: data?,
        content_type: None,
        version: version_of(stat),
        modified_ms: u64::try_from(stat.mtime_ms).ok(),
    })
}

/// The version of a key: a node that is created again has another `czxid`.
pub(crate) fn version_of(stat: &Stat) -> String {
    format!("{:x}-{}", stat.czxid, stat.version)
}

#[cfg(test)]
mod tests;
