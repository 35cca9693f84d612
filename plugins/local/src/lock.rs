//! `pintle:lock` on the store.

use crate::engine::Engine;
use crate::local::{Local, validity};
use crate::store::{self, Effects, Grant};
use futures::channel::oneshot;
use futures::future::{Either, select};
use pintle_plugin_sdk::lock::{
    AcquireRequest, Acquired, Claim, LeaseReporter, Lock, LockState, LocksPage, Mode, Token,
    WatchSink,
};
use pintle_plugin_sdk::time::{sleep, timeout};
use pintle_plugin_sdk::{Context, Error, spawn};
use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// A lease, as the SDK keeps it.
#[derive(Debug)]
pub struct Lease {
    /// Its number in the store.
    pub(crate) number: u64,
}

/// Those who hold or wait for locks through this incarnation, to be told what the store decides.
#[derive(Default)]
pub(crate) struct Claims {
    holders: RefCell<HashMap<u64, LeaseReporter>>,
    waiters: RefCell<HashMap<u64, oneshot::Sender<Result<Grant, String>>>>,
}

impl Claims {
    /// Tells waiters of their grants, and holders and waiters of their end.
    pub(crate) fn tell(&self, effects: &Effects) {
        for grant in &effects.granted {
            if let Some(waiter) = self.waiters.borrow_mut().remove(&grant.lease) {
                // One who has stopped waiting takes the claim back itself.
                let _ = waiter.send(Ok(grant.clone()));
            }
        }
        for (lease, reason) in &effects.ended {
            if let Some(waiter) = self.waiters.borrow_mut().remove(lease) {
                let _ = waiter.send(Err(reason.clone()));
            }
            let holder = self.holders.borrow_mut().remove(lease);
            if let Some(holder) = holder {
                holder.lost(reason);
            }
        }
    }

    fn forget(&self, lease: u64) {
        self.holders.borrow_mut().remove(&lease);
        self.waiters.borrow_mut().remove(&lease);
    }
}

impl Lock for Local {
    type Lease = Lease;

    async fn acquire(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<Lease>, Error> {
        let wait = Duration::from_millis(request.wait_ms.into());
        let (sender, granted) = oneshot::channel();
        let outcome = self.claim(request.clone(), reporter, sender).await?;
        let grant = match outcome {
            store::Acquired::Held(grant) => grant,
            store::Acquired::Busy(holders) => return Ok(Acquired::Busy(self.claims_of(holders))),
            store::Acquired::Queued(lease) => {
                let waiting = pin!(timeout(wait, granted));
                match select(waiting, pin!(cx.cancelled())).await {
                    Either::Left((Ok(Ok(Ok(grant))), _)) => grant,
                    Either::Left((Ok(Ok(Err(reason))), _)) => {
                        let message =
                            format!("the wait for lock `{}` ended: {reason}", request.name);
                        return Err(Error::conflict(message));
                    }
                    Either::Left(_) => {
                        self.withdraw(lease).await?;
                        let name = request.name.clone();
                        let state = self.engine.read(|store| store.lock(&name))?;
                        return Ok(Acquired::Busy(self.claims_of(state.holders)));
                    }
                    Either::Right((end, _)) => {
                        self.withdraw(lease).await?;
                        return Err(cx.error(end));
                    }
                }
            }
        };
        self.confirm(grant).await
    }

    async fn release(&self, _: &Context, lease: Rc<Lease>) -> Result<bool, Error> {
        self.withdraw(lease.number).await
    }

    async fn inspect(&self, _: &Context, name: String) -> Result<LockState, Error> {
        let state = self.engine.read(|store| store.lock(&name))?;
        Ok(self.state_of(name, state))
    }

    async fn list_locks(
        &self,
        _: &Context,
        prefix: String,
        page: Option<String>,
        limit: u32,
    ) -> Result<LocksPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (names, more) =
            self.engine.read(|store| store.locks(&prefix, page.as_deref(), limit))?;
        let next = names.last().filter(|_| more).cloned();
        Ok(LocksPage { names, next })
    }

    async fn force_release(
        &self,
        _: &Context,
        name: String,
        claim_id: String,
    ) -> Result<bool, Error> {
        let lease = claim_id.parse().map_err(|_| {
            Error::invalid(format!("`{claim_id}` is no claim id: take one from the lock's state"))
        })?;
        self.engine.change(0, move |turn| turn.force_release(&name, lease)).await
    }

    async fn watch(self: Rc<Self>, name: String, sink: WatchSink) -> Result<(), Error> {
        let mut told = None;
        while !sink.is_closed() {
            // A store that is closed for a while is no reason to end a watch.
            if let Ok(state) = self.look(&name)?
                && told.as_ref() != Some(&state)
            {
                sink.state(self.state_of(name.clone(), state.clone()));
                told = Some(state);
            }
            select(pin!(self.engine.turned()), pin!(sink.closed())).await;
        }
        Ok(())
    }
}

