//! `pintle:lock`.

use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;

use super::config::page_len;
use crate::{
    clock::BootTime,
    error::{Cause, Error, Refusal},
    lock::{Claim, LeaseRecord, LockRequest, LockState, LocksPage, Mode, Token},
    plugin::{
        actor::{CallFailure, Operation},
        backend::{Backend, Call},
        bindings::lock as wit,
        convert::{bounds, lock as from, millis},
        loader::Exports,
        routes::{LockWatchRoute, waiting_max},
    },
};

const ACQUIRE: Operation = Operation::mutation("lock.acquire");
const RELEASE: Operation = Operation::mutation("lock.release");
const INSPECT: Operation = Operation::read("lock.inspect");
const LIST: Operation = Operation::read("lock.list-locks");
const FORCE_RELEASE: Operation = Operation::mutation("lock.force-release");
const WATCH: Operation = Operation::read("lock.watch").patient();

fn exports(exports: &Exports) -> wasmtime::Result<&wit::Guest> {
    exports.lock.as_ref().ok_or_else(|| wasmtime::format_err!("lock is not exported"))
}

/// What an acquire came to.
pub(crate) enum Acquired {
    Held(Option<Token>),
    Busy(Vec<Claim>),
}

impl Backend {
    /// Acquires under the number of `record`, which is in the table of leases already: an event may
    /// come before the answer.
    pub(crate) async fn lock_acquire(
        &self,
        timeout: Option<Duration>,
        record: &LeaseRecord,
        request: LockRequest,
    ) -> Result<Acquired, Error> {
        let timeout = timeout.unwrap_or(self.limits.call_timeout) + request.wait;
        let serving = self.serving(ACQUIRE, timeout).await?;
        let begun = Instant::now();
        let _place = self.place_to_wait(request.wait).inspect_err(|error| {
            self.shared.call_metrics.not_made(&self.name, ACQUIRE, error, begun);
        })?;
        let call = Call::new(ACQUIRE, Some(timeout))
            .on(&serving)
            .needs_if(request.mode == Mode::Shared, "lock.shared")
            .needs_if(matches!(request.mode, Mode::Permit(_)), "lock.permits");
        let id = record.id;
        record.ask_of(serving.number);
        let request = wit::AcquireRequest {
            name: request.name,
            mode: from::to_mode(request.mode),
            ttl_ms: millis(request.ttl),
            wait_ms: millis(request.wait),
            owner: request.owner,
        };
        // If our caller goes away just as the plugin answers, nobody would ever release the lease.
        let abandoned = CloseLease { backend: self, id, armed: true };
        let outcome = self.call(call, move |accessor, guest, context| {
            Box::pin(
                async move { exports(guest)?.call_acquire(accessor, context, id, request).await },
            )
        });
        let outcome = outcome.await;
        abandoned.disarm();
        match outcome? {
            wit::AcquireOutcome::Held(lease) => {
                bounds::token(lease.token.as_ref())
                    .map_err(|problem| self.reject(ACQUIRE, &serving, &problem))?;
                let valid_for = Duration::from_millis(u64::from(lease.validity.valid_for_ms));
                record.grant(BootTime::from_nanos(lease.validity.sent_at), valid_for);
                // Its leases are lost after an incarnation has ended: either this one was among
                // them, or the end is to be seen here.
                if let Some(reason) = serving.incarnation.end() {
                    let ended = CallFailure::Ended { reason, begun: true };
                    return Err(self.error(ACQUIRE, &serving, ended));
                }
                Ok(Acquired::Held(lease.token.map(from::token)))
            }
            wit::AcquireOutcome::Busy(holders) => Ok(Acquired::Busy(from::claims(holders))),
        }
    }

