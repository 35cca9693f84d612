//! Every limit that the host puts on a plugin, by name.
//!
//! A limit has a unit, a default, a reason, and a ceiling: an operator may change it between `least`
//! and `most`, beyond which the host itself would be at risk. Four that are changed often have keys
//! of their own in `[backends.NAME.limits]`; all others go by their name in `limits.more` there, and
//! those that concern files before any backend uses them in `[plugins.limits]`.

mod breach;
mod pace;

use std::{collections::HashMap, time::Duration};

use serde_json::{Map, Value};

use crate::settings::{
    BackendSettings, ByteSize, CpuShare, LimitSettings, duration_text, parse_duration,
};

pub(crate) use breach::{GuestLimiter, explain_trap};
pub(crate) use pace::Pace;

/// One epoch tick. Yields a plugin that computes so that others on its thread get a turn.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(5);

/// Whom a limit is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One backend, by a key of its own in `limits`.
    Named,
    /// One backend, in `limits.more`.
    Backend,
    /// Plugin files, before any backend uses them: `[plugins.limits]`.
    File,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Count,
    Time,
}

/// What there is to know of one limit; numbers are bytes, counts or nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    unit: Unit,
    #[cfg(test)]
    default: u64,
    least: u64,
    most: u64,
    /// Why there is such a limit, and why this default.
    #[cfg(test)]
    pub(crate) reason: &'static str,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const SECOND: u64 = 1_000 * MS;
const MINUTE: u64 = 60 * SECOND;

/// A field's type, made of the number that stands in the table.
trait Quantity {
    fn of(number: u64) -> Self;
}