impl Local {
    /// Asks the store for a lock, and makes the one who asks known in the same turn: what the next
    /// turn decides about the claim must find somebody to tell.
    async fn claim(
        &self,
        request: AcquireRequest,
        reporter: LeaseReporter,
        waiter: oneshot::Sender<Result<Grant, String>>,
    ) -> Result<store::Acquired, Error> {
        let claims = Rc::clone(&self.claims);
        let request = store::Acquire {
            name: request.name,
            mode: mode_from(request.mode),
            ttl_ms: request.ttl_ms,
            owner: request.owner,
            wait: request.wait_ms > 0,
        };
        let work = move |turn: &mut store::Turn<'_>| {
            let outcome = turn.acquire(&request)?;
            match &outcome {
                store::Acquired::Held(Grant { lease, .. }) => {
                    claims.holders.borrow_mut().insert(*lease, reporter);
                }
                store::Acquired::Queued(lease) => {
                    claims.holders.borrow_mut().insert(*lease, reporter);
                    claims.waiters.borrow_mut().insert(*lease, waiter);
                }
                store::Acquired::Busy(_) => {}
            }
            Ok(outcome)
        };
        self.engine.change(0, work).await
    }

    /// Looks at the claim once more before it is believed, and sees to its renewal.
    async fn confirm(&self, grant: Grant) -> Result<Acquired<Lease>, Error> {
        let number = grant.lease;
        let reporter = self.claims.holders.borrow().get(&number).cloned();
        let valid = self.engine.with(|store| store.is_valid(number));
        let Some(reporter) = reporter.filter(|_| valid) else {
            self.withdraw(number).await?;
            return Err(Error::unavailable("the lock was granted, and lost again at once"));
        };
        let ttl = Duration::from_millis(grant.validity.valid_for_ms.into());
        spawn(renew(self.engine.clone(), Rc::clone(&self.claims), number, ttl, reporter)).detach();
        Ok(Acquired::Held {
            lease: Lease { number },
            validity: validity(grant.validity),
            token: grant.token.map(|value| self.token(value)),
        })
    }

    /// Ends a claim, held or waiting; answers whether it was held.
    async fn withdraw(&self, lease: u64) -> Result<bool, Error> {
        let held = self.engine.change(0, move |turn| turn.release(lease)).await?;
        self.claims.forget(lease);
        Ok(held)
    }

    /// The lock's state; `Err` inside while the store is closed.
    fn look(&self, name: &str) -> Result<Result<store::LockState, Error>, Error> {
        match self.engine.read(|store| store.lock(name)) {
            Err(error) if error.code() == "invalid" || error.code() == "too-large" => Err(error),
            state => Ok(state),
        }
    }

    fn token(&self, value: u64) -> Token {
        Token { epoch: self.epoch.clone(), value }
    }

    fn state_of(&self, name: String, state: store::LockState) -> LockState {
        let (holders, waiters) = (self.claims_of(state.holders), self.claims_of(state.waiters));
        LockState { name, holders, waiters }
    }

    fn claims_of(&self, claims: Vec<store::Claim>) -> Vec<Claim> {
        let claim = |claim: store::Claim| Claim {
            owner: claim.owner,
            mode: match claim.mode {
                store::Mode::Exclusive => Mode::Exclusive,
                store::Mode::Shared => Mode::Shared,
                store::Mode::Permit(count) => Mode::Permit(count),
            },
            token: claim.token.map(|value| self.token(value)),
            claim_id: claim.lease.to_string(),
            since_ms: Some(claim.since_ms),
        };
        claims.into_iter().map(claim).collect()
    }
}

/// Renews a lease at a third of its time until it is over. The store is this process: a renewal
/// fails only when the time has run out already.
async fn renew(
    engine: Engine,
    claims: Rc<Claims>,
    lease: u64,
    ttl: Duration,
    reporter: LeaseReporter,
) {
    loop {
        if let Either::Left(_) = select(pin!(reporter.over()), sleep(ttl / 3)).await {
            return;
        }
        match engine.with(|store| store.renew(lease)) {
            Some(renewed) => reporter.renewed(validity(renewed)),
            None => {
                claims.forget(lease);
                reporter.lost("its time to live ran out before it could be renewed");
                return;
            }
        }
    }
}

fn mode_from(mode: Mode) -> store::Mode {
    match mode {
        Mode::Exclusive => store::Mode::Exclusive,
        Mode::Shared => store::Mode::Shared,
        Mode::Permit(count) => store::Mode::Permit(count),
    }
}
