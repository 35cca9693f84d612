//! The network of a backend: everything that its guests can reach, and nothing else.
//!
//! A [`Network`] belongs to one store. It gives the guest `wasi:sockets@0.3` (TCP client and name
//! look-up) and `wasi:http@0.3` (outgoing), both through one [`Dialer`] that checks grants, resolves,
//! connects and speaks TLS. WASI 0.2 sockets are present, since standard libraries import them, and
//! refuse with a log line that says what to use instead.
//!
//! A guest's own connections live on the runtime that guests run on ([`NetworkOptions::guests`]): what
//! arrives then wakes the guest without a detour over another thread. Connecting, and HTTP, which go
//! on while no guest runs, have another ([`NetworkOptions::runtime`]).

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView};

use crate::plugin::grants::{GrantError, Grants, Target};
use crate::plugin::http::{HttpClient, HttpOptions};
use crate::plugin::sockets::{self, Dialer, Faults, Names, Resolver, SystemResolver};
use crate::plugin::tls::{TlsError, TlsSetting, TlsTable};

mod counters;

pub(crate) use counters::NetworkCounters;
pub use counters::NetworkSnapshot;

/// What the operator says about a backend's network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkOptions {
    /// The backend's name, for texts.
    pub(crate) backend: String,
    /// The servers of the backend.
    pub(crate) endpoints: Vec<EndpointOptions>,
    /// What else it may reach; see [`Grants::parse`] for the grammar.
    pub(crate) allow: Vec<String>,
    /// The port of endpoints that name none.
    pub(crate) default_port: Option<u16>,
    /// TLS for every connection of the backend, unless its endpoint says otherwise.
    pub(crate) tls: TlsSetting,
    /// How `wasi:http` requests are sent.
    pub(crate) http: HttpOptions,
    /// The limits.
    pub(crate) limits: NetworkLimits,
    /// How names are resolved.
    pub(crate) resolver: Arc<dyn Resolver>,
    /// Where connections are made, and where those of HTTP live; it needs I/O and time enabled.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Where the guest's own connections live: where it runs.
    pub(crate) guests: tokio::runtime::Handle,
    /// Where to count; shared by the incarnations of a backend.
    pub(crate) counters: Arc<NetworkCounters>,
}

/// One server of a backend.
#[derive(Clone, Debug)]
pub(crate) struct EndpointOptions {
    /// `host:port`, or `host` where there is a default port.
    pub(crate) address: String,
    /// TLS for this endpoint; the backend's when absent.
    pub(crate) tls: Option<TlsSetting>,
}

/// Bounds of a backend's network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkLimits {
    /// Connections open at once, over TCP and HTTP together.
    pub(crate) connections_max: usize,
    /// From the start of a look-up to the end of the TLS handshake.
    pub(crate) connect_timeout: Duration,
    /// Connections begun a second; more wait their turn.
    pub(crate) connects_per_second: u32,
    /// Different names that one incarnation may look up; wildcards match without end.
    pub(crate) names_max: usize,
    /// HTTP requests in flight; further ones wait, at most `connect_timeout`.
    pub(crate) requests_max: usize,
    /// Header section of one HTTP message, in bytes.
    pub(crate) header_bytes_max: usize,
    /// From sending a request to the first byte of its response, unless the guest sets its own.
    /// Longer than the long polls of the usual servers (60 s).
    pub(crate) first_byte_timeout: Duration,
    /// Between two parts of a response body, unless the guest sets its own.
    pub(crate) between_bytes_timeout: Duration,
    /// How long an HTTP connection that is not in use is kept.
    pub(crate) idle_timeout: Duration,
}

/// The endpoints as a guest gets to know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestEndpoint {
    /// Name or address.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// Whether the host speaks TLS on connections to it.
    pub(crate) tls: bool,
}

/// A backend whose network settings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum NetworkError {
    /// An entry of `endpoints` or `allow` cannot be read.
    #[error("backends.{backend}.{source}")]
    Grant {
        /// The backend.
        backend: String,
        /// What is wrong.
        source: GrantError,
    },
    /// A TLS setting is half set, or one of its files is unusable.
    #[error("backends.{backend}.{source}")]
    Tls {
        /// The backend.
        backend: String,
        /// What is wrong.
        source: TlsError,
    },
    /// The proxy's address cannot be used.
    #[error("backends.{backend}.proxy: {fault}")]
    Proxy {
        /// The backend.
        backend: String,
        /// What is wrong.
        fault: &'static str,
    },
}

/// The network of one incarnation.
pub(crate) struct Network {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) names: Names,
    http: HttpClient,
    http_context: WasiHttpCtx,
}

