//! `pintle:registry` on the store.

use crate::engine::Engine;
use crate::error::is_passing;
use crate::local::{Local, validity};
use crate::store::{self, Adoption, Effects, RegistryEvent, RegistryWatch, WATCH_STEP_EVENTS};
use futures::channel::oneshot;
use futures::future::{Either, select};
use pintle_plugin_sdk::registry::{
    AddOutcome, Consistency, Instance, InstanceHealth, InstanceState, InstancesPage,
    OperatorOverride, RegisterRequest, Registered, RegistrationReporter, Registry, RemoveOutcome,
    ServiceSummary, ServicesPage, Snapshot, WatchSink,
};
use pintle_plugin_sdk::time::{Instant, sleep};
use pintle_plugin_sdk::{Context, Error, spawn};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Wait between attempts to register again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A quiet watch tells this often that nothing is missing.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// Wait after each full step of a watch.
const STEP_PAUSE: Duration = Duration::from_millis(1);

/// A registration, as the SDK keeps it.
#[derive(Debug)]
pub struct Registration {
    kept: Rc<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The lease that keeps the instance now.
    lease: Cell<u64>,
    /// What to register again if it is lost.
    request: RefCell<store::Register>,
    /// It has been asked to go: what is registered again from now on goes too.
    given_up: Cell<bool>,
}

/// Registrations of this incarnation, to be told when the store ends them.
#[derive(Default)]
pub(crate) struct Registrations {
    kept: RefCell<HashMap<u64, oneshot::Sender<String>>>,
}

impl Registrations {
    /// Tells registrations of their end.
    pub(crate) fn tell(&self, effects: &Effects) {
        for (lease, reason) in &effects.ended {
            if let Some(kept) = self.kept.borrow_mut().remove(lease) {
                // A registration that has just been given up need not know.
                let _ = kept.send(reason.clone());
            }
        }
    }
}

/// What the store made of a registration; and, if it is one, how its end will be told.
type Attempt = (store::Registered, oneshot::Receiver<String>);

impl Registry for Local {
    type Registration = Registration;

    async fn register(
        self: Rc<Self>,
        cx: &Context,
        request: RegisterRequest,
        reporter: RegistrationReporter,
    ) -> Result<Registered<Registration>, Error> {
        let RegisterRequest { instance, ttl_ms } = request;
        let owner = self.owner.clone();
        let request = store::Register { instance: instance_from(instance), ttl_ms, owner };
        // A write of this kind ends soon, well or not; only then is it known what to take back.
        let (outcome, ended) = attempt(&self.engine, &self.registrations, request.clone()).await?;
        let (lease, granted) = match outcome {
            store::Registered::Taken(state) => return Ok(Registered::Taken(state_to(*state))),
            store::Registered::Registered { lease, validity } => (lease, validity),
        };
        if let Some(end) = cx.ended() {
            self.engine.change(0, move |turn| turn.deregister(lease)).await?;
            return Err(cx.error(end));
        }
        let kept = Rc::new(Kept {
            lease: Cell::new(lease),
            request: RefCell::new(request),
            given_up: Cell::new(false),
        });
        let keeper = Keeper {
            engine: self.engine.clone(),
            registrations: Rc::clone(&self.registrations),
            kept: Rc::clone(&kept),
            reporter,
        };
        spawn(keeper.run(ended)).detach();
        Ok(Registered::Registered {
            registration: Registration { kept },
            validity: validity(granted),
        })
    }

    async fn update(
        &self,
        _: &Context,
        registration: Rc<Registration>,
        instance: Instance,
    ) -> Result<(), Error> {
        let instance = instance_from(instance);
        let (lease, updated) = (registration.kept.lease.get(), instance.clone());
        let kept = self.engine.change(0, move |turn| turn.update(lease, &updated)).await?;
        if !kept {
            let message = "the instance is not registered at the moment; it will be again soon";
            return Err(Error::unavailable(message).retry_after(RETRY_PAUSE));
        }
        registration.kept.request.borrow_mut().instance = instance;
        Ok(())
    }

    async fn deregister(&self, _: &Context, registration: Rc<Registration>) -> Result<(), Error> {
        let kept = &registration.kept;
        kept.given_up.set(true);
        loop {
            let lease = kept.lease.get();
            self.engine.change(0, move |turn| turn.deregister(lease)).await?;
            self.registrations.kept.borrow_mut().remove(&lease);
            if kept.lease.get() == lease {
                return Ok(());
            }
        }
    }

