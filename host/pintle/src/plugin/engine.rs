//! The wasmtime engine, its clock, and the runtime of the host.

use std::{sync::Arc, thread};

use tokio::runtime;
use wasmtime::{
    Config, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline,
    component::{HasSelf, Linker, ResourceTable},
};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::{
    bindings,
    files::{self, Files},
    guest::{CheckpointWriter, GuestState, HostImports, LogBudget},
    limits::{EPOCH_TICK, GuestLimiter, Limits},
    network::{self, Network},
    output::LastWords,
    throttle::Unyielded,
};
use crate::{clock::GuestClock, secret::Scrubber};

/// Compiles and runs components. One per host.
pub(crate) struct Engine {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<GuestState>,
    runtime: HostRuntime,
}

/// What goes on beside the plugins: lease clock, watchdogs, supervision, HTTP. Each plugin has a
/// thread of its own, so that one that computes cannot delay these.
struct HostRuntime(Option<runtime::Runtime>);

/// What a store is made for.
pub(crate) struct StoreOptions<'a> {
    pub(crate) backend: Arc<str>,
    pub(crate) limits: &'a Limits,
    pub(crate) scrubber: Arc<Scrubber>,
    pub(crate) checkpoint: CheckpointWriter,
    /// The one directory that the guest sees, at `/data`.
    pub(crate) data_dir: Option<&'a std::path::Path>,
    pub(crate) last_words: LastWords,
    /// What it may reach.
    pub(crate) network: Network,
}

impl Engine {
    /// Starts the engine with its threads.
    ///
    /// # Errors
    ///
    /// Fails where the machine does not let it: threads, address space.
    pub(crate) fn start() -> wasmtime::Result<Arc<Self>> {
        let mut config = code_config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        let wasmtime = wasmtime::Engine::new(&config)?;
        let linker = link(&wasmtime)?;
        start_ticking(&wasmtime)?;
        Ok(Arc::new(Self { wasmtime, linker, runtime: HostRuntime::start()? }))
    }

    /// Where everything runs but the plugins.
    pub(crate) fn host_runtime(&self) -> runtime::Handle {
        self.runtime.handle()
    }

    /// Makes the store of one incarnation.
    ///
    /// # Errors
    ///
    /// Fails when the data directory cannot be opened.
    pub(crate) fn store(&self, options: StoreOptions<'_>) -> wasmtime::Result<Store<GuestState>> {
        let limits = options.limits;
        let mut wasi = WasiCtxBuilder::new();
        wasi.monotonic_clock(GuestClock)
            .max_random_size(limits.random_bytes)
            .stdout(options.last_words.clone())
            .stderr(options.last_words.clone())
            // The plugin's own thread may wait for the disk: no other plugin's does.
            .allow_blocking_current_thread(true);
        if let Some(dir) = options.data_dir {
            wasi.preopened_dir(dir, "/data", FsPerms::ReadWrite)?;
        }
        let files = options.data_dir.map(|dir| Arc::new(Files::new(dir.to_owned(), limits)));
        let unyielded = Arc::new(Unyielded::default());
        let state = GuestState {
            wasi: wasi.build(),
            table: ResourceTable::new(),
            network: options.network,
            limits: GuestLimiter::new(limits, options.last_words),
            host: HostImports {
                backend: options.backend,
                scrubber: options.scrubber,
                checkpoint: options.checkpoint,
                log_budget: LogBudget::new(limits),
                message_bytes_max: limits.log_message_bytes,
                checkpoint_bytes_max: limits.checkpoint_bytes,
            },
            files,
            unyielded: Arc::clone(&unyielded),
        };
        let mut store = Store::new(&self.wasmtime, state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(limits.hostcall_bytes);
        store.set_max_component_handles(limits.handles_max);
        let unyielded_max = limits.unyielded_max;
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if unyielded.tick() >= unyielded_max {
                let ms = unyielded_max.as_millis();
                return Err(wasmtime::format_err!("computed for {ms} ms without yielding"));
            }
            Ok(UpdateDeadline::Yield(1))
        });
        Ok(store)
    }
}

/// What shapes compiled code.
pub(super) fn code_config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model_async(true).epoch_interruption(true);
    config
}

/// One more than is needed: an answer that takes its time does not delay the lease clock.
const HOST_THREADS: usize = 2;

impl HostRuntime {
    fn start() -> std::io::Result<Self> {
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(HOST_THREADS).thread_name("pintle-host");
        let runtime = runtime.enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    #[allow(clippy::expect_used, reason = "taken in `drop` only")]
    fn handle(&self) -> runtime::Handle {
        self.0.as_ref().expect("it lives as long as the engine").handle().clone()
    }
}

impl Drop for HostRuntime {
    fn drop(&mut self) {
        // Waiting here would panic inside an async caller.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn pool() -> PoolingAllocationConfig {
    let most = |name| Limits::most(name).unwrap_or(usize::MAX);
    let most_u32 = |name| u32::try_from(most(name)).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // What the limits let a component have in one module; beyond its own places the pool takes
    // nothing for it but addresses.
    pool.table_elements(most("table_elements"))
        .max_tables_per_module(most_u32("tables"))
        .max_memories_per_module(most_u32("memories"));
    pool.total_component_instances(256)
        .total_core_instances(2048)
        .total_memories(512)
        .total_tables(2048)
        .total_stacks(1024)
        .max_unused_warm_slots(8);
    pool
}

fn link(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::cli::add_to_linker(&mut linker)?;
    wasmtime_wasi::p3::clocks::add_to_linker(&mut linker)?;
    wasmtime_wasi::p3::random::add_to_linker(&mut linker)?;
    wasmtime_wasi::p3::filesystem::add_to_linker(&mut linker)?;
    files::add_to_linker(&mut linker)?;
    network::add_to_linker(&mut linker)?;
    bindings::types::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)?;
    bindings::host::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// Advances the epoch until the engine is gone.
fn start_ticking(engine: &wasmtime::Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    thread::Builder::new().name("pintle-epoch".into()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(EPOCH_TICK);
        }
    })?;
    Ok(())
}
