//! Registry: which instances of which services run.

mod record;
mod registration;
mod types;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;

use crate::{
    config::{Consistency, EventId},
    error::{Error, Refusal},
    lock::check_ttl,
    mirror::{Change, Following, Item, OVERHEAD_BYTES, Weight},
    names,
    plugin::{Backend, FeedUser, InstanceWatched, join},
};

pub(crate) use record::RegistrationRecord;
use registration::Asking;
pub use registration::Registration;
pub use types::*;

const LABELS_MAX: usize = 64;
const LABEL_NAME_BYTES_MAX: usize = 63;
const LABEL_VALUE_BYTES_MAX: usize = 1024;
const WEIGHT_MAX: u32 = 10_000;

/// The registry capability of one backend. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    backend: Arc<Backend>,
    timeout: Option<Duration>,
}

/// How a registration went.
#[derive(Debug)]
pub enum RegisterOutcome {
    /// The instance is listed until the registration goes.
    Registered(Registration),
    /// Another live owner has the name.
    Taken(Box<InstanceState>),
}

/// A watch on instances: a stream of [`InstanceEvent`]s that ends after an error.
pub struct InstanceWatch(Following<InstanceEvent>);

impl Registry {
    pub(crate) fn new(backend: Arc<Backend>) -> Self {
        Self { backend, timeout: None }
    }

    /// Name of the backend.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend.name
    }

    /// The same with another timeout for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Registers an instance and keeps it registered. `ttl` is how long it stays listed when this
    /// host dies: 2 s to 1 h.
    ///
    /// # Errors
    ///
    /// `invalid` for an instance that cannot be; else as any write. A taken name is no error.
    ///
    /// # Cancellation
    ///
    /// Safe: a dropped call leaves nothing behind on the backend.
    pub async fn register(
        &self,
        instance: Instance,
        ttl: Duration,
    ) -> Result<RegisterOutcome, Error> {
        check_instance(&instance)?;
        check_ttl(ttl)?;
        let record = Arc::new(RegistrationRecord::new(self.backend.next_id(), ttl, instance));
        let asking = Asking::begin(Arc::clone(&self.backend), Arc::clone(&record));
        match self.backend.registry_register(self.timeout, &record).await? {
            None => Ok(RegisterOutcome::Registered(asking.succeeded())),
            Some(owner) => Ok(RegisterOutcome::Taken(Box::new(owner))),
        }
    }

    /// Stores an instance that no session keeps (feature `registry.persistent`).
    ///
    /// # Errors
    ///
    /// `invalid` for an instance that cannot be; else as any write.
    pub async fn add(&self, instance: Instance, replace: bool) -> Result<AddOutcome, Error> {
        check_instance(&instance)?;
        self.backend.registry_add(self.timeout, instance, replace).await
    }

    /// Removes an instance that no session keeps (feature `registry.persistent`).
    ///
    /// # Errors
    ///
    /// As any write.
    pub async fn remove(&self, service: &str, id: &str) -> Result<RemoveOutcome, Error> {
        check_names(service, id)?;
        self.backend.registry_remove(self.timeout, service.to_owned(), id.to_owned()).await
    }

    /// Sets or clears what an operator says of an instance (feature `registry.override`).
    ///
    /// # Errors
    ///
    /// As any write.
    pub async fn set_override(
        &self,
        service: &str,
        id: &str,
        operator: Option<Override>,
    ) -> Result<(), Error> {
        check_names(service, id)?;
        if let Some(weight) = operator.as_ref().and_then(|operator| operator.weight) {
            check_weight(weight)?;
        }
        let (service, id) = (service.to_owned(), id.to_owned());
        self.backend.registry_set_override(self.timeout, service, id, operator).await
    }

    /// Services that have instances; `limit` 0 means 1,000.
    ///
    /// # Errors
    ///
    /// As any read.
    pub async fn services(&self, page: Option<String>, limit: u32) -> Result<ServicesPage, Error> {
        self.backend.registry_services(self.timeout, page, limit).await
    }

    /// Instances of a service; `limit` 0 means 1,000. Without a consistency: sequential.
    ///
    /// # Errors
    ///
    /// As any read.
    pub async fn instances(
        &self,
        service: &str,
        page: Option<String>,
        limit: u32,
        consistency: Option<Consistency>,
    ) -> Result<InstancesPage, Error> {
        names::check_name("service", service)?;
        let consistency = consistency.unwrap_or(Consistency::Sequential);
        let service = service.to_owned();
        self.backend.registry_instances(self.timeout, service, page, limit, consistency).await
    }

    /// Follows one service, or all.
    ///
    /// # Errors
    ///
    /// `invalid` for a name that cannot be. Whatever else goes wrong ends the stream.
    pub async fn watch(&self, service: Option<String>) -> Result<InstanceWatch, Error> {
        let user = self.join(service)?;
        Ok(InstanceWatch(Following::new(user.subscribe(), user, event)))
    }

    /// Follows one service, or all, from after `last`, an event of an earlier watch of the same;
    /// what is not kept any more becomes a resync.
    ///
    /// # Errors
    ///
    /// As [`Registry::watch`].
    pub async fn watch_resuming(
        &self,
        service: Option<String>,
        last: EventId,
    ) -> Result<InstanceWatch, Error> {
        let user = self.join(service)?;
        Ok(InstanceWatch(Following::new(user.resume(last), user, event)))
    }

    fn join(&self, service: Option<String>) -> Result<FeedUser<InstanceWatched>, Error> {
        if let Some(service) = &service {
            names::check_name("service", service)?;
        }
        Ok(join(&self.backend, service))
    }
}

