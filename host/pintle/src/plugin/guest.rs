//! What a plugin's store holds on the host's side, and the imports that it may call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    bindings::host,
    files::Files,
    limits::{GuestLimiter, Limits},
    network::{Network, NetworkCtxView, NetworkView},
    throttle::Unyielded,
};
use crate::secret::Scrubber;

/// State behind one `Store`.
pub(crate) struct GuestState {
    pub(crate) wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    pub(crate) network: Network,
    pub(crate) limits: GuestLimiter,
    pub(crate) host: HostImports,
    /// Without a directory there is nothing to open.
    pub(crate) files: Option<Arc<Files>>,
    pub(crate) unyielded: Arc<Unyielded>,
}

/// Implements `pintle:plugin/host`.
pub(crate) struct HostImports {
    pub(crate) backend: Arc<str>,
    pub(crate) scrubber: Arc<Scrubber>,
    pub(crate) checkpoint: CheckpointWriter,
    pub(crate) log_budget: LogBudget,
    pub(crate) message_bytes_max: usize,
    pub(crate) checkpoint_bytes_max: usize,
}

/// The last state that an incarnation handed over for its successor. A secret: never printed.
#[derive(Default)]
pub(crate) struct Checkpoint(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    state: Option<Vec<u8>>,
    /// Number of the one who may write.
    writer: u64,
}

/// Lets one incarnation write its checkpoint, until its successor has a writer of its own.
pub(crate) struct CheckpointWriter {
    checkpoint: Arc<Checkpoint>,
    number: u64,
}

impl Checkpoint {
    /// Lets the next incarnation write, and no earlier one any more.
    pub(crate) fn writer(self: &Arc<Self>) -> CheckpointWriter {
        let mut kept = self.lock();
        kept.writer += 1;
        CheckpointWriter { checkpoint: Arc::clone(self), number: kept.writer }
    }

    pub(crate) fn load(&self) -> Option<Vec<u8>> {
        self.lock().state.clone()
    }

    /// Puts back what was there before, whatever was written since.
    pub(crate) fn restore(&self, state: Option<Vec<u8>>) {
        self.lock().state = state;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckpointWriter {
    fn store(&self, state: Vec<u8>) {
        let mut kept = self.checkpoint.lock();
        if kept.writer == self.number {
            kept.state = Some(state);
        }
    }
}

/// What a line costs beside its text: without it, a flood of empty lines would be free.
const LINE_BYTES: usize = 64;

/// Token bucket over the bytes that a plugin logs.
pub(crate) struct LogBudget {
    bytes_per_second: u32,
    left: f64,
    refilled: Instant,
    dropped: u64,
}

impl LogBudget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes_per_second: limits.log_bytes_per_second,
            left: f64::from(limits.log_bytes_per_second),
            refilled: Instant::now(),
            dropped: 0,
        }
    }

    /// Whether a line of `len` bytes may be logged now; with it, how many messages were dropped
    /// since the last one that could. A longer one than a second's worth takes all of that.
    pub(crate) fn take(&mut self, len: usize) -> Option<u64> {
        let now = Instant::now();
        let rate = f64::from(self.bytes_per_second);
        let refill = now.duration_since(self.refilled).as_secs_f64() * rate;
        self.left = (self.left + refill).min(rate);
        self.refilled = now;
        #[allow(clippy::cast_precision_loss, reason = "only lengths below the rate count")]
        let len = ((len + LINE_BYTES) as f64).min(rate);
        if len > self.left {
            self.dropped += 1;
            return None;
        }
        self.left -= len;
        Some(std::mem::take(&mut self.dropped))
    }
}