impl Quantity for usize {
    fn of(number: u64) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl Quantity for u32 {
    fn of(number: u64) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl Quantity for u64 {
    fn of(number: u64) -> Self {
        number
    }
}

impl Quantity for Duration {
    fn of(number: u64) -> Self {
        Self::from_nanos(number)
    }
}

macro_rules! limits {
    ($($(#[doc = $reason:literal])+
        $field:ident: $type:ty = $scope:ident $unit:ident($default:expr, $least:expr, $most:expr);)*
    ) => {
        /// The limits of one backend's plugin. [`Limits::ALL`] tells of each.
        #[derive(Debug, Clone)]
        pub(crate) struct Limits {
            /// Processor time; what is above waits. A whole core is all that a store can use:
            /// clients that are measured against native ones need most of it.
            pub(crate) cpu: CpuShare,
            $($(#[doc = $reason])+ pub(crate) $field: $type,)*
        }

        impl Limits {
            /// Every limit but `cpu`.
            pub(crate) const ALL: &'static [Limit] = &[$(Limit {
                name: stringify!($field),
                scope: Scope::$scope,
                unit: Unit::$unit,
                #[cfg(test)]
                default: $default,
                least: $least,
                most: $most,
                #[cfg(test)]
                reason: concat!($($reason),+),
            },)*];

            fn set(&mut self, name: &str, number: u64) {
                match name {
                    $(stringify!($field) => self.$field = <$type>::of(number),)*
                    _ => {}
                }
            }
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { cpu: CpuShare::WHOLE_CORE, $($field: <$type>::of($default),)* }
            }
        }
    };
}

limits! {
    /// All linear memories together. Room for a thousand entries of 64 KiB in flight.
    memory_bytes: usize = Named Bytes(64 * MIB, MIB, 4 * GIB);
    /// How long a call may take where its caller names nothing else, and the most that one may name.
    call_timeout: Duration = Named Time(5 * SECOND, 10 * MS, 10 * MINUTE);
    /// Connections open at once. Each has buffers and a task.
    connections: u32 = Named Count(8, 1, 1024);

    /// How far past its timeout a call may run before the incarnation is ended: a guest needs a
    /// moment to clean up, a stuck one must not hold its callers.
    call_grace: Duration = Backend Time(SECOND, 10 * MS, MINUTE);
    /// How long `start` may take. It does not wait for servers.
    start_timeout: Duration = Backend Time(10 * SECOND, 100 * MS, 10 * MINUTE);
    /// How long `stop` may take: it releases leases on the server.
    stop_timeout: Duration = Backend Time(5 * SECOND, 100 * MS, 5 * MINUTE);
    /// Calls running inside at once; more wait in the queue. Each holds handles. Half of them may
    /// wait for locks.
    calls_running_max: usize = Backend Count(1024, 1, 4096);
    /// Calls waiting in the queue; more are refused as busy, but for watches and what the host repeats,
    /// which wait for a place. So is a call whose time is over before it begins.
    calls_queued_max: usize = Backend Count(1024, 1, 65_536);
    /// Longest run without returning to the event loop, in processor time. What a call to the host
    /// waits for does not count; that ends by the timeout of the call.
    unyielded_max: Duration = Backend Time(SECOND, 10 * MS, MINUTE);
    /// Bytes copied out of the guest by one call to or from it. A batch of spans is the largest.
    hostcall_bytes: usize = Backend Bytes(16 * MIB, 64 * KIB, 256 * MIB);
    /// Component-model handles: resources, streams, futures, calls under way.
    handles_max: usize = Backend Count(10_000, 100, 100_000);
    /// Elements in all tables. Programs of some megabytes have thousands.
    table_elements: usize = Backend Count(100_000, 1_000, 1_000_000);
    /// Core instances of one component. Adapters make several.
    core_instances: usize = Backend Count(32, 1, 256);
    /// Memories of one component. Programs have one, and an adapter perhaps another.
    memories: usize = Backend Count(2, 1, 8);
    /// Tables of one component.
    tables: usize = Backend Count(8, 1, 64);
    /// Bytes of one request for random numbers; more is cut off.
    random_bytes: u64 = Backend Bytes(64 * KIB, 32, 16 * MIB);
    /// Size of a checkpoint: it stays in the host's memory.
    checkpoint_bytes: usize = Backend Bytes(64 * KIB, KIB, MIB);
    /// Length of one log message; the rest is cut off.
    log_message_bytes: usize = Backend Bytes(8 * KIB, 128, 64 * KIB);
    /// Log bytes a second, with 64 for each line; what is over is counted and dropped.
    log_bytes_per_second: u32 = Backend Bytes(64 * KIB, KIB, 16 * MIB);
    /// Length of each text of an error or a health report; the rest is cut off.
    error_text_bytes: usize = Backend Bytes(8 * KIB, 128, MIB);
    /// Details of an error, and details and counters of a health report; more are left out.
    facts_max: usize = Backend Count(64, 1, 1024);
    /// Events asked for in one poll. An answer with more ends the incarnation.
    poll_events: u32 = Backend Count(256, 1, 65_536);
    /// Polls a second and capability; a plugin that answers faster is asked later, and what it has
    /// to say by then comes in one answer.
    polls_per_second: u32 = Backend Count(10_000, 10, 100_000);
    /// How long its thread looks out for what comes next before it sleeps, and that of one who waits alone
    /// for its answer, as long as something mostly comes: to wake it takes longer than a small call. It
    /// costs processor time, after all other threads; zero turns it off, and so does a `cpu` of less than a
    /// core, or a host that has one.
    lookout: Duration = Backend Time(500 * US, 0, 10 * MS);
    /// How long a poll waits for events; its empty answer is the heartbeat.
    poll_timeout: Duration = Backend Time(10 * SECOND, 100 * MS, MINUTE);
    /// What one watch may show, with all that belongs to its entries: it is kept in the host's
    /// memory.
    watch_bytes: usize = Backend Bytes(256 * MIB, MIB, 16 * GIB);
    /// Different names that one incarnation may look up; wildcards match without end.
    lookups_max: usize = Backend Count(1_024, 1, 65_536);
    /// Connections begun a second, after as many at once; more wait their turn. A client that
    /// reconnects does so with pauses.
    connects_per_second: u32 = Backend Count(50, 1, 10_000);
    /// From the start of a look-up to the end of the TLS handshake.
    connect_timeout: Duration = Backend Time(5 * SECOND, 100 * MS, MINUTE);
    /// HTTP requests in flight; further ones wait, at most `connect_timeout`.
    requests_max: usize = Backend Count(256, 1, 4_096);
    /// What its directory may hold, at least 4 KiB for each file. It is counted as it is written, and
    /// passing it ends the incarnation. Where a system gives files more room than was written, that is
    /// noticed within an eighth of it.
    data_bytes: u64 = Backend Bytes(8 * GIB, MIB, 16_384 * GIB);
    /// Files of its directory that are open at once, itself among them. The host has so many for
    /// everybody. Passing it ends the incarnation.
    open_files: u64 = Backend Count(64, 8, 65_536);

    /// Size of a component file. Interpreted languages bring 20 MB.
    component_bytes: u64 = File Bytes(256 * MIB, MIB, 1024 * MIB);
    /// Machine code is compiled from these bytes, and the compiler's memory grows with them.
    code_bytes: u64 = File Bytes(64 * MIB, MIB, 512 * MIB);
    /// Size of one function: time and memory of the compiler grow faster than it.
    function_bytes: u64 = File Bytes(MIB, 64 * KIB, 7 * MIB);
    /// Components and modules inside each other.
    nesting_max: u32 = File Count(16, 2, 64);
    /// How long compiling one file may take. Two are compiled at a time.
    compile_timeout: Duration = File Time(2 * MINUTE, SECOND, 30 * MINUTE);
    /// Memory of the process that compiles one file, as `pintle serve` has them compiled.
    compile_memory: u64 = File Bytes(2 * GIB, 256 * MIB, 64 * GIB);
    /// How long `describe` may take. It has nothing to wait for.
    describe_timeout: Duration = File Time(10 * SECOND, 100 * MS, 10 * MINUTE);
    /// Features that a plugin may declare.
    features_max: usize = File Count(1_024, 64, 65_536);
}

impl Limits {
    /// The limits of one backend: the defaults with what the operator chose.
    pub(crate) fn of(settings: &LimitSettings) -> Self {
        let mut limits = Self {
            memory_bytes: usize::of(settings.memory.bytes()),
            cpu: settings.cpu,
            call_timeout: settings.call,
            connections: settings.connections,
            ..Self::default()
        };
        limits.choose(Scope::Backend, &settings.more);
        limits
    }

