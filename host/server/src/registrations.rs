//! The registrations that clients keep through this server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pintle::registry::{
    Instance, InstanceState, RegisterOutcome, Registration as HostRegistration,
    RegistrationStatus as HostStatus, Registry,
};
use pintle_api::{
    problem::code,
    registry::{Registration, RegistrationStatus},
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep_until},
};

use crate::{
    convert::{milliseconds, registry as convert},
    failure::{Answer, Failure},
};

/// Registrations that are kept at a time.
const REGISTRATIONS_MAX: usize = 10_000;

/// Names one registration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RegistrationName {
    pub(crate) backend: String,
    pub(crate) service: String,
    pub(crate) id: String,
}

/// All registrations of one server.
#[derive(Clone, Default)]
pub(crate) struct Registrations {
    table: Arc<Mutex<HashMap<RegistrationName, Arc<Slot>>>>,
}

/// The place of one registration.
#[derive(Default)]
struct Slot {
    /// Held by whoever changes it, so that two who register at once do not both ask the backend.
    gate: AsyncMutex<()>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    registration: Arc<HostRegistration>,
    owner: String,
    ttl: Duration,
    /// When its client has to have been heard again.
    deadline: Instant,
}

impl Registrations {
    /// Registers an instance, or renews and changes its registration.
    pub(crate) async fn put(
        &self,
        registry: &Registry,
        instance: Instance,
        owner: String,
        ttl: Duration,
    ) -> Answer<Registration> {
        let received = Instant::now();
        let name = RegistrationName {
            backend: registry.backend().to_owned(),
            service: instance.service.clone(),
            id: instance.id.clone(),
        };
        let slot = self.slot(&name)?;
        let _alone = slot.gate.lock().await;
        let present = slot.renew(Some(&owner), Some(ttl))?;
        let result = match present {
            Some(registration) => change(&registration, instance).await,
            None => self.register(registry, &name, &slot, instance, owner, ttl).await,
        };
        let answer = result.and_then(|()| slot.describe(received));
        if answer.is_err() {
            self.tidy(&name, &slot);
        }
        answer
    }