    async fn add(
        &self,
        _: &Context,
        instance: Instance,
        replace: bool,
    ) -> Result<AddOutcome, Error> {
        let (instance, owner) = (instance_from(instance), self.owner.clone());
        let work = move |turn: &mut store::Turn<'_>| turn.add(&instance, replace, &owner);
        Ok(match self.engine.change(0, work).await? {
            store::Added::Stored => AddOutcome::Stored,
            store::Added::Taken(state) => AddOutcome::Taken(state_to(*state)),
        })
    }

    async fn remove(
        &self,
        _: &Context,
        service: String,
        id: String,
    ) -> Result<RemoveOutcome, Error> {
        Ok(match self.engine.change(0, move |turn| turn.remove(&service, &id)).await? {
            store::Removed::Removed => RemoveOutcome::Removed,
            store::Removed::Absent => RemoveOutcome::Absent,
            store::Removed::Ephemeral => RemoveOutcome::Ephemeral,
        })
    }

    async fn set_override(
        &self,
        _: &Context,
        service: String,
        id: String,
        operator: Option<OperatorOverride>,
    ) -> Result<(), Error> {
        let operator = operator.map(|OperatorOverride { enabled, weight, note }| store::Override {
            enabled,
            weight,
            note,
        });
        self.engine.change(0, move |turn| turn.set_override(&service, &id, operator)).await
    }

    async fn services(
        &self,
        _: &Context,
        page: Option<String>,
        limit: u32,
    ) -> Result<ServicesPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (found, more) = self.engine.read(|store| store.services(page.as_deref(), limit))?;
        let next = found.last().filter(|_| more).map(|service| service.name.clone());
        let summary = |found: store::ServiceSummary| ServiceSummary {
            name: found.name,
            instances: found.instances,
        };
        Ok(ServicesPage { services: found.into_iter().map(summary).collect(), next })
    }

    async fn instances(
        &self,
        _: &Context,
        service: String,
        page: Option<String>,
        limit: u32,
        _: Consistency,
    ) -> Result<InstancesPage, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = self
            .engine
            .read(|store| store.instances(&service, page.as_deref(), limit.saturating_add(1)))?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|state| state.instance.id.clone());
        Ok(InstancesPage { instances: found.into_iter().map(state_to).collect(), next })
    }

    async fn watch(self: Rc<Self>, service: Option<String>, sink: WatchSink) -> Result<(), Error> {
        let mut watch = RegistryWatch::new(service);
        let mut snapshot: Option<Snapshot> = None;
        let mut told = Instant::now();
        loop {
            let events = match self.engine.read(|store| watch.next(store)) {
                Ok(events) => events,
                Err(error) if !is_passing(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a watch waits for the store");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            if events.is_empty() {
                let quiet = told.elapsed();
                if quiet >= PROGRESS_PERIOD {
                    sink.progress();
                    told = Instant::now();
                } else {
                    select(pin!(self.engine.turned()), sleep(PROGRESS_PERIOD - quiet)).await;
                }
                continue;
            }
            told = Instant::now();
            let many = events.len() >= WATCH_STEP_EVENTS;
            for event in events {
                deliver(&sink, &mut snapshot, event).await;
            }
            if many {
                // The sink holds a few steps and the store any number: give the reader time.
                sleep(STEP_PAUSE).await;
            }
            if snapshot.is_none() && sink.wants_snapshot() {
                watch.restart();
            }
        }
    }
}

async fn deliver(sink: &WatchSink, snapshot: &mut Option<Snapshot>, event: RegistryEvent) {
    match event {
        RegistryEvent::SnapshotBegin => *snapshot = Some(sink.snapshot()),
        RegistryEvent::Present(state) => {
            if let Some(snapshot) = snapshot {
                snapshot.put(state_to(*state)).await;
            }
        }
        RegistryEvent::SnapshotEnd => {
            if let Some(snapshot) = snapshot.take() {
                snapshot.end();
            }
        }
        RegistryEvent::Resync(reason) => {
            *snapshot = None;
            sink.resync(&reason);
        }
        RegistryEvent::Changed(change) => {
            let change = std::sync::Arc::unwrap_or_clone(change);
            let previous = change.previous.map(state_to);
            match change.state {
                Some(state) => sink.put(state_to(state), previous),
                None => sink.removed(change.service, change.id, previous),
            }
        }
    }
}

