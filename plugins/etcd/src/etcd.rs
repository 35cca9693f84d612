//! The plugin: what it offers, how it starts and stops, how it is.

use crate::auth::Auth;
use crate::client::{Client, Lane};
use crate::lease::{LeaseIds, Leases};
use crate::lock::Locks;
use crate::reader::Reader;
use crate::registry::Registrations;
use crate::server::ServerOptions;
use crate::settings::Settings;
use crate::watches::Watches;
use crate::wire::layout::Layout;
use pintle_plugin_sdk::link::State;
use pintle_plugin_sdk::{Context, Description, Error, Feature, Health, Plugin, Start};
use std::rc::Rc;

/// etcd as a backend.
pub struct Etcd {
    pub(crate) client: Rc<Client>,
    pub(crate) layout: Layout,
    pub(crate) reader: Reader,
    pub(crate) watches: Rc<Watches>,
    pub(crate) leases: Rc<Leases>,
    pub(crate) locks: Locks,
    pub(crate) registrations: Registrations,
    /// Names this host and backend as the keeper of registrations.
    pub(crate) owner: String,
    pub(crate) settings: Settings,
}

impl Plugin for Etcd {
    type Settings = Settings;

    fn description() -> Description {
        let summary = "Configuration, registry and locks on etcd 3.4 or later";
        Description::new(env!("CARGO_PKG_VERSION"), summary).features([
            Feature::ConfigCas,
            Feature::ConfigVersionUnique,
            Feature::ConfigTxn,
            Feature::ConfigHeld,
            Feature::ConfigHistory,
            Feature::ConfigReadAt,
            Feature::ConfigLinearizable,
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
        ])
    }

    async fn start(_: &Context, start: Start<Settings>) -> Result<Rc<Self>, Error> {
        let settings = start.settings;
        settings.check()?;
        let options =
            ServerOptions { connect_timeout: settings.connect_timeout(), http2: settings.http2() };
        let auth = Auth::new(settings.credentials());
        let client = Client::start(start.endpoints, options, auth)?;
        let layout = Layout::new(settings.root.clone());
        let ids = LeaseIds::inherit(start.resume.as_deref());
        let leases = Rc::new(Leases::new(Rc::clone(&client), ids));
        let locks = Locks::start(Rc::clone(&client), Rc::clone(&leases), layout.clone());
        Ok(Rc::new(Self {
            reader: Reader::new(Rc::clone(&client)),
            watches: Watches::new(Rc::clone(&client), layout.clone()),
            registrations: Registrations::default(),
            owner: format!("{}/{}", start.node, start.backend),
            client,
            layout,
            leases,
            locks,
            settings,
        }))
    }

    fn health(&self) -> Health {
        let health = match self.client.link(Lane::Data).map(|link| (link.state(), link)) {
            Ok((State::Connected(endpoint), link)) => {
                let health = match self.client.interruption() {
                    None => Health::serving(format!("connected to {endpoint}")),
                    Some(interruption) => Health::degraded(interruption),
                };
                let health = health.detail("endpoint", endpoint.to_string());
                match link.client_now() {
                    Some(server) => health.detail("server-version", &*server.version),
                    None => health,
                }
            }
            Ok((State::Connecting(Some(error)), _)) => Health::unavailable(error.message()),
            Ok((State::Connecting(None), _)) => Health::degraded("connecting for the first time"),
            Err(error) => Health::unavailable(error.message()),
        };
        let (counters, traffic) = (&self.client.counters, self.client.traffic());
        let mut health = health
            .detail("revision", self.client.revision_seen().to_string())
            .counter("operations", counters.operations.get())
            .counter("retries", counters.retries.get())
            .counter("reconnects", self.client.reconnects())
            .counter("resyncs", counters.resyncs.get())
            .counter("watches-opened", self.watches.opened_count())
            .counter("bytes-in", traffic.read())
            .counter("bytes-out", traffic.written());
        for (code, count) in counters.errors.borrow().iter() {
            health = health.counter(format!("errors.{code}"), *count);
        }
        health
    }

    /// The SDK has released locks and registrations; connections close with the incarnation.
    async fn stop(&self, _: &Context) -> Result<(), Error> {
        Ok(())
    }
}