    /// How long the plugin's thread looks out, where the host may use so many cores. What it burns is the
    /// host's, not the plugin's, so it burns nothing beside one that may not have a whole core, nor the only
    /// core.
    pub(crate) fn looks_out(&self, cores: usize) -> Duration {
        let spare = cores > 1 && self.cpu >= CpuShare::WHOLE_CORE;
        if spare { self.lookout } else { Duration::ZERO }
    }

    /// The limits of plugin files.
    pub(crate) fn of_files(chosen: &Map<String, Value>) -> Self {
        let mut limits = Self::default();
        limits.choose(Scope::File, chosen);
        limits
    }

    /// The limits under which each plugin describes itself: those of files, with what the most
    /// generous of its backends lets it consist of.
    pub(crate) fn of_plugins<'a>(
        &self,
        backends: impl IntoIterator<Item = &'a BackendSettings>,
    ) -> HashMap<String, Self> {
        let mut of_plugins = HashMap::new();
        for backend in backends {
            let limits: &mut Self =
                of_plugins.entry(backend.plugin.clone()).or_insert_with(|| self.clone());
            let granted = Self::of(&backend.limits);
            limits.memory_bytes = limits.memory_bytes.max(granted.memory_bytes);
            limits.table_elements = limits.table_elements.max(granted.table_elements);
            limits.core_instances = limits.core_instances.max(granted.core_instances);
            limits.memories = limits.memories.max(granted.memories);
            limits.tables = limits.tables.max(granted.tables);
        }
        of_plugins
    }

    /// The ceiling of a limit.
    pub(crate) fn most(name: &str) -> Option<usize> {
        let limit = Self::ALL.iter().find(|limit| limit.name == name)?;
        usize::try_from(limit.most).ok()
    }

    /// What is wrong with a limit that an operator chose, if anything is.
    pub(crate) fn problem(scope: Scope, name: &str, value: &Value) -> Option<String> {
        Limit::find(scope, name).and_then(|limit| limit.read(value).map(drop)).err()
    }

    /// Takes what is right; what is not was refused when the settings were read.
    fn choose(&mut self, scope: Scope, chosen: &Map<String, Value>) {
        for (name, value) in chosen {
            if let Ok(number) = Limit::find(scope, name).and_then(|limit| limit.read(value)) {
                self.set(name, number);
            }
        }
    }
}