    /// A place for an acquire that waits. It keeps one for calls busy all the time: with all of them
    /// taken nobody else would get through.
    fn place_to_wait(&self, wait: Duration) -> Result<Option<SemaphorePermit<'_>>, Error> {
        if wait.is_zero() {
            return Ok(None);
        }
        let places = &self.routes.waiting_places;
        places.try_acquire().map(Some).map_err(|_| {
            let max = waiting_max(&self.limits);
            let what = format!(
                "{max} calls that wait for locks on this backend; wait for fewer at a time, or \
                 raise calls_running_max in its limits.more"
            );
            self.refuse(ACQUIRE, Refusal::Exhausted { what })
        })
    }

    pub(crate) async fn lock_release(&self, id: u64) -> Result<bool, Error> {
        self.release(Call::new(RELEASE, None), id).await
    }

    /// Releases what was held until now; false where the incarnation that granted it knows better.
    ///
    /// One that follows it does not know the lock, and has removed what it found of it: that it answers
    /// false says nothing about before.
    pub(crate) async fn lock_release_held(&self, record: &LeaseRecord) -> Result<bool, Error> {
        let granter = self.serving_now().filter(|serving| record.was_asked_of(serving.number));
        if let Some(granter) = granter {
            let call = Call::new(RELEASE, None).on(&granter);
            match self.release(call, record.id).await {
                Err(error) if matches!(error.cause(), Cause::Ended(_)) => {}
                answer => return answer,
            }
        }
        self.lock_release(record.id).await.map(|_| true)
    }

    async fn release(&self, call: Call, id: u64) -> Result<bool, Error> {
        let released = self.call(call, move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_release(accessor, context, id).await })
        });
        let released = released.await;
        if released.is_err() {
            // A plugin renews what it was not able to release, until it is told to let go of it.
            self.lock_close(id);
        }
        released
    }

    pub(crate) async fn lock_inspect(
        &self,
        timeout: Option<Duration>,
        name: String,
    ) -> Result<LockState, Error> {
        let state = self.call(Call::new(INSPECT, timeout), move |accessor, guest, context| {
            Box::pin(async move { exports(guest)?.call_inspect(accessor, context, name).await })
        });
        Ok(from::state(state.await?))
    }

    pub(crate) async fn lock_list(
        &self,
        timeout: Option<Duration>,
        prefix: String,
        page: Option<String>,
        limit: u32,
    ) -> Result<LocksPage, Error> {
        let limit = page_len(limit);
        let page = self.call(Call::new(LIST, timeout), move |accessor, guest, context| {
            Box::pin(async move {
                exports(guest)?.call_list_locks(accessor, context, prefix, page, limit).await
            })
        });
        let wit::LocksPage { names, next } = page.await?;
        Ok(LocksPage { names, next })
    }

    pub(crate) async fn lock_force_release(
        &self,
        timeout: Option<Duration>,
        name: String,
        claim_id: String,
    ) -> Result<bool, Error> {
        let call = Call::new(FORCE_RELEASE, timeout).needs_if(true, "lock.force-release");
        let released = self.call(call, move |accessor, guest, context| {
            Box::pin(async move {
                exports(guest)?.call_force_release(accessor, context, name, claim_id).await
            })
        });
        released.await
    }

    /// Opens watch `id` on one lock; its events come over the pump.
    pub(crate) async fn lock_watch(&self, id: u64, route: &LockWatchRoute) -> Result<(), Error> {
        let opened = route.made.ensure(self, WATCH, async |serving| {
            let call = Call::new(WATCH, None).on(&serving);
            let name = route.name.clone();
            self.call(call.needs_if(true, "lock.watch"), move |accessor, guest, context| {
                Box::pin(
                    async move { exports(guest)?.call_watch(accessor, context, id, name).await },
                )
            })
            .await
        });
        opened.await.map(Option::unwrap_or_default)
    }

    /// Ends watch `id`, or lets go of lease `id` without waiting for the server.
    pub(crate) fn lock_close(&self, id: u64) {
        let Some(serving) = self.serving_now() else { return };
        let runtime = self.shared.engine.host_runtime();
        serving.incarnation.post_urgent(&runtime, move |accessor, guest| {
            Box::pin(async move { exports(guest)?.call_close(accessor, id).await })
        });
    }
}

/// Lets go of a lease when dropped, unless disarmed.
struct CloseLease<'a> {
    backend: &'a Backend,
    id: u64,
    armed: bool,
}

impl CloseLease<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for CloseLease<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.backend.routes.leases.remove(self.id);
            self.backend.lock_close(self.id);
        }
    }
}
