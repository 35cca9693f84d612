//! Every limit that the host puts on a plugin, by name.

use std::time::Duration;

use crate::settings::{CpuShare, LimitSettings};

/// Limits of one incarnation. Operators set four of them in `[backends.NAME.limits]`.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Linear memory, bytes. `memory`. Enough for a thousand entries of 64 KiB in flight.
    pub(crate) memory_bytes: usize,
    /// Processor time; what is above waits. `cpu`. A whole core is all that a store can use: clients
    /// that are measured against native ones need most of it.
    pub(crate) cpu: CpuShare,
    /// How long a call may take where its caller names nothing else. `call`.
    pub(crate) call_timeout: Duration,
    /// Connections open at once. `connections`.
    pub(crate) connections: u32,
    /// How far past its timeout a call may run before the incarnation is ended: a guest needs a
    /// moment to clean up, a stuck one must not hold its callers.
    pub(crate) call_grace: Duration,
    /// How long `start` may take. It does not wait for servers.
    pub(crate) start_timeout: Duration,
    /// How long `stop` may take: it releases leases on the server.
    pub(crate) stop_timeout: Duration,
    /// Calls running inside at once; more wait in the queue. Below wasmtime's handle limits.
    pub(crate) calls_running_max: usize,
    /// Calls waiting in the queue; more are refused as busy.
    pub(crate) calls_queued_max: usize,
    /// Longest run without returning to the event loop, in processor time.
    pub(crate) unyielded_max: Duration,
    /// Bytes copied out of the guest by one host call. An OTLP batch is the largest.
    pub(crate) hostcall_bytes: usize,
    /// Component-model handles.
    pub(crate) handles_max: usize,
    /// Elements in all tables.
    pub(crate) table_elements: usize,
    /// Core instances, memories, and tables of one component.
    pub(crate) core_instances: usize,
    /// Memories of one component.
    pub(crate) memories: usize,
    /// Tables of one component.
    pub(crate) tables: usize,
    /// Bytes of one request for random numbers.
    pub(crate) random_bytes: u64,
    /// Size of a checkpoint.
    pub(crate) checkpoint_bytes: usize,
    /// Length of one log message; the rest is cut off.
    pub(crate) log_message_bytes: usize,
    /// Log bytes a second; what is over is counted and dropped.
    pub(crate) log_bytes_per_second: u32,
    /// Events asked for in one poll.
    pub(crate) poll_events: u32,
    /// How long a poll waits for events; its empty answer is the heartbeat.
    pub(crate) poll_timeout: Duration,
    /// Size of a component file.
    pub(crate) component_bytes: u64,
}

/// One epoch tick. Yields a plugin that computes so that others on its thread get a turn.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(5);

impl Limits {
    /// The defaults with what the operator chose.
    pub(crate) fn of(settings: &LimitSettings) -> Self {
        Self {
            memory_bytes: usize::try_from(settings.memory.bytes()).unwrap_or(usize::MAX),
            cpu: settings.cpu,
            call_timeout: settings.call,
            connections: settings.connections,
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            cpu: CpuShare::WHOLE_CORE,
            call_timeout: Duration::from_secs(5),
            connections: 16,
            call_grace: Duration::from_secs(1),
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(5),
            calls_running_max: 1024,
            calls_queued_max: 1024,
            unyielded_max: Duration::from_secs(1),
            hostcall_bytes: 16 << 20,
            handles_max: 10_000,
            table_elements: 100_000,
            core_instances: 32,
            memories: 2,
            tables: 8,
            random_bytes: 64 << 10,
            checkpoint_bytes: 64 << 10,
            log_message_bytes: 8 << 10,
            log_bytes_per_second: 64 << 10,
            poll_events: 256,
            poll_timeout: Duration::from_secs(10),
            component_bytes: 256 << 20,
        }
    }
}