impl InstanceWatch {
    /// Place of the last event that was delivered and from which a watch can resume.
    #[must_use]
    pub fn last_event_id(&self) -> Option<EventId> {
        self.0.last_event_id()
    }
}

impl Stream for InstanceWatch {
    type Item = Result<InstanceEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

impl Weight for InstanceState {
    fn bytes(&self) -> usize {
        let Instance { service, id, host, version, zone, labels, .. } = &self.instance;
        let note = self.operator.as_ref().map(|operator| &operator.note);
        let texts = [service, id, host, version, &self.owner, &self.version];
        let texts: usize = texts.into_iter().chain(zone).chain(note).map(String::len).sum();
        let label = |(name, value): &(String, String)| {
            size_of::<(String, String)>() + name.len() + value.len()
        };
        let labels: usize = labels.iter().map(label).sum();
        size_of::<Self>() + OVERHEAD_BYTES + texts + labels
    }
}

/// Under which key a mirror of instances keeps one: its two names cannot hold the separator.
pub(crate) fn mirror_key(service: &str, id: &str) -> Arc<str> {
    format!("{service}\0{id}").into()
}

fn event(item: Item<'_, InstanceState>) -> InstanceEvent {
    match item {
        Item::SnapshotBegin => InstanceEvent::SnapshotBegin,
        Item::Snapshot(value) => InstanceEvent::Put { state: Arc::clone(value), previous: None },
        Item::SnapshotEnd => InstanceEvent::SnapshotEnd,
        Item::Change(Change::Put { value, previous, .. }) => {
            InstanceEvent::Put { state: Arc::clone(value), previous: previous.clone() }
        }
        Item::Change(Change::Removed { key, previous, .. }) => {
            let (service, id) = key.split_once('\0').unwrap_or((key, ""));
            let previous = previous.clone();
            InstanceEvent::Removed { service: service.into(), id: id.into(), previous }
        }
        Item::Change(Change::Resync(reason)) => InstanceEvent::Resync(Arc::clone(reason)),
    }
}

fn check_instance(instance: &Instance) -> Result<(), Refusal> {
    check_names(&instance.service, &instance.id)?;
    names::check_name("host", &instance.host)?;
    check_weight(instance.weight)?;
    if instance.labels.len() > LABELS_MAX {
        let problem = format!("{}; the limit is {LABELS_MAX}", instance.labels.len());
        return Err(Refusal::Invalid { argument: "labels", problem });
    }
    for (name, value) in &instance.labels {
        names::check_name("label", name)?;
        if name.len() > LABEL_NAME_BYTES_MAX || value.len() > LABEL_VALUE_BYTES_MAX {
            let problem = format!(
                "\"{name}\" is too long; names may have {LABEL_NAME_BYTES_MAX} bytes, \
                 values {LABEL_VALUE_BYTES_MAX}"
            );
            return Err(Refusal::Invalid { argument: "label", problem });
        }
    }
    Ok(())
}

fn check_names(service: &str, id: &str) -> Result<(), Refusal> {
    names::check_name("service", service)?;
    names::check_name("instance", id)
}

fn check_weight(weight: u32) -> Result<(), Refusal> {
    if weight <= WEIGHT_MAX {
        return Ok(());
    }
    let problem = format!("{weight}; it has to be 0 to {WEIGHT_MAX}");
    Err(Refusal::Invalid { argument: "weight", problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_of_an_instance_and_each_of_its_labels_weighs_something() {
        let state = InstanceState {
            instance: Instance::new("web", "1", "127.0.0.1", 80),
            operator: None,
            ephemeral: true,
            owner: String::new(),
            health: InstanceHealth::Unknown,
            version: String::new(),
            registered: None,
        };
        let (bytes, text) = (state.bytes(), "x".repeat(1000));
        let mut with = vec![state.clone(); 5];
        with[0].owner.clone_from(&text);
        with[1].version.clone_from(&text);
        with[2].operator = Some(Override { note: text.clone(), ..Override::default() });
        with[3].instance.zone = Some(text.clone());
        with[4].instance.version.clone_from(&text);
        for (number, state) in with.iter().enumerate() {
            assert_eq!(state.bytes(), bytes + 1000, "{number}");
        }
        let mut labelled = state;
        labelled.instance.labels = vec![(String::new(), String::new()); 100];
        assert!(labelled.bytes() >= bytes + 100 * size_of::<String>());
    }
}