    /// Registrations that are kept, or being made.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.table().len()).unwrap_or(u64::MAX)
    }

    /// Renews a registration.
    pub(crate) fn keepalive(&self, name: &RegistrationName, owner: &str) -> Answer<Registration> {
        let received = Instant::now();
        let slot = self.table().get(name).cloned();
        let slot = slot.ok_or_else(|| unknown(name))?;
        slot.renew(Some(owner), None)?.ok_or_else(|| unknown(name))?;
        slot.describe(received)
    }

    /// Ends a registration; answers false when there is none here.
    pub(crate) async fn remove(&self, name: &RegistrationName, owner: &str) -> Answer<bool> {
        let Some(slot) = self.table().get(name).cloned() else { return Ok(false) };
        let _alone = slot.gate.lock().await;
        if let Some(kept) = &*slot.kept()
            && kept.owner != owner
        {
            return Err(taken_here(kept));
        }
        let kept = slot.kept().take();
        self.tidy(name, &slot);
        match kept {
            Some(kept) => kept.end().await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn register(
        &self,
        registry: &Registry,
        name: &RegistrationName,
        slot: &Arc<Slot>,
        instance: Instance,
        owner: String,
        ttl: Duration,
    ) -> Answer<()> {
        let registration = match registry.register(instance, ttl).await? {
            RegisterOutcome::Registered(registration) => Arc::new(registration),
            RegisterOutcome::Taken(state) => return Err(taken(&state)),
        };
        let deadline = Instant::now() + ttl;
        *slot.kept() = Some(Kept { registration, owner, ttl, deadline });
        let (registrations, name, slot) = (self.clone(), name.clone(), Arc::clone(slot));
        tokio::spawn(async move {
            let Some(kept) = slot.silence().await else { return };
            registrations.tidy(&name, &slot);
            tracing::info!(
                service = name.service,
                id = name.id,
                "no keepalive came; deregistering"
            );
            if let Err(failure) = kept.end().await {
                let problem = failure.problem();
                tracing::warn!(service = name.service, id = name.id, %problem, "it will expire");
            }
        });
        Ok(())
    }

    fn slot(&self, name: &RegistrationName) -> Answer<Arc<Slot>> {
        let mut table = self.table();
        if table.len() >= REGISTRATIONS_MAX && !table.contains_key(name) {
            let detail = format!("this server keeps {REGISTRATIONS_MAX} registrations, no more");
            return Err(Failure::of(code::EXHAUSTED, detail));
        }
        Ok(Arc::clone(table.entry(name.clone()).or_default()))
    }

    /// Takes an empty slot away, unless somebody is about to fill it.
    fn tidy(&self, name: &RegistrationName, slot: &Arc<Slot>) {
        let mut table = self.table();
        let is_present = table.get(name).is_some_and(|present| Arc::ptr_eq(present, slot));
        // One in the table, one of the caller.
        if is_present && Arc::strong_count(slot) <= 2 && slot.kept().is_none() {
            table.remove(name);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<RegistrationName, Arc<Slot>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Notes that the client lives; answers the registration if there is one.
    fn renew(
        &self,
        owner: Option<&str>,
        ttl: Option<Duration>,
    ) -> Answer<Option<Arc<HostRegistration>>> {
        let mut slot = self.kept();
        let Some(kept) = &mut *slot else { return Ok(None) };
        if owner.is_some_and(|owner| owner != kept.owner) {
            return Err(taken_here(kept));
        }
        if let HostStatus::Taken(state) = kept.registration.status() {
            *slot = None;
            return Err(taken(&state));
        }
        kept.ttl = ttl.unwrap_or(kept.ttl);
        kept.deadline = Instant::now() + kept.ttl;
        Ok(Some(Arc::clone(&kept.registration)))
    }

    fn describe(&self, received: Instant) -> Answer<Registration> {
        let slot = self.kept();
        let Some(kept) = &*slot else {
            return Err(Failure::of(code::REGISTRATION_UNKNOWN, "it has just ended"));
        };
        let (status, reason) = match kept.registration.status() {
            HostStatus::Registered => (RegistrationStatus::Registered, None),
            HostStatus::Suspect(reason) => (RegistrationStatus::Suspect, Some(reason)),
            HostStatus::Lost(reason) => (RegistrationStatus::Lost, Some(reason)),
            HostStatus::Taken(state) => return Err(taken(&state)),
            HostStatus::Ended => {
                return Err(Failure::of(code::REGISTRATION_UNKNOWN, "it has ended"));
            }
        };
        let now = Instant::now();
        let valid = kept.deadline.saturating_duration_since(now);
        Ok(Registration {
            status,
            reason: reason.map(|reason| reason.to_string()),
            // The client counts from before `received`: the time spent here comes on top.
            valid_for_ms: Some(milliseconds(valid + now.saturating_duration_since(received))),
        })
    }

    /// Waits until the client was silent for too long, and takes the registration out.
    async fn silence(&self) -> Option<Kept> {
        loop {
            let deadline = self.kept().as_ref()?.deadline;
            sleep_until(deadline).await;
            let _alone = self.gate.lock().await;
            let mut slot = self.kept();
            if slot.as_ref()?.deadline <= Instant::now() {
                return slot.take();
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    async fn end(self) -> Answer<()> {
        match Arc::into_inner(self.registration) {
            Some(registration) => Ok(registration.deregister().await?),
            // A change is under way, and drops it when it is done.
            None => Ok(()),
        }
    }
}

async fn change(registration: &HostRegistration, instance: Instance) -> Answer<()> {
    if registration.instance() == instance {
        return Ok(());
    }
    Ok(registration.update(instance).await?)
}

pub(crate) fn taken(state: &InstanceState) -> Failure {
    let instance = &state.instance;
    let detail = format!("{}/{} has another live owner", instance.service, instance.id);
    let state = Box::new(convert::state(state));
    Failure::of(code::TAKEN, detail).with(|problem| problem.instance = Some(state))
}

fn taken_here(kept: &Kept) -> Failure {
    let instance = kept.registration.instance();
    taken(&InstanceState {
        instance,
        operator: None,
        ephemeral: true,
        owner: "another client of this server".into(),
        health: pintle::registry::InstanceHealth::Unknown,
        version: String::new(),
        registered: None,
    })
}

fn unknown(name: &RegistrationName) -> Failure {
    let RegistrationName { service, id, .. } = name;
    let detail = format!("this server does not keep {service}/{id} registered");
    Failure::of(code::REGISTRATION_UNKNOWN, detail)
        .advice("the server may have been restarted: register it anew")
}
