//! Asking for a lock: a lease, a claim, a wait.

use super::Lease;
use super::claims::{Queue, Standing, token};
use crate::client::{Answer, Client, Lane, RANGE, TXN};
use crate::error::is_passing;
use crate::etcd::Etcd;
use crate::lease::{Granted, Leases};
use crate::watches::{End, Notice, Target};
use crate::wire::layout::{Layout, Range, claim_id};
use crate::wire::messages::{
    Compare, CompareResult, PutRequest, RangeRequest, Request, Response, ResponseHeader, TxnRequest,
};
use futures::channel::oneshot;
use futures::future::{Either, FutureExt, Shared, pending, select};
use pintle_plugin_sdk::backoff::Backoff;
use pintle_plugin_sdk::config::Consistency;
use pintle_plugin_sdk::lock::{AcquireRequest, Acquired, LeaseReporter, Token};
use pintle_plugin_sdk::record::ClaimRecord;
use pintle_plugin_sdk::session::{LeaseClock, Renewal, keep_lease};
use pintle_plugin_sdk::time::{sleep, timeout};
use pintle_plugin_sdk::{Context, Effect, Error, Validity, spawn};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// How long one attempt to remove a predecessor's claims may take.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);
/// How often a try is repeated when others come and go in between.
const TRIES_MAX: usize = 16;
/// How often a claim is written whose answer was lost.
const CLAIM_ATTEMPTS_MAX: usize = 4;

/// What the locks of this incarnation share.
pub(crate) struct Locks {
    /// Resolves when the claims of predecessors are gone.
    swept: Shared<oneshot::Receiver<()>>,
}

impl Locks {
    /// Removes what predecessors held, in the background: their users were told that it is lost, and
    /// it would only be in the way.
    pub(crate) fn start(client: Rc<Client>, leases: Rc<Leases>, layout: Layout) -> Self {
        let (done, swept) = oneshot::channel();
        if leases.ids().has_inherited() {
            spawn(async move {
                let mut pauses = Backoff::default();
                while let Err(error) = sweep(&client, &leases, &layout).await {
                    tracing::warn!(%error, "the locks of a predecessor could not be removed");
                    if !is_passing(&error) {
                        break;
                    }
                    pauses.wait().await;
                }
                // Nobody waits yet, perhaps.
                let _ = done.send(());
            })
            .detach();
        } else {
            let _ = done.send(());
        }
        Self { swept: swept.shared() }
    }
}

/// Ends the leases of predecessors that keep claims.
async fn sweep(client: &Rc<Client>, leases: &Leases, layout: &Layout) -> Result<(), Error> {
    let cx = Context::background("removing the locks of a predecessor", SWEEP_LIMIT);
    let reader = crate::reader::Reader::new(Rc::clone(client));
    let mut rest = Some(layout.claims_below(""));
    while let Some(range) = rest.take() {
        let read = crate::reader::Read {
            range: range.clone(),
            revision: 0,
            consistency: Consistency::Linearizable,
            keys_only: true,
        };
        let part = reader.part(&cx, read, 1_000).await?;
        for kv in &part.kvs {
            if leases.ids().is_inherited(kv.lease) {
                leases.revoke(&cx, kv.lease).await?;
            }
        }
        if part.more {
            rest = part.kvs.last().and_then(|last| range.after(&last.key));
        }
    }
    Ok(())
}

/// A claim that was made.
struct Claimed {
    lease: Lease,
    token: Option<Token>,
    /// The latest grant of its lease.
    validity: Rc<Cell<Validity>>,
}

/// How a claim is made.
#[derive(Clone, Copy)]
enum Condition {
    /// At the end of the queue.
    Always,
    /// Only if nobody has come since this revision.
    NobodySince(i64),
}

