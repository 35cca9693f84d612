//! The guest, and the smallest host that can run it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::component::{Accessor, Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::plugin::network::{
    Network, NetworkCtxView, NetworkOptions, NetworkSnapshot, NetworkView,
};
use crate::plugin::sockets::{Resolver, Resolving};

wasmtime::component::bindgen!({
    path: "../../tests/fixtures/network-probe/wit",
    world: "network-probe",
    exports: { default: async | store },
});

/// How long a test waits for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// One incarnation of the fixture.
pub(super) struct Guest {
    pub(super) store: Store<State>,
    pub(super) probe: NetworkProbe,
}

pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    pub(super) network: Network,
}

impl State {
    /// Host and TLS of the endpoints that the guest is told.
    pub(super) fn endpoints(&mut self) -> Vec<(String, bool)> {
        let endpoints = self.network.endpoints().into_iter();
        endpoints.map(|endpoint| (endpoint.host, endpoint.tls)).collect()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl NetworkView for State {
    fn network(&mut self) -> NetworkCtxView<'_> {
        NetworkCtxView { network: &mut self.network, table: &mut self.table }
    }
}

/// Runs one call of the guest to its end.
macro_rules! call {
    ($guest:expr, $function:ident($($argument:expr),*)) => {{
        let guest: &mut Guest = &mut $guest;
        let probe = &guest.probe;
        let calling = guest.store.run_concurrent(async |accessor| {
            probe.$function(accessor, $($argument),*).await.unwrap()
        });
        tokio::time::timeout(PATIENCE, calling).await.expect("the guest hangs").unwrap()
    }};
}
pub(super) use call;

impl Guest {
    pub(super) async fn start(options: NetworkOptions) -> Self {
        let (engine, component) = component();
        let mut linker = Linker::<State>::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        wasmtime_wasi::p3::cli::add_to_linker(&mut linker).unwrap();
        wasmtime_wasi::p3::clocks::add_to_linker(&mut linker).unwrap();
        super::super::add_to_linker(&mut linker).unwrap();
        let network = Network::new(options).unwrap();
        let wasi = WasiCtx::builder().build();
        let state = State { wasi, table: ResourceTable::new(), network };
        let mut store = Store::new(engine, state);
        let probe = NetworkProbe::instantiate_async(&mut store, component, &linker).await.unwrap();
        Self { store, probe }
    }

    pub(super) fn counters(&self) -> NetworkSnapshot {
        self.store.data().network.dialer.counters.snapshot()
    }

    /// Runs several calls at once.
    pub(super) async fn run<R>(
        &mut self,
        calls: impl AsyncFnOnce(&Accessor<State>, &NetworkProbe) -> R,
    ) -> R {
        let probe = &self.probe;
        let running = self.store.run_concurrent(async |accessor| calls(accessor, probe).await);
        tokio::time::timeout(PATIENCE, running).await.expect("the guest hangs").unwrap()
    }
}

/// Options for backend `main` that grant `endpoints`, with sockets on the current runtime.
pub(super) fn options(endpoints: &[&str]) -> NetworkOptions {
    let mut options = NetworkOptions::new("main", tokio::runtime::Handle::current());
    options.endpoints = endpoints.iter().map(|address| (*address).into()).collect();
    options
}

/// Names with fixed addresses.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, Vec<IpAddr>>);

impl Names {
    pub(super) fn with(names: &[(&str, &[&str])]) -> Arc<Self> {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self(
            names.iter().map(|(name, texts)| ((*name).to_owned(), addresses(texts))).collect(),
        ))
    }
}

impl Resolver for Names {
    fn resolve(&self, name: &str) -> Resolving {
        let found = self.0.get(name).cloned();
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "no such name");
        Box::pin(async move { found.ok_or_else(unknown) })
    }
}

fn component() -> &'static (Engine, Component) {
    static COMPONENT: OnceLock<(Engine, Component)> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        let engine = Engine::default();
        let component = Component::from_file(&engine, build_fixture()).unwrap();
        (engine, component)
    })
}

/// Builds the fixture beside the test that runs; cargo does nothing when it is up to date.
fn build_fixture() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--target", "wasm32-wasip2", "--profile", "guest"])
        .args(["--package", "pintle-fixture-network-probe", "--target-dir"])
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .status()
        .unwrap();
    assert!(status.success(), "the fixture does not build");
    target.join("wasm32-wasip2/guest/pintle_fixture_network_probe.wasm")
}
