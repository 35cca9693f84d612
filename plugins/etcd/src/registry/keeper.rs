//! Instances that this incarnation keeps registered.

use super::states::Stored;
use crate::client::{Answer, Lane, TXN};
use crate::etcd::Etcd;
use crate::lease::Granted;
use crate::lock::unix_ms;
use crate::wire::messages::{
    Compare, CompareResult, DeleteRangeRequest, PutRequest, Request, TxnRequest,
};
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, pending, ready, select};
use futures::lock::Mutex;
use futures::stream::StreamExt;
use pintle_plugin_sdk::registry::{
    Instance, InstanceState, RegisterRequest, Registered, RegistrationReporter,
};
use pintle_plugin_sdk::session::{Again, LeaseClock, Renewal, keep_registered};
use pintle_plugin_sdk::{Context, Effect, Error, StopOnDrop, Validity, spawn};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long one attempt to register again may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// How often a registration is written whose answer was lost, or whose name changes hands meanwhile.
const ATTEMPTS_MAX: usize = 6;
/// When an update that comes too early may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Leases of registrations that live: what they keep is not an orphan of ours.
#[derive(Default)]
pub(crate) struct Registrations {
    leases: RefCell<HashSet<i64>>,
}

/// A registration, as the SDK keeps it.
pub struct Registration {
    kept: Rc<Kept>,
}

struct Kept {
    service: String,
    id: String,
    key: Vec<u8>,
    ttl: Duration,
    registered_ms: Cell<u64>,
    instance: RefCell<Instance>,
    /// The lease that keeps it now.
    lease: Cell<i64>,
    /// It has been asked to go, and must not be registered again.
    given_up: Cell<bool>,
    /// Held while it is being registered.
    registering: Mutex<()>,
    /// From the watch to the keeper.
    gone: RefCell<mpsc::Sender<Gone>>,
    watch: RefCell<Option<StopOnDrop>>,
}

/// A key is gone that a lease kept.
struct Gone {
    lease: i64,
    reason: String,
}

/// How an attempt to register went.
enum Attempt {
    Registered { lease: i64, create_revision: i64, validity: Validity },
    Taken(Box<InstanceState>),
}

impl Etcd {
    pub(super) async fn register_instance(
        self: Rc<Self>,
        cx: &Context,
        request: RegisterRequest,
        reporter: RegistrationReporter,
    ) -> Result<Registered<Registration>, Error> {
        let RegisterRequest { instance, ttl_ms } = request;
        let (gone, gone_reasons) = mpsc::channel(1);
        let kept = Rc::new(Kept {
            service: instance.service.clone(),
            id: instance.id.clone(),
            key: self.layout.instance(&instance.service, &instance.id),
            ttl: Duration::from_millis(ttl_ms.into()),
            registered_ms: Cell::new(unix_ms()),
            instance: RefCell::new(instance),
            lease: Cell::new(0),
            given_up: Cell::new(false),
            registering: Mutex::new(()),
            gone: RefCell::new(gone),
            watch: RefCell::default(),
        });
        match self.attempt(cx, &kept).await? {
            Attempt::Taken(state) => Ok(Registered::Taken(*state)),
            Attempt::Registered { lease, create_revision, validity } => {
                self.stands(&kept, lease, create_revision);
                let keeping = Rc::clone(&kept);
                spawn(self.keep_instance(keeping, validity, gone_reasons, reporter)).detach();
                Ok(Registered::Registered { registration: Registration { kept }, validity })
            }
        }
    }

    /// Keeps an instance registered until nobody wants it any more.
    async fn keep_instance(
        self: Rc<Self>,
        kept: Rc<Kept>,
        validity: Validity,
        mut gone: mpsc::Receiver<Gone>,
        reporter: RegistrationReporter,
    ) {
        let known_gone: RefCell<Option<Gone>> = RefCell::new(None);
        let renew = async || {
            if kept.given_up.get() {
                return pending().await;
            }
            // What was said of an earlier lease is over.
            let gone = known_gone.take().filter(|gone| gone.lease == kept.lease.get());
            if let Some(Gone { reason, .. }) = gone {
                return Ok(Renewal::Gone(reason));
            }
            self.leases.renew(kept.lease.get(), kept.ttl).await
        };
        let doubt = async || {
            let ours = gone.by_ref().filter(|gone| ready(gone.lease == kept.lease.get()));
            match select(pin!(self.leases.doubt()), pin!(ours).next()).await {
                Either::Right((Some(gone), _)) => {
                    let reason = gone.reason.clone();
                    known_gone.replace(Some(gone));
                    reason
                }
                Either::Left((reason, _)) => reason,
                Either::Right((None, doubt)) => doubt.await,
            }
        };
        let register = async || {
            let (told, outcome) = oneshot::channel();
            let (this, kept) = (Rc::clone(&self), Rc::clone(&kept));
            // On its own: dropped midway it would leave an instance that nobody knows.
            spawn(async move {
                if let Some(again) = this.register_again(&kept).await {
                    // Nobody wants to know any more, perhaps; then it is being deregistered.
                    let _ = told.send(again);
                }
            })
            .detach();
            match outcome.await {
                Ok(again) => again,
                // It was given up.
                Err(_) => pending().await,
            }
        };
        let clock = LeaseClock::new(validity);
        keep_registered(reporter, clock, renew, doubt, register).await;
        self.registrations.leases.borrow_mut().remove(&kept.lease.get());
        kept.watch.take();
    }

