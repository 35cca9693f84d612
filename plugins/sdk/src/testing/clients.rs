//! The calls of each capability, as the host makes them: through the exported functions.

use super::CallNumbers;
use crate::Error;
use crate::bindings::wire;
use crate::config::Config;
use crate::glue::{ConfigGlue, LockGlue, RegistryGlue, TracingGlue};
use crate::lock::Lock;
use crate::registry::Registry;
use crate::tracing::Tracing;
use std::marker::PhantomData;
use std::rc::Rc;

macro_rules! client {
    (
        $(#[$doc:meta])*
        $client:ident: $capability:ident through $glue:ident, $module:ident {
            $($call:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*
        }
    ) => {
        $(#[$doc])*
        pub struct $client<P> {
            calls: Rc<CallNumbers>,
            plugin: PhantomData<P>,
        }

        impl<P: $capability> $client<P> {
            pub(super) fn new(calls: Rc<CallNumbers>) -> Self {
                Self { calls, plugin: PhantomData }
            }

            $(
                /// The function of this name in the WIT package.
                ///
                /// # Errors
                ///
                /// What the plugin, or the SDK in its place, answers.
                pub async fn $call(&self, $($argument: $type),*) -> Result<$answer, Error> {
                    use wire::$module::Guest as _;
                    let cx = self.calls.next();
                    Ok($glue::<P>::$call(cx, $($argument),*).await?)
                }
            )*
        }
    };
}

/// Handles and events of a capability.
macro_rules! handles {
    ($client:ident: $capability:ident through $glue:ident, $module:ident) => {
        impl<P: $capability> $client<P> {
            /// Closes a handle.
            pub fn close(&self, id: u64) {
                use wire::$module::Guest as _;
                $glue::<P>::close(id);
            }

            /// All events that come until nothing comes for a second, of all handles.
            ///
            /// # Errors
            ///
            /// What `poll` answers.
            pub async fn events(&self) -> Result<Vec<(u64, wire::$module::Event)>, Error> {
                use wire::$module::Guest as _;
                let mut events = Vec::new();
                loop {
                    let cx = wire::types::Context { timeout_ms: 1_000, ..self.calls.next() };
                    let batch = $glue::<P>::poll(cx, 64).await?;
                    if batch.is_empty() {
                        return Ok(events);
                    }
                    events.extend(batch);
                }
            }
        }
    };
}

client! {
    /// Calls of `pintle:config`.
    ConfigClient: Config through ConfigGlue, config {
        get(key: String, options: wire::config::ReadOptions) -> Option<wire::config::Entry>;
        get_many(
            keys: Vec<String>,
            options: wire::config::ReadOptions
        ) -> Vec<Option<wire::config::Entry>>;
        list_keys(request: wire::config::ListRequest) -> wire::config::Page;
        put(request: wire::config::PutRequest) -> wire::config::PutOutcome;
        delete(request: wire::config::DeleteRequest) -> wire::config::DeleteOutcome;
        delete_prefix(prefix: String, held: Option<u64>) -> u64;
        txn(request: wire::config::TxnRequest) -> wire::config::TxnOutcome;
        history(request: wire::config::HistoryRequest) -> wire::config::HistoryPage;
        watch(id: u64, request: wire::config::WatchRequest) -> ();
        poll(events_max: u32) -> Vec<(u64, wire::config::Event)>;
    }
}
handles!(ConfigClient: Config through ConfigGlue, config);

client! {
    /// Calls of `pintle:registry`.
    RegistryClient: Registry through RegistryGlue, registry {
        register(id: u64, request: wire::registry::Registration) -> wire::registry::RegisterOutcome;
        update(id: u64, instance: wire::registry::Instance) -> ();
        deregister(id: u64) -> ();
        add(instance: wire::registry::Instance, replace: bool) -> wire::registry::AddOutcome;
        remove(service: String, id: String) -> wire::registry::RemoveOutcome;
        set_override(
            service: String,
            id: String,
            operator: Option<wire::registry::OperatorOverride>
        ) -> ();
        services(page: Option<String>, limit: u32) -> wire::registry::ServicesPage;
        instances(
            service: String,
            page: Option<String>,
            limit: u32,
            consistency: wire::types::Consistency
        ) -> wire::registry::InstancesPage;
        watch(id: u64, service: Option<String>) -> ();
        poll(events_max: u32) -> Vec<(u64, wire::registry::Event)>;
    }
}
handles!(RegistryClient: Registry through RegistryGlue, registry);

client! {
    /// Calls of `pintle:lock`.
    LockClient: Lock through LockGlue, lock {
        acquire(id: u64, request: wire::lock::AcquireRequest) -> wire::lock::AcquireOutcome;
        release(id: u64) -> bool;
        inspect(name: String) -> wire::lock::LockState;
        list_locks(prefix: String, page: Option<String>, limit: u32) -> wire::lock::LocksPage;
        force_release(name: String, claim_id: String) -> bool;
        watch(id: u64, name: String) -> ();
        poll(events_max: u32) -> Vec<(u64, wire::lock::Event)>;
    }
}
handles!(LockClient: Lock through LockGlue, lock);

client! {
    /// Calls of `pintle:tracing`.
    TracingClient: Tracing through TracingGlue, tracing {
        export(batch: Vec<u8>) -> wire::tracing::ExportResult;
        query(request: wire::tracing::QueryRequest) -> Vec<Vec<u8>>;
    }
}
