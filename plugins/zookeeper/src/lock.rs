//! `pintle:lock`: claims are ephemeral sequential nodes; those at the front hold.
//!
//! Names and order are those of Apache Curator's recipes, so that both exclude each other.

mod acquire;
mod claim;
mod inspect;

use crate::path::child;
use crate::session::{Client, Failure, PooledSession};
use crate::wire::{Create, CreateMode, Delete, ErrorCode, GetData, Op};
use crate::zookeeper::ZooKeeper;
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::lock::{
    AcquireRequest, Acquired, LeaseReporter, Lock, LockState, LocksPage, Token, WatchSink,
};
use pintle_plugin_sdk::random::random_u64;
use pintle_plugin_sdk::{Context, Effect, Error, spawn};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// How long one attempt to remove a claim may take.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

/// A lease: its claim, and the session that keeps it. Clones are the same lease.
#[derive(Clone)]
pub struct Lease {
    session: PooledSession,
    generation: u64,
    path: String,
    /// It is being given back: its claim may be gone.
    releasing: Rc<Cell<bool>>,
    /// Deletions of its claim that were sent and not refused: one of them may have removed it.
    deletions: Rc<Cell<u64>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Lease {
    /// Goes on only if the claim is there: it held when the lease was granted, and nobody can come
    /// before it.
    pub(crate) fn check(&self) -> Op<'_> {
        Op::Check { path: &self.path, version: -1 }
    }

    /// Deletes the claim for certain: tries until it is gone, or its session is. The session lives on
    /// for others, so nothing else would.
    async fn remove_at_last(&self) {
        let mut pauses = Backoff::default();
        while !self.session.is_over(self.generation) {
            let cx = Context::background("removing a claim", REMOVE_PATIENCE);
            match self.remove(&cx).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "a claim could not be removed"),
            }
            pauses.wait().await;
        }
    }

    /// Deletes the claim; answers whether there was one.
    async fn remove(&self, cx: &Context) -> Result<bool, Error> {
        loop {
            if self.session.is_over(self.generation) {
                return Ok(self.deletions.get() > 0);
            }
            let client = self.session.client(cx).await?;
            if client.identity().generation != self.generation {
                continue;
            }
            let delete = Delete { path: &self.path, version: -1 };
            // Before the answer: it may come when nobody waits for it any more.
            self.deletions.set(self.deletions.get() + 1);
            let Err(failure) = client.call(&delete).await else { return Ok(true) };
            if failure.explain("").effect() == Effect::None {
                self.deletions.set(self.deletions.get() - 1);
            }
            if failure.is(ErrorCode::NO_NODE) {
                return Ok(self.deletions.get() > 0);
            }
            if !failure.is_passing() {
                return Err(failure.explain("giving a claim back"));
            }
            self.session.settle(&client);
            if let Some(end) = cx.ended() {
                return Err(cx.error(end).effect_unknown());
            }
        }
    }
}

/// Goes on in the background where giving a lease back failed, or was broken off.
struct Removal {
    lease: Lease,
    done: bool,
}

impl Drop for Removal {
    fn drop(&mut self) {
        if !self.done {
            let lease = self.lease.clone();
            spawn(async move { lease.remove_at_last().await }).detach();
        }
    }
}

impl Lock for ZooKeeper {
    type Lease = Lease;

    async fn acquire(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<Lease>, Error> {
        acquire::acquire(self, cx, request, reporter).await
    }

    async fn release(&self, cx: &Context, lease: Rc<Lease>) -> Result<bool, Error> {
        let first = !lease.releasing.replace(true);
        let mut removed = Removal { lease: lease.as_ref().clone(), done: !first };
        let outcome = lease.remove(cx).await;
        removed.done |= outcome.is_ok();
        // It goes on in the background.
        outcome.map_err(Error::effect_unknown)
    }

    async fn inspect(&self, cx: &Context, name: String) -> Result<LockState, Error> {
        self.lock_state(cx, name).await
    }

    async fn list_locks(
        &self,
        cx: &Context,
        prefix: String,
        page: Option<String>,
        limit: u32,
    ) -> Result<LocksPage, Error> {
        self.locks_page(cx, &prefix, page.as_deref().unwrap_or_default(), limit).await
    }

    async fn force_release(
        &self,
        cx: &Context,
        name: String,
        claim_id: String,
    ) -> Result<bool, Error> {
        if claim::ClaimName::parse(&claim_id).is_none() || claim_id.contains('/') {
            let message = format!("`{claim_id}` is no claim id: take one from the lock's state");
            return Err(Error::invalid(message));
        }
        let path = child(&self.paths.lock(&name), &claim_id);
        let client = self.main.client(cx).await?;
        match client.call(&Delete { path: &path, version: -1 }).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(false),
            Err(failure) => Err(failure.explain(&format!("taking lock `{name}` away"))),
        }
    }

    async fn watch(self: Rc<Self>, name: String, sink: WatchSink) -> Result<(), Error> {
        self.feed_lock_watch(name, sink).await
    }
}

/// The identity of the ensemble: what tokens of locks are compared within. ZooKeeper has none of its
/// own, so it is a node that is created once.
pub(crate) struct Identities {
    epoch: u32,
    known: RefCell<Option<String>>,
}

impl Identities {
    pub(crate) fn new(epoch: u32) -> Self {
        Self { epoch, known: RefCell::default() }
    }

    /// The epoch of tokens, once it is known.
    fn known(&self) -> Option<String> {
        self.known.borrow().clone()
    }

    fn learn(&self, identity: String) {
        let epoch = match self.epoch {
            0 => identity,
            raised => format!("{identity}-{raised}"),
        };
        *self.known.borrow_mut() = Some(epoch);
    }

    fn token(&self, czxid: i64) -> Option<Token> {
        let value = u64::try_from(czxid).ok()?;
        Some(Token { epoch: self.known()?, value })
    }
}

impl ZooKeeper {
    /// Reads the identity of the ensemble, or gives it one.
    async fn identify(&self, client: &Client) -> Result<(), Failure> {
        if self.identities.known().is_some() {
            return Ok(());
        }
        let path = self.paths.identity();
        let fresh = format!("{:016x}{:016x}", random_u64(), random_u64());
        let data = fresh.as_bytes();
        let identity = loop {
            match client.call(&GetData { path: &path, watch: false }).await {
                Ok((data, _)) => break String::from_utf8_lossy(&data.unwrap_or_default()).into(),
                Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
                Err(failure) => return Err(failure),
            }
            let mode = CreateMode::Persistent;
            let refusal = self.create_above(client, &path, mode).await?;
            let create = Create { path: &path, data: Some(data), acl: &self.acl, mode };
            match (client.call(&create).await, refusal) {
                (Ok(_), _) => break fresh.clone(),
                (Err(failure), _) if failure.is(ErrorCode::NODE_EXISTS) => {}
                (Err(failure), Some(refusal)) if failure.is(ErrorCode::NO_NODE) => {
                    return Err(refusal);
                }
                (Err(failure), _) => return Err(failure),
            }
        };
        self.identities.learn(identity);
        Ok(())
    }

    /// Reads the identity of the ensemble, if it has one: whoever only looks gives it none.
    async fn recognise(&self, client: &Client) -> Result<(), Failure> {
        if self.identities.known().is_some() {
            return Ok(());
        }
        let path = self.paths.identity();
        match client.call(&GetData { path: &path, watch: false }).await {
            Ok((data, _)) => {
                self.identities.learn(String::from_utf8_lossy(&data.unwrap_or_default()).into());
                Ok(())
            }
            Err(failure) if failure.is(ErrorCode::NO_NODE) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests;