    /// Registers once more, unless it has been given up.
    async fn register_again(self: &Rc<Self>, kept: &Rc<Kept>) -> Option<Result<Again, Error>> {
        let registering = kept.registering.lock().await;
        if kept.given_up.get() {
            return None;
        }
        let cx = Context::background("registering again", ATTEMPT_LIMIT);
        let again = match self.attempt(&cx, kept).await {
            Ok(Attempt::Taken(state)) => Ok(Again::Taken(*state)),
            Ok(Attempt::Registered { lease, create_revision, validity }) => {
                self.stands(kept, lease, create_revision);
                Ok(Again::Registered(validity))
            }
            Err(error) => Err(error),
        };
        drop(registering);
        Some(again)
    }

    /// It is registered with this lease: watches its key.
    fn stands(self: &Rc<Self>, kept: &Rc<Kept>, lease: i64, create_revision: i64) {
        let before = kept.lease.replace(lease);
        self.registrations.leases.borrow_mut().remove(&before);
        let (this, key, told) = (Rc::clone(self), kept.key.clone(), Rc::downgrade(kept));
        let watch = spawn(async move {
            let reason = this.until_key_is_gone(key, create_revision).await;
            if let Some(kept) = told.upgrade() {
                // Full: the keeper has been told already.
                let _ = kept.gone.borrow_mut().try_send(Gone { lease, reason });
            }
        });
        kept.watch.replace(Some(watch.stop_on_drop()));
    }

    /// Registers once. An error leaves nothing behind, as far as its effect says.
    async fn attempt(&self, cx: &Context, kept: &Kept) -> Result<Attempt, Error> {
        let registering = async |granted: Granted| {
            // Before the key is there: whoever finds it must know that it is kept.
            self.registrations.leases.borrow_mut().insert(granted.id);
            let adopts = Cell::new(false);
            let mut outcome = self.write_instance(cx, kept, &granted, &adopts).await;
            if let (Ok(Attempt::Registered { .. }), true, Some(end)) =
                (&outcome, adopts.get(), cx.ended())
            {
                // So late it would be taken back.
                outcome = Err(cx.error(end).effect_unknown());
            }
            if !matches!(outcome, Ok(Attempt::Registered { .. })) {
                self.registrations.leases.borrow_mut().remove(&granted.id);
            }
            match outcome {
                Ok(Attempt::Taken(state)) => {
                    self.leases.revoke_later(granted.id, kept.ttl);
                    Ok(Ok(Attempt::Taken(state)))
                }
                // It may hang on this lease by now: without it the instance would be away until the
                // host asks again, which finds it as it is. The lease ends by itself if nobody does.
                Err(error) if adopts.get() && error.effect() == Effect::Unknown => Ok(Err(error)),
                outcome => outcome.map(Ok),
            }
        };
        self.leases.with_lease(cx, kept.ttl, registering).await?
    }

