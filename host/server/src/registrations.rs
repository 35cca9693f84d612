//! The registrations that clients keep through this server.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pintle::{
    lock::{TTL_MAX, TTL_MIN},
    registry::{
        Instance, InstanceState, RegisterOutcome, Registration as HostRegistration,
        RegistrationStatus as HostStatus, Registry,
    },
};
use pintle_api::{
    problem::code,
    registry::{Registration, RegistrationStatus},
};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
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
    table: Arc<Mutex<Table>>,
}

type Table = HashMap<RegistrationName, Entry>;

#[derive(Default)]
struct Entry {
    slot: Arc<Slot>,
    /// Places that were given out; without any the entry goes.
    places: usize,
}

/// The place of one registration, for as long as somebody is at work on it or keeps it.
struct Place {
    registrations: Registrations,
    name: RegistrationName,
    slot: Arc<Slot>,
}

/// What is in the place of one registration.
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
    alarm: Alarm,
}

/// Tells who waits for the deadline that it is another, or that the registration is gone.
#[derive(Default)]
struct Alarm(Arc<Notify>);

/// What became of a request to register.
pub(crate) struct Put {
    pub(crate) registration: Registration,
    /// It was registered like this already.
    pub(crate) renewed_only: bool,
}

impl Registrations {
    /// Registers an instance, or renews and changes its registration.
    pub(crate) async fn put(
        &self,
        registry: &Registry,
        instance: Instance,
        owner: String,
        ttl: Duration,
    ) -> Answer<Put> {
        let received = Instant::now();
        check_ttl(ttl)?;
        let name = RegistrationName {
            backend: registry.backend().to_owned(),
            service: instance.service.clone(),
            id: instance.id.clone(),
        };
        let place = self.place(name)?;
        let _alone = place.gate.lock().await;
        let renewed_only = match place.renew(Some(&owner), Some(ttl))? {
            Some(registration) => !change(&registration, instance).await?,
            None => {
                place.register(registry, instance, owner, ttl).await?;
                false
            }
        };
        Ok(Put { registration: place.describe(received)?, renewed_only })
    }

    /// Registrations that are kept, or being made.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.table().len()).unwrap_or(u64::MAX)
    }

    /// Renews a registration.
    pub(crate) fn keepalive(&self, name: &RegistrationName, owner: &str) -> Answer<Registration> {
        let received = Instant::now();
        let place = self.find(name).ok_or_else(|| unknown(name))?;
        place.renew(Some(owner), None)?.ok_or_else(|| unknown(name))?;
        place.describe(received)
    }

    /// Ends a registration; answers false when there is none here.
    pub(crate) async fn remove(&self, name: &RegistrationName, owner: &str) -> Answer<bool> {
        let Some(place) = self.find(name) else { return Ok(false) };
        let _alone = place.gate.lock().await;
        if let Some(kept) = &*place.kept()
            && kept.owner != owner
        {
            return Err(taken_here(kept));
        }
        let kept = place.kept().take();
        match kept {
            Some(kept) => kept.end().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The place under a name, also where nothing is.
    fn place(&self, name: RegistrationName) -> Answer<Place> {
        let mut table = self.table();
        if table.len() >= REGISTRATIONS_MAX && !table.contains_key(&name) {
            let detail = format!("this server keeps {REGISTRATIONS_MAX} registrations, no more");
            return Err(Failure::of(code::EXHAUSTED, detail));
        }
        let entry = table.entry(name.clone()).or_default();
        Ok(self.give(name, entry))
    }

    /// The place under a name where something is.
    fn find(&self, name: &RegistrationName) -> Option<Place> {
        Some(self.give(name.clone(), self.table().get_mut(name)?))
    }

    fn give(&self, name: RegistrationName, entry: &mut Entry) -> Place {
        entry.places += 1;
        Place { registrations: self.clone(), name, slot: Arc::clone(&entry.slot) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    async fn register(
        &self,
        registry: &Registry,
        instance: Instance,
        owner: String,
        ttl: Duration,
    ) -> Answer<()> {
        let registration = match registry.register(instance, ttl).await? {
            RegisterOutcome::Registered(registration) => Arc::new(registration),
            RegisterOutcome::Taken(state) => return Err(taken(&state)),
        };
        let alarm = Alarm::default();
        let rung = Arc::clone(&alarm.0);
        let deadline = Instant::now() + ttl;
        *self.kept() = Some(Kept { registration, owner, ttl, deadline, alarm });
        let place = self.another();
        tokio::spawn(async move {
            let Some(kept) = place.silence(&rung).await else { return };
            let RegistrationName { service, id, .. } = &place.name;
            tracing::info!(service, id, "no keepalive came; deregistering");
            if let Err(failure) = kept.end().await {
                let problem = failure.problem();
                tracing::warn!(service, id, %problem, "it will expire");
            }
        });
        Ok(())
    }

    /// The same place, for somebody else.
    fn another(&self) -> Self {
        if let Some(entry) = self.registrations.table().get_mut(&self.name) {
            entry.places += 1;
        }
        let (registrations, name) = (self.registrations.clone(), self.name.clone());
        Self { registrations, name, slot: Arc::clone(&self.slot) }
    }
}

impl Deref for Place {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.registrations.table();
        let Some(entry) = table.get_mut(&self.name) else { return };
        entry.places = entry.places.saturating_sub(1);
        // Who keeps a registration has a place.
        if entry.places == 0 {
            table.remove(&self.name);
        }
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
        if ttl.is_some() {
            // It may be sooner than the one before.
            kept.alarm.ring();
        }
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

    /// Waits until the client was silent for too long, and takes the registration out; none when it
    /// was taken out by somebody else. `rung` is its alarm.
    async fn silence(&self, rung: &Arc<Notify>) -> Option<Kept> {
        let is_ours = |kept: &&Kept| Arc::ptr_eq(&kept.alarm.0, rung);
        loop {
            let deadline = self.kept().as_ref().filter(is_ours)?.deadline;
            tokio::select! {
                () = sleep_until(deadline) => {}
                () = rung.notified() => continue,
            }
            let _alone = self.gate.lock().await;
            let mut slot = self.kept();
            if slot.as_ref().filter(is_ours)?.deadline <= Instant::now() {
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

impl Alarm {
    fn ring(&self) {
        // Kept for who is not waiting yet.
        self.0.notify_one();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.ring();
    }
}

/// Answers whether there was anything to change.
async fn change(registration: &HostRegistration, instance: Instance) -> Answer<bool> {
    if registration.instance() == instance {
        return Ok(false);
    }
    registration.update(instance).await?;
    Ok(true)
}

fn check_ttl(ttl: Duration) -> Answer<()> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    let (min, max) = (milliseconds(TTL_MIN), milliseconds(TTL_MAX));
    Err(Failure::invalid(format!("ttl_ms: {} is not {min} to {max}", milliseconds(ttl))))
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