/// Keeps one instance registered until nobody wants it any more.
struct Keeper {
    engine: Engine,
    registrations: Rc<Registrations>,
    kept: Rc<Kept>,
    reporter: RegistrationReporter,
}

impl Keeper {
    async fn run(self, mut ended: oneshot::Receiver<String>) {
        loop {
            let third = Duration::from_millis(self.kept.request.borrow().ttl_ms.into()) / 3;
            let over = pin!(self.reporter.over());
            let reason = match select(over, select(&mut ended, sleep(third))).await {
                Either::Left(_) => return,
                Either::Right((Either::Left((reason, _)), _)) => {
                    // Nobody told the reason: the registration was given up in this very turn.
                    let Ok(reason) = reason else { return };
                    reason
                }
                Either::Right((Either::Right(_), _)) => {
                    let lease = self.kept.lease.get();
                    if let Some(renewed) = self.engine.with(|store| store.renew(lease)) {
                        self.reporter.registered(validity(renewed));
                        continue;
                    }
                    "its time to live ran out before it could be renewed".to_owned()
                }
            };
            self.reporter.lost(&reason);
            match self.register_again().await {
                Some(next) => ended = next,
                None => return,
            }
        }
    }

    /// Tries until it is registered, answering how its end will be told, or until there is no use.
    async fn register_again(&self) -> Option<oneshot::Receiver<String>> {
        while !self.kept.given_up.get() {
            let request = self.kept.request.borrow().clone();
            match attempt(&self.engine, &self.registrations, request).await {
                Ok((store::Registered::Registered { lease, validity: granted }, ended)) => {
                    self.kept.lease.set(lease);
                    if self.kept.given_up.get() || self.reporter.is_over() {
                        // Its old lease was given up meanwhile; the new one has to go as well.
                        self.give_up(lease).await;
                        return None;
                    }
                    self.reporter.registered(validity(granted));
                    return Some(ended);
                }
                Ok((store::Registered::Taken(state), _)) => {
                    self.reporter.taken(state_to(*state));
                    return None;
                }
                Err(error) => tracing::debug!(%error, "an instance could not be registered again"),
            }
            if let Either::Left(_) = select(pin!(self.reporter.over()), sleep(RETRY_PAUSE)).await {
                return None;
            }
        }
        None
    }

    async fn give_up(&self, lease: u64) {
        while let Err(error) = self.engine.change(0, move |turn| turn.deregister(lease)).await {
            tracing::warn!(%error, "an instance could not be deregistered, trying again");
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// Registers, and makes the one who will be told of the end known in the same turn.
async fn attempt(
    engine: &Engine,
    registrations: &Rc<Registrations>,
    request: store::Register,
) -> Result<Attempt, Error> {
    let registrations = Rc::clone(registrations);
    let (sender, ended) = oneshot::channel();
    let work = move |turn: &mut store::Turn<'_>| {
        let outcome = turn.register(&request, Adoption::SameOwnerAndAddress)?;
        if let store::Registered::Registered { lease, .. } = &outcome {
            registrations.kept.borrow_mut().insert(*lease, sender);
        }
        Ok(outcome)
    };
    Ok((engine.change(0, work).await?, ended))
}

fn instance_from(instance: Instance) -> store::Instance {
    let Instance { service, id, host, port, version, zone, weight, enabled, labels } = instance;
    store::Instance { service, id, host, port, version, zone, weight, enabled, labels }
}

fn state_to(state: store::InstanceState) -> InstanceState {
    let store::Instance { service, id, host, port, version, zone, weight, enabled, labels } =
        state.instance;
    let operator = state.operator.map(|store::Override { enabled, weight, note }| {
        OperatorOverride { enabled, weight, note }
    });
    InstanceState {
        instance: Instance { service, id, host, port, version, zone, weight, enabled, labels },
        operator,
        ephemeral: state.lease.is_some(),
        owner: state.owner,
        health: InstanceHealth::Unknown,
        version: state.revision.to_string(),
        registered_ms: Some(state.registered_ms),
    }
}
