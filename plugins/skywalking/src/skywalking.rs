//! The plugin: what it offers, how it starts and stops, how it is.

use crate::assembly::Assembly;
use crate::instances::Instances;
use crate::reporter::Reporter;
use crate::settings::Settings;
use crate::tracing::Tickets;
use pintle_plugin_sdk::{Context, Description, Error, Health, Plugin, Start, StopOnDrop, spawn};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// SkyWalking as a backend.
pub struct SkyWalking {
    pub(crate) settings: Settings,
    pub(crate) reporter: Rc<Reporter>,
    pub(crate) assembly: Rc<RefCell<Assembly>>,
    pub(crate) tickets: Rc<Tickets>,
    pub(crate) instances: Rc<Instances>,
    pub(crate) counters: Rc<Counters>,
    /// Whether it was said that spans wait for less than `wait_ms`.
    pub(crate) is_cut: Cell<bool>,
    _keeping: StopOnDrop,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) spans: Cell<u64>,
    pub(crate) rejected: Cell<u64>,
    pub(crate) segments: Cell<u64>,
    pub(crate) flushes: Cell<u64>,
    pub(crate) errors: Cell<u64>,
}

impl Counters {
    pub(crate) fn add(counter: &Cell<u64>, number: usize) {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        counter.set(counter.get().saturating_add(number));
    }
}

impl Plugin for SkyWalking {
    type Settings = Settings;

    fn description() -> Description {
        let summary = "Traces to Apache SkyWalking 8 or later, over gRPC or HTTP";
        Description::new(env!("CARGO_PKG_VERSION"), summary)
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        let settings = start.settings;
        let reporter = Rc::new(Reporter::start(start.endpoints, &settings)?);
        let instances = Rc::<Instances>::default();
        let (keeping, telling) = (Rc::clone(&instances), Rc::clone(&reporter));
        let (layer, period) = (settings.layer.clone(), settings.keep_alive());
        let keeping = spawn(async move { keeping.keep(&telling, &layer, period).await });
        let places_max = usize::try_from(settings.places_max).unwrap_or(usize::MAX);
        Ok(Rc::new(Self {
            reporter,
            assembly: Rc::new(RefCell::new(Assembly::new(places_max))),
            tickets: Rc::default(),
            instances,
            counters: Rc::default(),
            is_cut: Cell::default(),
            settings,
            _keeping: keeping.stop_on_drop(),
        }))
    }

    fn health(&self) -> Health {
        let Counters { spans, rejected, segments, flushes, errors } = &*self.counters;
        self.reporter
            .health()
            .counter("spans", spans.get())
            .counter("spans-rejected", rejected.get())
            .counter("segments", segments.get())
            .counter("segments-flushed", flushes.get())
            .counter("instances", self.instances.count())
            .counter("errors", errors.get())
            .counter("errors.management", self.instances.failures())
    }

    /// Every export was answered when the server had it: nothing is left.
    async fn stop(&self, _: &Context) -> Result<(), Error> {
        Ok(())
    }
}
