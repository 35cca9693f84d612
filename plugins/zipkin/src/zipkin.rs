//! The plugin: what it offers, how it starts and stops, how it is.

use crate::settings::Settings;
use pintle_plugin_sdk::http::{HeaderMap, Servers};
use pintle_plugin_sdk::{Context, Description, Error, Health, Plugin, Start};
use std::cell::Cell;
use std::rc::Rc;

/// Zipkin as a backend.
pub struct Zipkin {
    pub(crate) settings: Settings,
    pub(crate) headers: HeaderMap,
    pub(crate) servers: Servers,
    pub(crate) counters: Counters,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) spans: Cell<u64>,
    pub(crate) rejected: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    pub(crate) errors: Cell<u64>,
}

impl Counters {
    pub(crate) fn add(counter: &Cell<u64>, number: u64) {
        counter.set(counter.get().saturating_add(number));
    }
}

impl Plugin for Zipkin {
    type Settings = Settings;

    fn description() -> Description {
        Description::new(env!("CARGO_PKG_VERSION"), "Traces to Zipkin 2 or later, over HTTP")
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        let headers = start.settings.headers()?;
        let servers = Servers::new(start.endpoints)?;
        let counters = Counters::default();
        Ok(Rc::new(Self { settings: start.settings, headers, servers, counters }))
    }

    fn health(&self) -> Health {
        let endpoint = self.servers.current().to_string();
        let health = match self.servers.trouble() {
            Some(trouble) => Health::unavailable(trouble),
            None if self.servers.answered() == 0 => Health::serving("nothing was sent yet"),
            None => Health::serving(format!("{endpoint} takes spans")),
        };
        let Counters { spans, rejected, bytes_out, errors } = &self.counters;
        health
            .detail("endpoint", endpoint)
            .counter("spans", spans.get())
            .counter("spans-rejected", rejected.get())
            .counter("requests", self.servers.answered())
            .counter("reconnects", self.servers.moves())
            .counter("errors", errors.get())
            .counter("bytes-out", bytes_out.get())
    }

    /// Every export was answered when the server had it: nothing is left.
    async fn stop(&self, _: &Context) -> Result<(), Error> {
        Ok(())
    }
}
