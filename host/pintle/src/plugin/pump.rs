//! Fetches what plugins push, and hands it to whom it concerns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;

use super::{
    actor::{CallFailure, Operation},
    backend::{Backend, Serving},
    bindings::{config, lock, registry, types},
    convert::{self, bounds},
    file::Capability,
    limits::Pace,
};
use crate::{
    clock::BootTime,
    error::{Cause, Error},
    mirror::Upstream,
    registry::{InstanceState, mirror_key},
};

const POLL_CONFIG: Operation = Operation::read("config.poll");
const POLL_REGISTRY: Operation = Operation::read("registry.poll");
const POLL_LOCK: Operation = Operation::read("lock.poll");

/// Between polls that fail; a plugin that cannot answer a poll must not be hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(200);

/// Keeps one poll pending per capability until the incarnation ends. Each runs on its own, so that
/// events of one capability never wait for another's; and on the plugin's thread, so that whatever
/// it answers, others do not wait for it.
pub(crate) fn start(backend: &Arc<Backend>, serving: &Arc<Serving>) {
    for capability in &serving.plugin.info.capabilities {
        let (backend, serving) = (Arc::clone(backend), Arc::clone(serving));
        let thread = serving.incarnation.thread().clone();
        match capability {
            Capability::Config => thread.spawn(pump::<ConfigEvents>(backend, serving)),
            Capability::Registry => thread.spawn(pump::<RegistryEvents>(backend, serving)),
            Capability::Lock => thread.spawn(pump::<LockEvents>(backend, serving)),
            // Nothing comes back from a sink.
            Capability::Tracing => continue,
        };
    }
}

/// The answer to a poll: events with the numbers that they are about.
type Batch<E> = Result<Vec<(u64, E)>, CallFailure>;

/// One capability's events.
trait Events: 'static {
    type Event: Send + 'static;
    const OPERATION: Operation;

    fn poll(
        serving: &Serving,
        timeout: Duration,
        events_max: u32,
    ) -> BoxFuture<'_, Batch<Self::Event>>;

    /// What is too long to be kept, in words.
    fn check(event: &Self::Event) -> Result<(), String>;

    fn dispatch(backend: &Backend, serving: &Serving, id: u64, event: Self::Event);
}