impl HostImports {
    /// Writes one line of the plugin to the host's log.
    pub(crate) fn write_log(
        &mut self,
        level: host::Level,
        message: &str,
        fields: &[(String, String)],
    ) {
        let cut = self.message_bytes_max;
        let len = fields.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        let Some(dropped) = self.log_budget.take(message.len() + len) else { return };
        let mut text = printable(&self.scrubber.scrub_head(message, cut), cut);
        for (name, value) in fields {
            let left = cut.saturating_sub(text.len());
            if left == 0 {
                break;
            }
            let (name, value) =
                (self.scrubber.scrub_head(name, left), self.scrubber.scrub_head(value, left));
            text.push_str(&printable(&format!(" {name}={value}"), left));
        }
        let backend = &*self.backend;
        if dropped > 0 {
            tracing::warn!(target: "pintle::plugin", backend, dropped, "messages over the log rate were dropped");
        }
        // Once more, for one that was taken apart: its pieces stand together now.
        let text = self.scrubber.scrub(&text);
        match level {
            host::Level::Trace => tracing::trace!(target: "pintle::plugin", backend, "{text}"),
            host::Level::Debug => tracing::debug!(target: "pintle::plugin", backend, "{text}"),
            host::Level::Info => tracing::info!(target: "pintle::plugin", backend, "{text}"),
            host::Level::Warn => tracing::warn!(target: "pintle::plugin", backend, "{text}"),
            host::Level::Error => tracing::error!(target: "pintle::plugin", backend, "{text}"),
        }
    }
}

impl host::Host for GuestState {
    fn log(
        &mut self,
        level: host::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.host.write_log(level, &message, &fields);
        Ok(())
    }

    fn checkpoint(&mut self, state: Vec<u8>) -> wasmtime::Result<()> {
        let max = self.host.checkpoint_bytes_max;
        if state.len() > max {
            let len = state.len();
            return Err(wasmtime::format_err!("checkpoint of {len} bytes; the limit is {max}"));
        }
        self.host.checkpoint.store(state);
        Ok(())
    }
}

impl super::bindings::types::Host for GuestState {}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl NetworkView for GuestState {
    fn network(&mut self) -> NetworkCtxView<'_> {
        NetworkCtxView { network: &mut self.network, table: &mut self.table }
    }
}

/// `text` cut to `len_max` bytes, control characters escaped so that a plugin cannot forge lines.
pub(super) fn printable(text: &str, len_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(len_max));
    for character in text.chars() {
        if out.len() + character.len_utf8() > len_max {
            out.push('…');
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_log_line() {
        assert_eq!(printable("a\nb\u{1b}[31m", 100), "a\\nb\\u{1b}[31m");
    }

    #[test]
    fn a_message_is_cut_at_its_limit_between_characters() {
        assert_eq!(printable("äöü", 4), "äö…");
    }

    #[test]
    fn what_an_incarnation_hands_over_after_its_end_is_not_for_its_successor() {
        let checkpoint = Arc::new(Checkpoint::default());
        let first = checkpoint.writer();
        first.store(b"first".to_vec());
        let second = checkpoint.writer();
        first.store(b"late".to_vec());
        assert_eq!(checkpoint.load().as_deref(), Some(&b"first"[..]));
        second.store(b"second".to_vec());
        assert_eq!(checkpoint.load().as_deref(), Some(&b"second"[..]));
    }

    #[test]
    fn a_flood_of_log_lines_is_dropped_and_counted() {
        let limits = Limits { log_bytes_per_second: 100, ..Limits::default() };
        let mut budget = LogBudget::new(&limits);
        assert_eq!(budget.take(10), Some(0));
        // An empty line costs something too.
        assert_eq!(budget.take(0), None);
        budget.refilled -= std::time::Duration::from_secs(5);
        assert_eq!(budget.take(10), Some(1));
    }

    #[test]
    fn a_long_message_takes_what_it_is_long_and_not_what_is_shown_of_it() {
        let limits = Limits { log_bytes_per_second: 1000, ..Limits::default() };
        let mut budget = LogBudget::new(&limits);
        assert_eq!(budget.take(16 << 20), Some(0));
        assert_eq!(budget.take(10), None);
    }
}