impl Etcd {
    pub(super) async fn acquire_lock(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<Lease>, Error> {
        if let Either::Right((end, _)) =
            select(self.locks.swept.clone(), pin!(cx.cancelled())).await
        {
            return Err(cx.error(end));
        }
        if request.wait_ms > 0 {
            return self.wait_for_lock(cx, request, reporter).await;
        }
        for _ in 0..TRIES_MAX {
            let queue = self.queue_in_time(cx, &request.name).await?;
            if !queue.would_hold(request.mode) {
                let state = queue.state(&request.name, self.settings.epoch);
                return Ok(Acquired::Busy(state.holders));
            }
            let condition = Condition::NobodySince(queue.revision);
            if let Some(claimed) = self.claim(cx, &request, condition).await? {
                self.keep(&claimed, reporter);
                return Ok(claimed.held());
            }
        }
        let message =
            format!("others come and go at lock `{}` too quickly to try it", request.name);
        Err(Error::unavailable(message).retry_after(Duration::from_millis(100)))
    }

    async fn wait_for_lock(
        self: Rc<Self>,
        cx: &Context,
        request: AcquireRequest,
        reporter: LeaseReporter,
    ) -> Result<Acquired<Lease>, Error> {
        let Some(claimed) = self.claim(cx, &request, Condition::Always).await? else {
            return Err(Error::internal("a claim without a condition was refused"));
        };
        // From now on: a lease that is not renewed ends during a long wait.
        self.keep(&claimed, reporter.clone());
        match self.wait(cx, &request, &claimed.lease, &reporter).await {
            Ok(true) => Ok(claimed.held()),
            Ok(false) => self.give_up_waiting(cx, &request, &claimed.lease).await,
            Err(error) => {
                let Lease { id, ttl, released, .. } = claimed.lease;
                released.set(true);
                Err(self.leases.give_back(id, ttl, error).await)
            }
        }
    }

    /// Waits as long as the request says. Answers whether the claim holds.
    async fn wait(
        self: &Rc<Self>,
        cx: &Context,
        request: &AcquireRequest,
        lease: &Lease,
        reporter: &LeaseReporter,
    ) -> Result<bool, Error> {
        let turn = self.turn(cx, &request.name, lease);
        let waited = pin!(timeout(Duration::from_millis(request.wait_ms.into()), turn));
        let interrupted = pin!(async {
            match select(pin!(cx.cancelled()), pin!(reporter.over())).await {
                Either::Left((end, _)) => cx.error(end),
                Either::Right(_) => lost_while_waiting(&request.name),
            }
        });
        match select(waited, interrupted).await {
            Either::Left((Ok(Ok(())), _)) => Ok(true),
            Either::Left((Err(_), _)) => Ok(false),
            Either::Left((Ok(Err(error)), _)) | Either::Right((error, _)) => Err(error),
        }
    }

    /// The wait is over: takes the claim back, and says who holds the lock.
    async fn give_up_waiting(
        self: &Rc<Self>,
        cx: &Context,
        request: &AcquireRequest,
        lease: &Lease,
    ) -> Result<Acquired<Lease>, Error> {
        lease.released.set(true);
        if let Err(error) = self.leases.revoke(cx, lease.id).await {
            self.leases.revoke_later(lease.id, lease.ttl);
            return Err(error.effect_unknown());
        }
        let queue = self.queue_in_time(cx, &request.name).await?;
        Ok(Acquired::Busy(queue.state(&request.name, self.settings.epoch).holders))
    }

    async fn queue_in_time(&self, cx: &Context, name: &str) -> Result<Queue, Error> {
        let read = Queue::read(&self.layout, name);
        let answer = self.client.call_in_time(cx, Lane::Lease, RANGE, read).await?;
        Ok(Queue::new(&self.layout, answer.kvs, answer.header.unwrap_or_default()))
    }

    /// Makes a claim. None when the condition does not hold.
    async fn claim(
        self: &Rc<Self>,
        cx: &Context,
        request: &AcquireRequest,
        condition: Condition,
    ) -> Result<Option<Claimed>, Error> {
        let ttl = Duration::from_millis(request.ttl_ms.into());
        let claiming = async |granted: Granted| {
            let key = self.layout.claim(&request.name, &claim_id(granted.id));
            let written = self.write_claim(cx, request, condition, &granted, &key).await?;
            let Some((header, create_revision)) = written else {
                self.leases.revoke_later(granted.id, ttl);
                return Ok(None);
            };
            let generation = self.settings.epoch;
            Ok(Some(Claimed {
                lease: Lease { id: granted.id, key, create_revision, ttl, released: Rc::default() },
                token: token(request.mode, header.cluster_id, generation, create_revision),
                validity: Rc::new(Cell::new(granted.validity)),
            }))
        };
        self.leases.with_lease(cx, ttl, claiming).await
    }

    /// Writes the claim's key, and answers the revision at which it came into being. The key is ours
    /// alone, so that a lost answer is found out by looking at it.
    async fn write_claim(
        &self,
        cx: &Context,
        request: &AcquireRequest,
        condition: Condition,
        granted: &Granted,
        key: &[u8],
    ) -> Result<Option<(ResponseHeader, i64)>, Error> {
        let txn = self.claim_request(request, condition, granted.id, key)?;
        let mut outcome = Err(Error::unavailable("the claim was not written"));
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            outcome = self.client.call_in_time(cx, Lane::Lease, TXN, txn.clone()).await;
            match &outcome {
                Err(error) if error.effect() == Effect::Unknown && cx.ended().is_none() => {
                    tracing::debug!(%error, "looking whether a claim was written");
                }
                _ => break,
            }
        }
        let answer = outcome?;
        let (header, succeeded) = (answer.header.clone().unwrap_or_default(), answer.succeeded);
        if succeeded {
            return Ok(Some((header, answer.revision())));
        }
        // It was there already: an earlier attempt came through.
        let found = answer.responses.into_iter().find_map(|op| match op.response {
            Some(Response::Range(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        Ok(found.map(|kv| (header, kv.create_revision)))
    }

    fn claim_request(
        &self,
        request: &AcquireRequest,
        condition: Condition,
        lease: i64,
        key: &[u8],
    ) -> Result<TxnRequest, Error> {
        let record = ClaimRecord {
            mode: request.mode,
            owner: request.owner.clone(),
            since_ms: Some(unix_ms()),
        };
        let put =
            PutRequest { key: key.to_vec(), value: record.encode()?.into(), lease, prev_kv: false };
        let mut compare = vec![Compare::created(key.to_vec(), CompareResult::Equal, 0)];
        if let Condition::NobodySince(revision) = condition {
            let range = self.layout.claims(&request.name);
            let none_later = Compare::created(range.start, CompareResult::Less, revision + 1);
            compare.push(none_later.of_all_until(range.end));
        }
        let own = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
        Ok(TxnRequest {
            compare,
            success: vec![Request::Put(put).into()],
            failure: vec![Request::Range(own).into()],
        })
    }

    /// Waits until the claim holds. Each time before it is believed the queue is read again, with our
    /// own claim in it, which shows that its lease lives.
    async fn turn(self: &Rc<Self>, cx: &Context, name: &str, lease: &Lease) -> Result<(), Error> {
        let mut pauses = Backoff::default();
        loop {
            let queue = match self.queue_in_time(cx, name).await {
                Ok(queue) => queue,
                // The claim keeps its place as long as its lease lives, which is renewed elsewhere.
                Err(error) if is_passing(&error) && cx.ended().is_none() => {
                    tracing::debug!(%error, "the queue of a lock is read again");
                    pauses.wait().await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match queue.standing(&lease.key, lease.create_revision) {
                Standing::Holds => return Ok(()),
                Standing::Gone => return Err(lost_while_waiting(name)),
                Standing::WaitsFor(blocker) => {
                    let range = blocker.map_or_else(|| self.layout.claims(name), Range::of_key);
                    match self.until_deletion(range, queue.revision + 1).await {
                        Err(error) if !is_passing(&error) => return Err(error),
                        Err(_) => pauses.wait().await,
                        Ok(()) => {}
                    }
                }
            }
        }
    }

    /// Waits until something in the range is deleted, or may have been.
    async fn until_deletion(&self, range: Range, start_revision: i64) -> Result<(), Error> {
        let (deleted, told) = oneshot::channel();
        let deleted = RefCell::new(Some(deleted));
        let target = Target { range, start_revision, prev_kv: false };
        let mut subscription = self.watches.open(target, move |notice| {
            let Notice::Events(events) = notice else { return };
            if events.iter().any(crate::wire::messages::Event::is_deletion)
                && let Some(deleted) = deleted.take()
            {
                // Who has stopped waiting need not know.
                let _ = deleted.send(());
            }
        });
        let end = match select(told, pin!(subscription.ended())).await {
            Either::Left((Ok(()), _)) => return Ok(()),
            // The watch has ended, and with it who would have told.
            Either::Left((Err(_), ended)) => ended.await,
            Either::Right((end, _)) => end,
        };
        match end {
            End::Refused(error) => Err(error),
            End::Compacted(_) | End::WentBack(_) => Ok(()),
        }
    }

    /// Keeps the lease in the background until it is lost, released or closed, and watches the claim.
    fn keep(self: &Rc<Self>, claimed: &Claimed, reporter: LeaseReporter) {
        let (this, validity) = (Rc::clone(self), Rc::clone(&claimed.validity));
        let Lease { id, ref key, create_revision, ttl, ref released } = claimed.lease;
        let (key, released) = (key.clone(), Rc::clone(released));
        spawn(async move {
            let clock = LeaseClock::new(validity.get());
            let renew = async || {
                let renewal = this.leases.renew(id, ttl).await;
                match &renewal {
                    Ok(Renewal::Renewed(renewed)) => validity.set(*renewed),
                    // We ended it ourselves: that is no loss.
                    Ok(Renewal::Gone(_)) if released.get() => pending().await,
                    _ => {}
                }
                renewal
            };
            let doubt = async || this.leases.doubt().await;
            let kept = pin!(keep_lease(reporter.clone(), clock, renew, doubt));
            let gone = pin!(async {
                let reason = this.until_key_is_gone(key, create_revision).await;
                if released.get() { pending().await } else { reason }
            });
            if let Either::Right((reason, _)) = select(kept, gone).await {
                reporter.lost(&reason);
            }
            if !released.get() {
                // It was lost, perhaps by our clock alone: nobody is to wait for a lease that
                // nobody has.
                this.leases.revoke_later(id, ttl);
            }
        })
        .detach();
    }

    /// Waits until the key that came into being at this revision is deleted, and answers how.
    pub(crate) async fn until_key_is_gone(&self, key: Vec<u8>, create_revision: i64) -> String {
        let mut start_revision = create_revision + 1;
        let mut pauses = Backoff::default();
        loop {
            let watched = self.until_deletion(Range::of_key(key.clone()), start_revision).await;
            if let Err(error) = watched {
                // The lease's own clock decides meanwhile.
                tracing::warn!(%error, "a key that a lease keeps cannot be watched");
                pauses.wait().await;
            }
            let cx = Context::background("looking at a claim", SWEEP_LIMIT);
            let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
            match Box::pin(self.client.call(&cx, Lane::Lease, RANGE, read)).await {
                Ok(answer) => {
                    let kv = answer.kvs.first();
                    if kv.is_none_or(|kv| kv.create_revision != create_revision) {
                        return "its key was deleted on the server, or its lease ended".to_owned();
                    }
                    start_revision = answer.revision() + 1;
                }
                // The lease's own clock decides meanwhile.
                Err(error) => tracing::debug!(%error, "a key is looked at again"),
            }
            sleep(pauses.next_pause()).await;
        }
    }
}

impl Claimed {
    fn held(self) -> Acquired<Lease> {
        Acquired::Held { lease: self.lease, validity: self.validity.get(), token: self.token }
    }
}

fn lost_while_waiting(name: &str) -> Error {
    Error::conflict(format!("the claim on lock `{name}` was lost while it waited: ask again"))
}

/// Milliseconds of the Unix epoch, for people: nothing depends on it.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
