//! The plugin: what it offers, how it starts and stops, how it is.

use crate::engine::Engine;
use crate::lock::Claims;
use crate::registry::Registrations;
use crate::settings::Settings;
use crate::store::{self, Clock, Directory, Effects, Seeds, Storage, Store};
use crate::tracing::Spans;
use futures::future::select;
use pintle_plugin_sdk::time::{Instant, sleep};
use pintle_plugin_sdk::{
    Context, Description, Error, Feature, Health, Plugin, Start, Validity, checkpoint, spawn,
};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the host shows the directory that it grants.
const DATA_DIRECTORY: &str = "/data";

/// Where incarnations that run natively keep their data.
#[cfg(not(target_family = "wasm"))]
type NativeStorage = Box<dyn Fn() -> Box<dyn Storage>>;

#[cfg(not(target_family = "wasm"))]
thread_local! {
    static NATIVE_STORAGE: RefCell<Option<NativeStorage>> = const { RefCell::new(None) };
}

/// Says where incarnations that run natively on this thread keep their data.
#[cfg(not(target_family = "wasm"))]
pub fn set_native_storage(storage: impl Fn() -> Box<dyn Storage> + 'static) {
    NATIVE_STORAGE.set(Some(Box::new(storage)));
}

fn storage() -> Box<dyn Storage> {
    #[cfg(not(target_family = "wasm"))]
    if let Some(storage) = NATIVE_STORAGE.with_borrow(|storage| storage.as_ref().map(|new| new())) {
        return storage;
    }
    Box::new(Directory::new(DATA_DIRECTORY))
}

/// Earlier incarnations to name in a checkpoint, when several end one after the other.
const PREDECESSORS_MAX: usize = 64;

/// The embedded backend.
pub struct Local {
    pub(crate) engine: Engine,
    pub(crate) claims: Rc<Claims>,
    pub(crate) registrations: Rc<Registrations>,
    pub(crate) spans: RefCell<Spans>,
    /// Names this host and backend as the keeper of registrations.
    pub(crate) owner: String,
    pub(crate) epoch: String,
}

impl Plugin for Local {
    type Settings = Settings;

    fn description() -> Description {
        let summary = "Durable configuration, registry, locks and traces on this node's own disk";
        Description::new(env!("CARGO_PKG_VERSION"), summary)
            .features([
                Feature::ConfigCas,
                Feature::ConfigVersionUnique,
                Feature::ConfigTxn,
                Feature::ConfigHeld,
                Feature::ConfigHistory,
                Feature::ConfigReadAt,
                Feature::ConfigLinearizable,
                Feature::ConfigContentType,
                Feature::ConfigDeletePrefixAtomic,
                Feature::WatchEveryChange,
                Feature::WatchFromVersion,
                Feature::WatchPrevious,
                Feature::RegistryPersistent,
                Feature::RegistryOverride,
                Feature::LockShared,
                Feature::LockPermits,
                Feature::LockWaiters,
                Feature::LockForceRelease,
                Feature::LockWatch,
                Feature::TracingQuery,
            ])
            .single_writer()
            .data_directory()
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        let options = start.settings.store_options();
        let seeds = Seeds { identity: rand::random(), generation: rand::random() };
        let store = Store::open(storage(), options, Arc::new(GuestClock), seeds)?;
        let (epoch, revision, incarnation) = (store.epoch(), store.revision(), store.incarnation());
        let legacy = Legacy::resumed(start.resume.as_deref(), &epoch);
        legacy.with(incarnation).checkpoint();
        tracing::info!(epoch, revision, incarnation, "the store is open");
        let claims = Rc::new(Claims::default());
        let registrations = Rc::new(Registrations::default());
        let tell = {
            let (claims, registrations) = (Rc::clone(&claims), Rc::clone(&registrations));
            move |effects: &Effects| {
                claims.tell(effects);
                registrations.tell(effects);
            }
        };
        let engine = Engine::new(store, tell);
        engine.change(0, move |turn| turn.succeed(&legacy.incarnations)).await?;
        spawn(expire(engine.clone())).detach();
        Ok(Rc::new(Self {
            engine,
            claims,
            registrations,
            spans: RefCell::new(Spans::new(&start.settings)),
            owner: format!("{}/{}", start.node, start.backend),
            epoch,
        }))
    }

