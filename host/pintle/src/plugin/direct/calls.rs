//! Every function of the interface, as a method.

use std::time::Instant;

use super::{
    Call, Failure, Incarnation, Spoken, config, lifecycle, lock, record::brief, registry, tracing,
    types::Consistency,
};
use crate::plugin::loader::Exports;

macro_rules! calls {
    ($found:path; $(
        $(#[$doc:meta])*
        $name:literal $method:ident = $function:ident($($argument:ident: $type:ty),*) -> $answer:ty;
    )*) => {
        impl Incarnation {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                ///
                /// The plugin's own, or that it ended.
                pub async fn $method(
                    &self,
                    call: Call,
                    $($argument: $type),*
                ) -> Result<$answer, Failure> {
                    let at = Instant::now();
                    let told = self.recorder.as_ref().map(|_| brief(&($(&$argument,)*)));
                    let answer = self.call($name, call, move |accessor, exports, context| {
                        Box::pin(async move {
                            let guest = $found(exports)
                                .ok_or_else(|| wasmtime::format_err!("it is not exported"))?;
                            guest.$function(accessor, context $(, $argument)*).await
                        })
                    });
                    let answer = answer.await;
                    if let (Some(recorder), Some(told)) = (&self.recorder, told) {
                        let answered = match &answer {
                            Ok(answer) => brief(answer),
                            Err(failure) => failure.to_string(),
                        };
                        let asked = format!(concat!($name, "{}"), told);
                        recorder(Spoken { at, took: at.elapsed(), asked, answered });
                    }
                    answer
                }
            )*
        }
    };
}

fn lifecycle(exports: &Exports) -> Option<&lifecycle::Guest> {
    Some(&exports.lifecycle)
}

fn config(exports: &Exports) -> Option<&config::Guest> {
    exports.config.as_ref()
}

fn registry(exports: &Exports) -> Option<&registry::Guest> {
    exports.registry.as_ref()
}

fn lock(exports: &Exports) -> Option<&lock::Guest> {
    exports.lock.as_ref()
}

fn tracing(exports: &Exports) -> Option<&tracing::Guest> {
    exports.tracing.as_ref()
}

calls! { lifecycle;
    /// Called by [`super::Bench::start`] and by nobody else.
    "lifecycle.start" start = call_start(options: lifecycle::StartOptions) -> ();
    /// How it says it is.
    "lifecycle.health" health = call_health() -> lifecycle::HealthReport;
    /// Afterwards nothing of it is left on the server.
    "lifecycle.stop" stop = call_stop() -> ();
}

calls! { config;
    /// Reads one key.
    "config.get" config_get = call_get(key: String, options: config::ReadOptions)
        -> Option<config::Entry>;
    /// Reads several keys.
    "config.get-many" config_get_many =
        call_get_many(keys: Vec<String>, options: config::ReadOptions)
        -> Vec<Option<config::Entry>>;
    /// Lists a page of keys.
    "config.list-keys" config_list = call_list_keys(request: config::ListRequest) -> config::Page;
    /// Writes one key.
    "config.put" config_put = call_put(request: config::PutRequest) -> config::PutOutcome;
    /// Deletes one key.
    "config.delete" config_delete =
        call_delete(request: config::DeleteRequest) -> config::DeleteOutcome;
    /// Deletes everything below a prefix.
    "config.delete-prefix" config_delete_prefix =
        call_delete_prefix(prefix: String, held: Option<u64>) -> u64;
    /// Does several things at once.
    "config.txn" config_txn = call_txn(request: config::TxnRequest) -> config::TxnOutcome;
    /// Reads a page of a key's past.
    "config.history" config_history =
        call_history(request: config::HistoryRequest) -> config::HistoryPage;
    /// Opens a watch.
    "config.watch" config_watch = call_watch(id: u64, request: config::WatchRequest) -> ();
    /// Fetches events.
    "config.poll" config_poll = call_poll(events_max: u32) -> Vec<(u64, config::Event)>;
}

