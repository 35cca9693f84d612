//! The plugin: what it offers, how it starts and stops, how it is.

use crate::grpc::GrpcWay;
use crate::http::HttpWay;
use crate::settings::{Protocol, Settings};
use pintle_plugin_sdk::{Context, Description, Error, Health, Plugin, Start};
use std::cell::Cell;
use std::rc::Rc;

/// A receiver of OTLP as a backend.
pub struct Otlp {
    pub(crate) way: Way,
    pub(crate) spans: Cell<u64>,
    pub(crate) rejected: Cell<u64>,
    pub(crate) errors: Cell<u64>,
}

pub(crate) enum Way {
    Grpc(GrpcWay),
    Http(HttpWay),
}

impl Plugin for Otlp {
    type Settings = Settings;

    fn description() -> Description {
        let summary = "Traces to any receiver of OTLP, over gRPC or HTTP";
        Description::new(env!("CARGO_PKG_VERSION"), summary)
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        let settings = start.settings;
        settings.check()?;
        let way = match settings.protocol {
            Protocol::Grpc => Way::Grpc(GrpcWay::start(start.endpoints, &settings)?),
            Protocol::Http => Way::Http(HttpWay::start(start.endpoints, &settings)?),
        };
        let (spans, rejected, errors) = Default::default();
        Ok(Rc::new(Self { way, spans, rejected, errors }))
    }

    fn health(&self) -> Health {
        let health = match &self.way {
            Way::Grpc(way) => way.health(),
            Way::Http(way) => way.health(),
        };
        health
            .counter("spans", self.spans.get())
            .counter("spans-rejected", self.rejected.get())
            .counter("errors", self.errors.get())
    }

    /// Every export was answered when the receiver had it: nothing is left.
    async fn stop(&self, _: &Context) -> Result<(), Error> {
        Ok(())
    }
}