    /// `adopts` tells whether it takes over what a predecessor left.
    async fn write_instance(
        &self,
        cx: &Context,
        kept: &Kept,
        granted: &Granted,
        adopts: &Cell<bool>,
    ) -> Result<Attempt, Error> {
        let free = || Compare::created(kept.key.clone(), CompareResult::Equal, 0);
        let mut condition = free();
        // A lease of ours whose key is being taken over.
        let mut replaced = None;
        for _ in 0..ATTEMPTS_MAX {
            let request = self.instance_request(kept, granted.id, condition.clone())?;
            let answer = match self.client.call_in_time(cx, Lane::Lease, TXN, request).await {
                // It is written again under the same condition: what is found then tells.
                Err(error) if error.effect() == Effect::Unknown && cx.ended().is_none() => {
                    tracing::debug!(%error, "looking whether an instance was registered");
                    continue;
                }
                answer => answer?,
            };
            let (succeeded, revision) = (answer.succeeded, answer.revision());
            let found = if succeeded { None } else { self.found(answer)? };
            let registered = |create_revision| Attempt::Registered {
                lease: granted.id,
                create_revision,
                validity: granted.validity,
            };
            match found {
                None if succeeded => {
                    if let Some(Stored { lease, .. }) = replaced {
                        self.leases.revoke_later(lease, kept.ttl);
                    }
                    let created = replaced.map_or(revision, |before| before.create_revision);
                    return Ok(registered(created));
                }
                None => condition = free(),
                Some(found) if found.lease == granted.id => {
                    return Ok(registered(found.create_revision));
                }
                Some(found) if self.is_ours_to_replace(kept, &found) => {
                    let at = found.mod_revision;
                    condition = Compare::modified(kept.key.clone(), CompareResult::Equal, at);
                    adopts.set(found.lease != kept.lease.get());
                    // It has been registered since then, whoever kept it.
                    let since = found.registered_ms().unwrap_or(kept.registered_ms.get());
                    kept.registered_ms.set(since);
                    replaced = Some(found);
                }
                Some(found) => {
                    let operator = self.operator_of(cx, &kept.key).await?;
                    return Ok(Attempt::Taken(Box::new(found.state(operator))));
                }
            }
        }
        let message =
            format!("instance `{}` of `{}` changes hands all the time", kept.id, kept.service);
        Err(Error::unavailable(message))
    }

    /// Whether an instance is an orphan of ours: of a predecessor, of this registration before it
    /// was lost, or of one whose answer was lost and that was given up. Never another owner's.
    fn is_ours_to_replace(&self, kept: &Kept, found: &Stored) -> bool {
        let (ids, lease) = (self.leases.ids(), found.lease);
        let lives = self.registrations.leases.borrow().contains(&lease);
        let orphan = ids.is_inherited(lease) || (ids.is_own(lease) && !lives);
        found.is_ephemeral() && (lease == kept.lease.get() || orphan)
    }

    fn instance_request(
        &self,
        kept: &Kept,
        lease: i64,
        condition: Compare,
    ) -> Result<TxnRequest, Error> {
        let record = self.record(kept.instance.borrow().clone(), kept.registered_ms.get());
        let (key, value) = (kept.key.clone(), record.encode()?.into());
        let put = PutRequest { key, value, lease, prev_kv: false };
        Ok(TxnRequest {
            compare: vec![condition],
            success: vec![Request::Put(put).into()],
            failure: self.look(&kept.key),
        })
    }

    pub(super) async fn update_instance(
        &self,
        cx: &Context,
        registration: &Registration,
        instance: Instance,
    ) -> Result<(), Error> {
        let kept = &registration.kept;
        // An attempt under way writes what was said before.
        let registering = kept.registering.lock().await;
        let lease = kept.lease.get();
        let before = kept.instance.replace(instance);
        let ours = Compare::attached(kept.key.clone(), lease);
        let request = self.instance_request(kept, lease, ours)?;
        let outcome = self.client.call(cx, Lane::Data, TXN, request).await;
        if matches!(&outcome, Err(error) if error.effect() == Effect::None) {
            kept.instance.replace(before);
        }
        drop(registering);
        if outcome?.succeeded {
            return Ok(());
        }
        let message = "the instance is not registered at the moment; it will be again soon, as it \
                       is said now";
        Err(Error::unavailable(message).effect_unknown().retry_after(RETRY_AFTER))
    }

    pub(super) async fn deregister_instance(
        &self,
        cx: &Context,
        registration: &Registration,
    ) -> Result<(), Error> {
        let kept = &registration.kept;
        kept.given_up.set(true);
        // An attempt under way ends first, so that it cannot come after the deletion.
        let registering = kept.registering.lock().await;
        let lease = kept.lease.get();
        // Whatever comes of it: what this lease keeps is not to be spared any more.
        self.registrations.leases.borrow_mut().remove(&lease);
        let (key, delete) = (kept.key.clone(), kept.key.clone());
        let delete = DeleteRangeRequest { key: delete, ..Default::default() };
        let request = TxnRequest {
            compare: vec![Compare::attached(key, lease)],
            success: vec![Request::DeleteRange(delete).into()],
            failure: Vec::new(),
        };
        self.client.call(cx, Lane::Lease, TXN, request).await?;
        if let Err(error) = self.leases.revoke(cx, lease).await {
            tracing::debug!(%error, "the lease of an instance that went is revoked later");
            self.leases.revoke_later(lease, kept.ttl);
        }
        drop(registering);
        Ok(())
    }
}
