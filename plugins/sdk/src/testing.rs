//! Runs plugins natively, with a host that does what the real one does.
//!
//! Time is virtual: when nothing can go on, the clock jumps to the next timer. Tests that wait for
//! an hour end at once, and nothing depends on the speed of the machine.
//!
//! ```
//! # use pintle_plugin_sdk::{Context, Description, Error, Health, NoSettings, Plugin, Start};
//! # use std::rc::Rc;
//! # struct Sink;
//! # impl Plugin for Sink {
//! #     type Settings = NoSettings;
//! #     fn description() -> Description { Description::new("0.1.0", "drops spans") }
//! #     async fn start(_: &Context, _: Start<NoSettings>) -> Result<Rc<Self>, Error> { Ok(Rc::new(Self)) }
//! #     fn health(&self) -> Health { Health::serving("ready") }
//! #     async fn stop(&self, _: &Context) -> Result<(), Error> { Ok(()) }
//! # }
//! use pintle_plugin_sdk::testing::{Host, StartOptions, run};
//!
//! run(async {
//!     let host = Host::<Sink>::start(StartOptions::default()).await.unwrap();
//!     assert_eq!(host.health().await.unwrap().message, "ready");
//!     host.stop().await.unwrap();
//! });
//! ```

mod clients;
mod executor;
#[cfg(feature = "http")]
mod http;

pub use clients::{ConfigClient, LockClient, RegistryClient, TracingClient};
pub use executor::{run, run_in_real_time};
#[cfg(feature = "http")]
pub use http::answer_http;
#[cfg(feature = "http")]
pub(crate) use http::http_answer;

pub use crate::bindings::wire::lifecycle::{Description, HealthReport, State};
pub use crate::bindings::wire::types;
pub use crate::bindings::wire::{
    config::{DeleteRequest, PutRequest, TxnRequest},
    lock::{AcquireOutcome, Lease as GrantedLease},
    registry::RegisterOutcome,
};

use crate::bindings::wire::lifecycle as wire;
use crate::config::Config;
use crate::glue::{Incarnation, PluginGlue};
use crate::lock::Lock;
use crate::registry::{Instance, Registry};
use crate::tracing::Tracing;
use crate::{Endpoint, Error, Plugin};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;
use wire::Guest as _;

thread_local! {
    static CHECKPOINT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

pub(crate) fn record_checkpoint(state: &[u8]) {
    CHECKPOINT.set(Some(state.to_vec()));
}

/// The plugin's last checkpoint on this thread.
pub fn checkpoint() -> Option<Vec<u8>> {
    CHECKPOINT.with_borrow(Clone::clone)
}

/// An instance that is enabled, at `10.0.0.1:80`, of weight 100, without a version, a zone or labels.
pub fn instance(service: &str, id: &str) -> Instance {
    Instance {
        service: service.to_owned(),
        id: id.to_owned(),
        host: "10.0.0.1".to_owned(),
        port: 80,
        version: String::new(),
        zone: None,
        weight: 100,
        enabled: true,
        labels: Vec::new(),
    }
}

/// What the host starts a plugin with.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// A JSON object.
    pub settings: serde_json::Value,
    /// Servers of the backend.
    pub endpoints: Vec<Endpoint>,
    /// The predecessor's last checkpoint.
    pub resume: Option<Vec<u8>>,
    /// The backend's name.
    pub backend: String,
    /// The host's identity.
    pub node: String,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            settings: serde_json::json!({}),
            endpoints: Vec::new(),
            resume: None,
            backend: "test".to_owned(),
            node: "node".to_owned(),
        }
    }
}

/// A host with one started incarnation of a plugin; a thread has one at a time.
pub struct Host<P> {
    calls: Rc<CallNumbers>,
    plugin: PhantomData<P>,
}

struct CallNumbers {
    last: Cell<u64>,
    timeout: Cell<Duration>,
}

impl CallNumbers {
    fn next(&self) -> types::Context {
        self.last.set(self.last.get() + 1);
        let timeout_ms = u32::try_from(self.timeout.get().as_millis()).unwrap_or(u32::MAX);
        types::Context { call_id: self.last.get(), timeout_ms, trace: Vec::new() }
    }
}

impl<P: Plugin> Host<P> {
    /// What the plugin says of itself.
    pub fn describe() -> Description {
        PluginGlue::<P>::describe()
    }

    /// Starts a fresh incarnation; the one before on this thread is gone as after a trap.
    ///
    /// # Errors
    ///
    /// What the plugin's `start` answers.
    pub async fn start(options: StartOptions) -> Result<Self, Error> {
        Incarnation::renew();
        let calls = CallNumbers { last: Cell::new(0), timeout: Cell::new(Duration::from_secs(5)) };
        let host = Self { calls: Rc::new(calls), plugin: PhantomData };
        let endpoint = |Endpoint { host, port, tls }| wire::Endpoint { host, port, tls };
        let options = wire::StartOptions {
            settings: options.settings.to_string(),
            endpoints: options.endpoints.into_iter().map(endpoint).collect(),
            resume: options.resume,
            backend: options.backend,
            node: options.node,
        };
        PluginGlue::<P>::start(host.calls.next(), options).await?;
        Ok(host)
    }

    /// Gives later calls this long; 5 s if nothing is said.
    pub fn set_timeout(&self, timeout: Duration) {
        self.calls.timeout.set(timeout);
    }

    /// The number that the next call will have, for [`cancel`](Self::cancel).
    pub fn next_call_id(&self) -> u64 {
        self.calls.last.get() + 1
    }

    /// Asks a pending call to end.
    pub fn cancel(&self, call_id: u64) {
        PluginGlue::<P>::cancel(call_id);
    }

    /// # Errors
    ///
    /// When the plugin has not started.
    pub async fn health(&self) -> Result<HealthReport, Error> {
        Ok(PluginGlue::<P>::health(self.calls.next()).await?)
    }

    /// # Errors
    ///
    /// What the plugin's `stop` answers.
    pub async fn stop(self) -> Result<(), Error> {
        Ok(PluginGlue::<P>::stop(self.calls.next()).await?)
    }

    /// Calls of `pintle:config`.
    pub fn config(&self) -> ConfigClient<P>
    where
        P: Config,
    {
        ConfigClient::new(Rc::clone(&self.calls))
    }

    /// Calls of `pintle:registry`.
    pub fn registry(&self) -> RegistryClient<P>
    where
        P: Registry,
    {
        RegistryClient::new(Rc::clone(&self.calls))
    }

    /// Calls of `pintle:lock`.
    pub fn lock(&self) -> LockClient<P>
    where
        P: Lock,
    {
        LockClient::new(Rc::clone(&self.calls))
    }

    /// Calls of `pintle:tracing`.
    pub fn tracing(&self) -> TracingClient<P>
    where
        P: Tracing,
    {
        TracingClient::new(Rc::clone(&self.calls))
    }
}