/// Gives a store's state access to its [`Network`].
pub(crate) trait NetworkView: Send {
    /// The network and the table that holds the guest's resources.
    fn network(&mut self) -> NetworkCtxView<'_>;
}

/// A [`Network`] with the table that holds the guest's resources.
pub(crate) struct NetworkCtxView<'a> {
    /// The network.
    pub(crate) network: &'a mut Network,
    /// The resources of the store.
    pub(crate) table: &'a mut ResourceTable,
}

/// Adds `wasi:sockets@0.3`, outgoing `wasi:http@0.3` and the refusals of WASI 0.2 sockets.
///
/// Call it after `wasmtime_wasi::p2::add_to_linker_async`, some of whose functions it replaces, and
/// without `wasmtime_wasi::p3::sockets` and `wasmtime_wasi_http::p3`.
///
/// # Errors
///
/// An interface is already in the linker.
pub(crate) fn add_to_linker<T: NetworkView + 'static>(
    linker: &mut Linker<T>,
) -> wasmtime::Result<()> {
    use wasmtime_wasi_http::p3::bindings::http::{client, types};

    sockets::add_to_linker(linker)?;
    client::add_to_linker::<T, WasiHttp>(linker, |state| state.network().http())?;
    types::add_to_linker::<T, WasiHttp>(linker, |state| state.network().http())
}

impl Network {
    /// Checks the settings, reads the files they name, and builds the network. Connects to nothing.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] names the key and what is wrong with it.
    pub(crate) fn new(options: NetworkOptions) -> Result<Self, NetworkError> {
        let backend = options.backend.clone();
        let addresses: Vec<String> =
            options.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
        let grants = Grants::parse(&backend, &addresses, &options.allow, options.default_port)
            .map_err(|source| NetworkError::Grant { backend: backend.clone(), source })?;
        let overrides = grants.endpoints().iter().cloned().zip(&options.endpoints).filter_map(
            |(target, endpoint)| endpoint.tls.as_ref().map(|setting| (target, setting)),
        );
        let tls = TlsTable::new(&options.tls, overrides)
            .map_err(|source| NetworkError::Tls { backend: backend.clone(), source })?;
        let http_options = options.http.clone();
        let limits = options.limits.clone();
        let dialer = Arc::new(Dialer::new(options, grants, tls));
        let http = HttpClient::new(Arc::clone(&dialer), &http_options)
            .map_err(|fault| NetworkError::Proxy { backend, fault })?;
        let mut http_context = WasiHttpCtx::new();
        http_context.set_field_size_limit(limits.header_bytes_max);
        Ok(Self { names: Names::new(limits.names_max), dialer, http, http_context })
    }

    /// Lets `faults` happen to all connections that are made from now on. Once per network.
    pub(crate) fn expose_to(&self, faults: &Arc<Faults>) {
        self.dialer.faults.get_or_init(|| Arc::clone(faults));
    }

    /// The endpoints in the operator's order, for the guest's `start`.
    pub(crate) fn endpoints(&self) -> Vec<GuestEndpoint> {
        let describe = |target: &Target| GuestEndpoint {
            host: target.host.to_string(),
            port: target.port,
            tls: self.dialer.tls.client_for(target).is_some(),
        };
        self.dialer.grants.endpoints().iter().map(describe).collect()
    }
}

impl<'a> NetworkCtxView<'a> {
    /// What `wasmtime_wasi_http` needs.
    pub(crate) fn http(self) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView {
            hooks: &mut self.network.http,
            table: self.table,
            ctx: &mut self.network.http_context,
        }
    }
}

impl NetworkOptions {
    /// Options that grant nothing, for `backend`, with sockets on `runtime`.
    pub(crate) fn new(backend: impl Into<String>, runtime: tokio::runtime::Handle) -> Self {
        Self {
            backend: backend.into(),
            endpoints: Vec::new(),
            allow: Vec::new(),
            default_port: None,
            tls: TlsSetting::Off,
            http: HttpOptions::default(),
            limits: NetworkLimits::default(),
            resolver: Arc::new(SystemResolver),
            guests: runtime.clone(),
            runtime,
            counters: Arc::default(),
        }
    }
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            connect_timeout: Duration::from_secs(5),
            connects_per_second: 50,
            names_max: 1024,
            requests_max: 256,
            header_bytes_max: 64 * 1024,
            first_byte_timeout: Duration::from_secs(120),
            between_bytes_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

impl From<String> for EndpointOptions {
    fn from(address: String) -> Self {
        Self { address, tls: None }
    }
}

impl From<&str> for EndpointOptions {
    fn from(address: &str) -> Self {
        Self::from(address.to_owned())
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Network").field("backend", &self.dialer.backend).finish()
    }
}

#[cfg(test)]
mod tests;