async fn pump<E: Events>(backend: Arc<Backend>, serving: Arc<Serving>) {
    let (timeout, events_max) = (backend.limits.poll_timeout, backend.limits.poll_events);
    let mut pace = Pace::per_second(backend.limits.polls_per_second);
    loop {
        // A plugin that answers everything at once would keep the host from everything else.
        let wait = pace.take(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match E::poll(&serving, timeout, events_max).await {
            Ok(events) => {
                let count = events.len();
                if u32::try_from(count).is_ok_and(|count| count > events_max) {
                    return serving.incarnation.kill(&format!(
                        "{} answered {count} events where poll_events = {events_max} were asked for",
                        E::OPERATION.name
                    ));
                }
                let problem = events.iter().find_map(|(_, event)| E::check(event).err());
                if let Some(problem) = problem {
                    let operation = E::OPERATION.name;
                    return serving.incarnation.kill(&format!("{operation} answered {problem}"));
                }
                for (id, event) in events {
                    E::dispatch(&backend, &serving, id, event);
                }
            }
            Err(CallFailure::Ended { .. }) => return,
            Err(failure) => {
                let error = backend.error(E::OPERATION, &serving, failure);
                tracing::warn!(%error, "events could not be fetched");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

macro_rules! poll {
    ($capability:ident, $serving:expr, $timeout:expr, $max:expr) => {
        Box::pin($serving.incarnation.call(
            Self::OPERATION,
            $timeout,
            move |accessor, guest, context| {
                Box::pin(async move {
                    let found = guest.$capability.as_ref();
                    let guest = found.ok_or_else(|| wasmtime::format_err!("not exported"))?;
                    guest.call_poll(accessor, context, $max).await
                })
            },
        ))
    };
}

struct ConfigEvents;

impl Events for ConfigEvents {
    type Event = config::Event;
    const OPERATION: Operation = POLL_CONFIG;

    fn poll(
        serving: &Serving,
        timeout: Duration,
        events_max: u32,
    ) -> BoxFuture<'_, Batch<Self::Event>> {
        poll!(config, serving, timeout, events_max)
    }

    fn check(event: &Self::Event) -> Result<(), String> {
        bounds::config_event(event)
    }

    fn dispatch(backend: &Backend, serving: &Serving, id: u64, event: Self::Event) {
        // An event for a watch that was just closed is of no use to anybody.
        let (mirror, tail) = (backend.routes.config.find(id), backend.routes.tails.find(id));
        if mirror.is_none() && tail.is_none() {
            return;
        }
        let place = backend.place(Self::OPERATION, Some(serving));
        let event = convert::config::event(event, &place, &serving.scrubber, &backend.limits);
        match (mirror, tail) {
            (Some(mirror), _) => mirror.apply(event),
            (None, Some(tail)) => tail.apply(backend, id, event),
            (None, None) => {}
        }
    }
}

struct RegistryEvents;

impl Events for RegistryEvents {
    type Event = registry::Event;
    const OPERATION: Operation = POLL_REGISTRY;

    fn poll(
        serving: &Serving,
        timeout: Duration,
        events_max: u32,
    ) -> BoxFuture<'_, Batch<Self::Event>> {
        poll!(registry, serving, timeout, events_max)
    }

    fn check(event: &Self::Event) -> Result<(), String> {
        bounds::registry_event(event)
    }

    fn dispatch(backend: &Backend, serving: &Serving, id: u64, event: Self::Event) {
        let reason = |text: &str| reason(text, backend, serving);
        let record = |id| backend.routes.registrations.find(id);
        let upstream = match event {
            registry::Event::Registered(_) => {
                return record(id).into_iter().for_each(|record| record.registered());
            }
            registry::Event::Suspect(text) => {
                return record(id).into_iter().for_each(|record| record.suspect(reason(&text)));
            }
            registry::Event::Lost(text) => {
                return record(id).into_iter().for_each(|record| record.lost(reason(&text)));
            }
            registry::Event::Taken(owner) => {
                let owner = convert::registry::state(owner);
                return record(id).into_iter().for_each(|record| record.taken(owner.clone()));
            }
            registry::Event::SnapshotBegin => Upstream::SnapshotBegin,
            registry::Event::Put(put) => {
                let value = Arc::new(convert::registry::state(put.state));
                let previous = put.previous.map(|state| Arc::new(convert::registry::state(state)));
                Upstream::Put { key: key_of(&value), value, previous }
            }
            registry::Event::Removed(removed) => Upstream::Removed {
                key: mirror_key(&removed.service, &removed.id),
                version: None,
                previous: removed.previous.map(|state| Arc::new(convert::registry::state(state))),
            },
            registry::Event::SnapshotEnd => Upstream::SnapshotEnd(None),
            registry::Event::Resync(text) => Upstream::Resync(reason(&text)),
            registry::Event::Progress => Upstream::Progress(None),
            registry::Event::Ended(error) => {
                Upstream::Ended(ended(backend, serving, Self::OPERATION, error))
            }
        };
        if let Some(mirror) = backend.routes.instances.find(id) {
            mirror.apply(upstream);
        }
    }
}

struct LockEvents;

impl Events for LockEvents {
    type Event = lock::Event;
    const OPERATION: Operation = POLL_LOCK;

    fn poll(
        serving: &Serving,
        timeout: Duration,
        events_max: u32,
    ) -> BoxFuture<'_, Batch<Self::Event>> {
        poll!(lock, serving, timeout, events_max)
    }

    fn check(event: &Self::Event) -> Result<(), String> {
        bounds::lock_event(event)
    }

    fn dispatch(backend: &Backend, serving: &Serving, id: u64, event: Self::Event) {
        let reason = |text: &str| reason(text, backend, serving);
        if let Some(lease) = backend.routes.leases.find(id) {
            match event {
                lock::Event::Renewed(validity) => {
                    let valid_for = Duration::from_millis(u64::from(validity.valid_for_ms));
                    lease.renew(BootTime::from_nanos(validity.sent_at), valid_for);
                }
                lock::Event::Suspect(text) => lease.suspect(reason(&text)),
                lock::Event::Lost(text) => {
                    lease.lose(reason(&text));
                }
                lock::Event::State(_) | lock::Event::Ended(_) => {}
            }
        } else if let Some(watch) = backend.routes.lock_watches.find(id) {
            let next = match event {
                lock::Event::State(state) => Ok(convert::lock::state(state)),
                lock::Event::Ended(error) => Err(ended(backend, serving, Self::OPERATION, error)),
                _ => return,
            };
            watch.state.send_replace(Some(next));
        }
    }
}

fn key_of(state: &InstanceState) -> Arc<str> {
    mirror_key(&state.instance.service, &state.instance.id)
}

fn reason(text: &str, backend: &Backend, serving: &Serving) -> Arc<str> {
    convert::shown(text, &serving.scrubber, &backend.limits).into()
}

fn ended(backend: &Backend, serving: &Serving, operation: Operation, error: types::Error) -> Error {
    let cause = Cause::Plugin(convert::error(error, &serving.scrubber, &backend.limits));
    Error::new(cause, backend.place(operation, Some(serving)))
}
