//! `pintle:lock`: claims that leases keep, in the order of their creation.
//!
//! The recipe is etcd's own (`client/v3/concurrency`): a claim is a key below the lock's name, named by
//! its lease; who has the lowest create-revision holds. So `etcdctl lock` on the same path and Pintle
//! exclude each other. Shared claims and permits extend it by what stands in the value.

mod acquire;
mod claims;

pub(crate) use acquire::{Locks, unix_ms};

use crate::client::{DELETE_RANGE, Lane, RANGE, TXN};
use crate::error::is_passing;
use crate::etcd::Etcd;
use crate::watches::{End, Notice, Target};
use crate::wire::layout::Range;
use crate::wire::messages::{Compare, CompareResult, DeleteRangeRequest, Request, TxnRequest};
use claims::Queue;
use futures::channel::mpsc;
use futures::future::{Either, select};
use futures::stream::StreamExt;
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::config::Consistency;
use pintle_plugin_sdk::lock::{
    AcquireRequest, Acquired, LeaseReporter, Lock, LockState, LocksPage, WatchSink,
};
use pintle_plugin_sdk::{Context, Error};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long one read of a watched lock may take.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// A lease, as the SDK keeps it.
#[derive(Debug)]
pub struct Lease {
    /// etcd's number.
    pub(crate) id: i64,
    /// The key of the claim.
    pub(crate) key: Vec<u8>,
    /// The revision at which the claim came into being: the fencing token.
    pub(crate) create_revision: i64,
    pub(crate) ttl: Duration,
    /// We have begun to give it back: its end is no loss.
    pub(crate) released: Rc<Cell<bool>>,
}

/// While it lives, the end of the lease is no loss. Dropped before it is done, because nobody knows
/// whether the lease was given back, it is one again.
struct Releasing<'a> {
    lease: &'a Lease,
    done: bool,
}

impl<'a> Releasing<'a> {
    fn begin(lease: &'a Lease) -> Self {
        lease.released.set(true);
        Self { lease, done: false }
    }

    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        self.lease.released.set(self.done);
    }
}

impl Lock for Etcd {
    type Lease = Lease;

    async fn acquire(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<Lease>, Error> {
        self.acquire_lock(cx, request, reporter).await
    }

    async fn release(&self, cx: &Context, lease: Rc<Lease>) -> Result<bool, Error> {
        let releasing = Releasing::begin(&lease);
        let created =
            Compare::created(lease.key.clone(), CompareResult::Equal, lease.create_revision);
        let delete = DeleteRangeRequest { key: lease.key.clone(), ..Default::default() };
        let request = TxnRequest {
            compare: vec![created],
            success: vec![Request::DeleteRange(delete).into()],
            failure: Vec::new(),
        };
        let answer = self.client.call(cx, Lane::Lease, TXN, request).await?;
        releasing.done();
        // The lock is free; the lease without a key is in nobody's way.
        if let Err(error) = self.leases.revoke(cx, lease.id).await {
            tracing::debug!(%error, "the lease of a lock that was released is revoked later");
            self.leases.revoke_later(lease.id, lease.ttl);
        }
        Ok(answer.succeeded)
    }

    async fn inspect(&self, cx: &Context, name: String) -> Result<LockState, Error> {
        Ok(self.queue(cx, &name).await?.state(&name, self.settings.epoch))
    }

    async fn list_locks(
        &self,
        cx: &Context,
        prefix: String,
        page: Option<String>,
        limit: u32,
    ) -> Result<LocksPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut rest = Some(self.layout.claims_below(&prefix));
        if let Some(page) = page {
            // Behind all claims of the last lock of the page before.
            rest = rest.map(|range| Range { start: self.layout.claims(&page).end, ..range });
        }
        let mut names: Vec<String> = Vec::new();
        while let Some(range) = rest.take() {
            let read = crate::reader::Read {
                range: range.clone(),
                revision: 0,
                consistency: Consistency::Linearizable,
                keys_only: true,
            };
            // Claims of one lock stand together, so that a lock is found by its first one.
            let part = self.reader.part(cx, read, limit.saturating_add(1)).await?;
            for kv in &part.kvs {
                let Some((name, _)) = self.layout.claim_named(&kv.key) else { continue };
                if names.last() == Some(&name) {
                    continue;
                }
                if names.len() == limit {
                    return Ok(LocksPage { next: names.last().cloned(), names });
                }
                names.push(name);
            }
            if part.more {
                rest = part.kvs.last().and_then(|last| range.after(&last.key));
            }
        }
        Ok(LocksPage { names, next: None })
    }

    async fn force_release(
        &self,
        cx: &Context,
        name: String,
        claim_id: String,
    ) -> Result<bool, Error> {
        if claim_id.is_empty() || claim_id.contains('/') {
            let message = format!("`{claim_id}` is no claim id: take one from the lock's state");
            return Err(Error::invalid(message));
        }
        let key = self.layout.claim(&name, &claim_id);
        let request = DeleteRangeRequest { key, ..Default::default() };
        let answer = self.client.call(cx, Lane::Lease, DELETE_RANGE, request).await?;
        Ok(answer.deleted > 0)
    }

    async fn watch(self: Rc<Self>, name: String, sink: WatchSink) -> Result<(), Error> {
        let mut pauses = Backoff::default();
        loop {
            match self.show(&name, &sink).await {
                Ok(End::Refused(error)) if !is_passing(&error) => return Err(error),
                Ok(end) => tracing::debug!(reason = end.reason(), "a lock is watched again"),
                Err(error) if is_passing(&error) => {
                    tracing::debug!(%error, "a watched lock is read again");
                }
                Err(error) => return Err(error),
            }
            pauses.wait().await;
        }
    }
}

impl Etcd {
    /// All claims on a lock.
    pub(crate) async fn queue(&self, cx: &Context, name: &str) -> Result<Queue, Error> {
        let read = Queue::read(&self.layout, name);
        let answer = self.client.call(cx, Lane::Lease, RANGE, read).await?;
        Ok(Queue::new(&self.layout, answer.kvs, answer.header.unwrap_or_default()))
    }

    /// Shows a lock and its changes until the server ends the watch.
    async fn show(&self, name: &str, sink: &WatchSink) -> Result<End, Error> {
        let mut queue = self.read_watched(name).await?;
        // One change is enough to look again: while one waits to be looked at, more count as one.
        let (changed, mut changes) = mpsc::channel(0);
        let changed = RefCell::new(changed);
        let range = self.layout.claims(name);
        let target = Target { range, start_revision: queue.revision + 1, prev_kv: false };
        let mut subscription = self.watches.open(target, move |notice| {
            if let Notice::Events(_) = notice {
                // Full: a look is due already.
                let _ = changed.borrow_mut().try_send(());
            }
        });
        loop {
            sink.state(queue.state(name, self.settings.epoch));
            match select(pin!(subscription.ended()), changes.next()).await {
                Either::Left((end, _)) => return Ok(end),
                Either::Right(_) => queue = self.read_watched(name).await?,
            }
        }
    }

    async fn read_watched(&self, name: &str) -> Result<Queue, Error> {
        self.queue(&Context::background("lock.watch", READ_LIMIT), name).await
    }
}