impl Limit {
    fn find(scope: Scope, name: &str) -> Result<&'static Self, String> {
        let Some(limit) = Limits::ALL.iter().find(|limit| limit.name == name) else {
            let of_scope = Limits::ALL.iter().filter(|limit| limit.scope == scope);
            let known: Vec<_> = of_scope.map(|limit| limit.name).collect();
            return Err(format!("there is no such limit; there are {}", known.join(", ")));
        };
        if limit.scope == scope {
            return Ok(limit);
        }
        Err(match (limit.scope, name) {
            (Scope::File, _) => "concerns files of plugins: set it in [plugins.limits]".to_owned(),
            (Scope::Named, "memory_bytes") => "is `limits.memory` of the backend".to_owned(),
            (Scope::Named, "call_timeout") => "is `limits.call` of the backend".to_owned(),
            (Scope::Named, _) => format!("is `limits.{name}` of the backend"),
            (Scope::Backend, _) => "concerns one backend: set it in its `limits.more`".to_owned(),
        })
    }

    /// The number that an operator's value means.
    fn read(&self, value: &Value) -> Result<u64, String> {
        let text = value.as_str();
        let number = match self.unit {
            Unit::Count => value.as_u64(),
            Unit::Bytes => text.and_then(|text| text.parse().ok()).map(ByteSize::bytes),
            Unit::Time => text
                .and_then(|text| parse_duration(text).ok())
                .and_then(|time| u64::try_from(time.as_nanos()).ok()),
        };
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| {
            format!("expected {} to {}", self.text(self.least), self.text(self.most))
        })
    }

    /// A value as an operator writes it.
    fn text(&self, number: u64) -> String {
        match self.unit {
            Unit::Count => number.to_string(),
            Unit::Bytes => format!("\"{}\"", ByteSize::from_bytes(number)),
            Unit::Time => format!("\"{}\"", duration_text(Duration::from_nanos(number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/security.md");

    fn more(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn beside_a_plugin_without_a_whole_core_nothing_looks_out_nor_on_the_only_core() {
        let limits = Limits::default();
        assert_eq!(limits.looks_out(2), limits.lookout);
        assert_eq!(limits.looks_out(1), Duration::ZERO);
        let limited = Limits { cpu: CpuShare::from_millis_per_second(500), ..limits };
        assert_eq!(limited.looks_out(2), Duration::ZERO);
    }

    #[test]
    fn every_default_lies_between_the_least_and_the_most() {
        for limit in Limits::ALL {
            assert!(limit.least <= limit.default && limit.default <= limit.most, "{}", limit.name);
            assert!(!limit.reason.trim().is_empty(), "{}", limit.name);
        }
    }

    #[test]
    fn an_operator_changes_a_limit_by_its_name() {
        let settings = LimitSettings {
            more: more(r#"{"unyielded_max": "100ms", "handles_max": 500, "data_bytes": "1MiB"}"#),
            ..LimitSettings::default()
        };
        let limits = Limits::of(&settings);
        assert_eq!(limits.unyielded_max, Duration::from_millis(100));
        assert_eq!((limits.handles_max, limits.data_bytes), (500, 1 << 20));
        assert_eq!(limits.tables, Limits::default().tables);
        let files = Limits::of_files(&more(r#"{"component_bytes": "2MiB"}"#));
        assert_eq!(files.component_bytes, 2 << 20);
    }

    #[test]
    fn what_is_beyond_the_ceiling_or_unknown_is_refused_with_what_would_do() {
        let problem = |scope, name, value: Value| Limits::problem(scope, name, &value).unwrap();
        let text = problem(Scope::Backend, "unyielded_max", "2h".into());
        assert_eq!(text, "expected \"10ms\" to \"1min\"");
        assert_eq!(problem(Scope::Backend, "memories", 9.into()), "expected 1 to 8");
        assert!(problem(Scope::Backend, "speed", 9.into()).contains("unyielded_max"));
        assert!(problem(Scope::Backend, "component_bytes", 9.into()).contains("[plugins.limits]"));
        assert!(problem(Scope::Backend, "memory_bytes", 9.into()).contains("limits.memory"));
        assert!(problem(Scope::File, "handles_max", 9.into()).contains("limits.more"));
        assert_eq!(Limits::problem(Scope::Backend, "memories", &8.into()), None);
    }

    #[test]
    fn every_limit_is_documented_with_its_default_and_ceiling() {
        for limit in Limits::ALL {
            let range = format!("{} to {}", limit.text(limit.least), limit.text(limit.most));
            let row = format!(
                "| `{}` | {} | {} | {} |",
                limit.name,
                limit.text(limit.default),
                range,
                limit.reason.trim()
            );
            assert!(DOCUMENT.contains(&row), "docs/security.md lacks this row:\n{row}");
        }
    }
}
