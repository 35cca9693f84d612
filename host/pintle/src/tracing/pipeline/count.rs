//! What became of spans, in numbers.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// As many different reasons are told apart; sinks are free in their words.
const REASONS_MAX: usize = 32;
/// Longest reason, in characters.
const REASON_LEN_MAX: usize = 160;

/// Why this host dropped spans.
pub mod reason {
    /// The sink's queue had no room.
    pub const QUEUE_FULL: &str = "queue-full";
    /// The sink could not take them for as long as they were tried again.
    pub const RETRIES: &str = "retries-exhausted";
    /// One span alone is larger than the sink takes.
    pub const TOO_LARGE: &str = "too-large";
    /// The plugin ended over them, again and again.
    pub const PLUGIN_ENDED: &str = "plugin-ended";
    /// The sink did not say what became of them.
    pub const UNACCOUNTED: &str = "unaccounted";
    /// The host was shut down before they were delivered.
    pub const SHUTDOWN: &str = "shutdown";
    /// Sampling is switched off.
    pub const NEVER: &str = "never";
    /// The trace is not in the part that is kept.
    pub const RATIO: &str = "ratio";
    /// Reasons beyond those that are told apart.
    pub const OTHER: &str = "other";
}

/// Spans by reason, a bounded number of reasons.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub(super) fn add(&mut self, reason: &str, spans: u64) {
        if spans == 0 {
            return;
        }
        if let Some(count) = self.0.get_mut(reason) {
            *count += spans;
            return;
        }
        let reason: String = reason
            .chars()
            .map(|character| if character.is_control() { ' ' } else { character })
            .take(REASON_LEN_MAX)
            .collect();
        let has_room = self.0.contains_key(&reason) || self.0.len() < REASONS_MAX;
        let reason = if has_room { reason } else { reason::OTHER.to_owned() };
        *self.0.entry(reason).or_default() += spans;
    }

    pub(super) fn to_map(&self) -> BTreeMap<String, u64> {
        self.0.clone()
    }
}

#[derive(Debug)]
pub(super) struct SinkCounts {
    pub(super) delivered: u64,
    pub(super) rejected: Tally,
    pub(super) dropped: Tally,
    pub(super) batches: u64,
    pub(super) retries: u64,
    pub(super) last_error: Option<String>,
    /// Changes whenever something was settled.
    pub(super) settled: watch::Sender<u64>,
}

impl Default for SinkCounts {
    fn default() -> Self {
        Self {
            delivered: 0,
            rejected: Tally::default(),
            dropped: Tally::default(),
            batches: 0,
            retries: 0,
            last_error: None,
            settled: watch::Sender::new(0),
        }
    }
}

impl SinkCounts {
    pub(super) fn note_settled(&self) {
        self.settled.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn status(&self, name: &str, pending: u64, pending_bytes: u64) -> SinkStatus {
        SinkStatus {
            backend: name.to_owned(),
            delivered: self.delivered,
            rejected: self.rejected.to_map(),
            dropped: self.dropped.to_map(),
            pending,
            pending_bytes,
            batches: self.batches,
            retries: self.retries,
            last_error: self.last_error.clone(),
        }
    }
}

/// What came in and what became of it, at one moment. See [`adds_up`](Self::adds_up).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipelineStatus {
    /// Spans that came in.
    pub received: u64,
    /// Spans of requests that were not taken, because no sink had room, and are to be sent again;
    /// not in `received`.
    pub turned_away: u64,
    /// Spans that are none, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Spans that were not chosen, by reason.
    pub sampled_out: BTreeMap<String, u64>,
    /// Spans that were passed on, to every sink.
    pub passed: u64,
    /// What became of them.
    pub sinks: Vec<SinkStatus>,
}

/// What became of the spans that were passed on to one sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkStatus {
    /// The backend.
    pub backend: String,
    /// Spans that it took.
    pub delivered: u64,
    /// Spans that it refused, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Spans that this host dropped, by [`reason`].
    pub dropped: BTreeMap<String, u64>,
    /// Spans that wait or are under way.
    pub pending: u64,
    /// Bytes of them.
    pub pending_bytes: u64,
    /// Exports that were answered.
    pub batches: u64,
    /// Exports that were tried again.
    pub retries: u64,
    /// Why the last export failed, unless one succeeded since.
    pub last_error: Option<String>,
}

impl PipelineStatus {
    /// Whether every span is in exactly one place: always.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let taken = sum(&self.rejected) + sum(&self.sampled_out) + self.passed;
        taken == self.received && self.sinks.iter().all(|sink| sink.total() == self.passed)
    }
}

impl SinkStatus {
    /// All spans that were passed on to it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.delivered + sum(&self.rejected) + sum(&self.dropped) + self.pending
    }
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_and_no_span_is_forgotten() {
        let mut tally = Tally::default();
        for number in 0..1_000 {
            tally.add(&format!("reason {number}\n{}", "x".repeat(500)), 2);
        }
        let map = tally.to_map();
        assert!(map.len() <= REASONS_MAX + 1);
        assert_eq!(sum(&map), 2_000);
        assert!(map.keys().all(|reason| reason.chars().count() <= REASON_LEN_MAX));
        assert!(!map.keys().any(|reason| reason.contains('\n')));
    }
}