calls! { registry;
    /// Registers an instance.
    "registry.register" registry_register =
        call_register(id: u64, registration: registry::Registration) -> registry::RegisterOutcome;
    /// Replaces what an instance says of itself.
    "registry.update" registry_update = call_update(id: u64, instance: registry::Instance) -> ();
    /// Ends a registration.
    "registry.deregister" registry_deregister = call_deregister(id: u64) -> ();
    /// Stores a persistent instance.
    "registry.add" registry_add =
        call_add(instance: registry::Instance, replace: bool) -> registry::AddOutcome;
    /// Removes a persistent instance.
    "registry.remove" registry_remove =
        call_remove(service: String, instance: String) -> registry::RemoveOutcome;
    /// Sets or clears what an operator says.
    "registry.set-override" registry_set_override = call_set_override(
        service: String,
        instance: String,
        operator: Option<registry::OperatorOverride>
    ) -> ();
    /// Lists a page of services.
    "registry.services" registry_services =
        call_services(page: Option<String>, limit: u32) -> registry::ServicesPage;
    /// Lists a page of instances.
    "registry.instances" registry_instances = call_instances(
        service: String,
        page: Option<String>,
        limit: u32,
        consistency: Consistency
    ) -> registry::InstancesPage;
    /// Opens a watch.
    "registry.watch" registry_watch = call_watch(id: u64, service: Option<String>) -> ();
    /// Fetches events.
    "registry.poll" registry_poll = call_poll(events_max: u32) -> Vec<(u64, registry::Event)>;
}

calls! { lock;
    /// Asks for a lease.
    "lock.acquire" lock_acquire =
        call_acquire(id: u64, request: lock::AcquireRequest) -> lock::AcquireOutcome;
    /// Ends a lease.
    "lock.release" lock_release = call_release(id: u64) -> bool;
    /// Names holders and waiters.
    "lock.inspect" lock_inspect = call_inspect(name: String) -> lock::LockState;
    /// Lists a page of locks.
    "lock.list-locks" lock_list =
        call_list_locks(prefix: String, page: Option<String>, limit: u32) -> lock::LocksPage;
    /// Takes a claim away.
    "lock.force-release" lock_force_release =
        call_force_release(name: String, claim_id: String) -> bool;
    /// Opens a watch on one lock.
    "lock.watch" lock_watch = call_watch(id: u64, name: String) -> ();
    /// Fetches events.
    "lock.poll" lock_poll = call_poll(events_max: u32) -> Vec<(u64, lock::Event)>;
}

calls! { tracing;
    /// Delivers spans.
    "tracing.export" tracing_export = call_export(batch: Vec<u8>) -> tracing::ExportResult;
    /// Reads traces back.
    "tracing.query" tracing_query = call_query(request: tracing::QueryRequest) -> Vec<Vec<u8>>;
}

macro_rules! closes {
    ($($(#[$doc:meta])* $method:ident = $capability:ident;)*) => {
        impl Incarnation {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                ///
                /// Its queue of calls is full.
                pub fn $method(&self, id: u64) -> Result<(), Failure> {
                    self.post(move |accessor, exports| {
                        Box::pin(async move {
                            let guest = $capability(exports)
                                .ok_or_else(|| wasmtime::format_err!("it is not exported"))?;
                            guest.call_close(accessor, id).await
                        })
                    })
                }
            )*
        }
    };
}

closes! {
    /// Ends a watch.
    config_close = config;
    /// Ends a watch or a registration.
    registry_close = registry;
    /// Ends a watch or a lease.
    lock_close = lock;
}

impl Incarnation {
    /// Asks a call to end soon.
    ///
    /// # Errors
    ///
    /// Its queue of calls is full.
    pub fn cancel(&self, call: Call) -> Result<(), Failure> {
        self.post(move |accessor, exports| {
            Box::pin(async move { exports.lifecycle.call_cancel(accessor, call.id).await })
        })
    }
}