    fn health(&self) -> Health {
        let failure = self.engine.with(|store| store.failure().map(str::to_owned));
        let health = match failure {
            None => Health::serving("the store is open"),
            Some(reason) => Health::unavailable(format!("the store is closed: {reason}")),
        };
        let (revision, compacted, incarnation) =
            self.engine.with(|store| (store.revision(), store.compacted(), store.incarnation()));
        let counters = self.engine.counters();
        health
            .detail("epoch", &self.epoch)
            .detail("revision", revision.to_string())
            .detail("compacted", compacted.to_string())
            .detail("incarnation", incarnation.to_string())
            .counter("turns", counters.turns.get())
            .counter("changes", counters.jobs.get())
            .counter("errors.store", counters.failures.get())
            .counter("recoveries", counters.recoveries.get())
            .counter("spans-dropped", self.spans.borrow().dropped())
    }

    async fn stop(&self, _: &Context) -> Result<(), Error> {
        let ended = self.engine.change(0, |turn| turn.end_own()).await;
        let closed = self.engine.with(Store::close);
        ended?;
        Ok(closed?)
    }
}

/// Ends leases that nobody renews: those of earlier incarnations, and own ones after a long stall.
async fn expire(engine: Engine) {
    loop {
        let next = engine.with(|store| store.next_deadline_ns());
        let Some(next_ns) = next else {
            engine.deadline_changes(None).await;
            continue;
        };
        let left = next_ns.saturating_sub(Instant::now().as_nanos());
        if left > 0 {
            let left = Duration::from_nanos(left);
            select(pin!(engine.deadline_changes(next)), sleep(left)).await;
        } else if engine.change(0, |turn| turn.expire()).await.is_err() {
            // The store is closed; it will not open faster for being asked again at once.
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// What a checkpoint says: whose leases the successor may take over.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Legacy {
    epoch: String,
    incarnations: Vec<u64>,
}

impl Legacy {
    /// What the predecessor left, if it spoke of this store.
    fn resumed(resume: Option<&[u8]>, epoch: &str) -> Self {
        let found: Option<Self> = resume.and_then(|state| match serde_json::from_slice(state) {
            Ok(legacy) => Some(legacy),
            Err(error) => {
                tracing::warn!(%error, "the predecessor's checkpoint cannot be read");
                None
            }
        });
        match found {
            Some(legacy) if legacy.epoch == epoch => legacy,
            _ => Self { epoch: epoch.to_owned(), incarnations: Vec::new() },
        }
    }

    fn with(&self, incarnation: u64) -> Self {
        let skipped = (self.incarnations.len() + 1).saturating_sub(PREDECESSORS_MAX);
        let incarnations =
            self.incarnations.iter().copied().skip(skipped).chain([incarnation]).collect();
        Self { epoch: self.epoch.clone(), incarnations }
    }

    fn checkpoint(&self) {
        match serde_json::to_vec(self) {
            Ok(state) => checkpoint(&state),
            Err(error) => tracing::error!(%error, "a checkpoint cannot be written"),
        }
    }
}

/// A validity of the store in the terms of the SDK.
pub(crate) fn validity(validity: store::Validity) -> Validity {
    let now = Instant::now();
    let ago = Duration::from_nanos(now.as_nanos().saturating_sub(validity.sent_at_ns));
    Validity {
        sent_at: now.before(ago),
        valid_for: Duration::from_millis(validity.valid_for_ms.into()),
    }
}

struct GuestClock;

impl Clock for GuestClock {
    fn monotonic_ns(&self) -> u64 {
        Instant::now().as_nanos()
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
