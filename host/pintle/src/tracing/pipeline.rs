//! The way of spans from those who report them to the backends that they go to.
//!
//! What comes in is checked span by span, sampled, redacted, and put into one bounded queue per
//! sink. Each sink is served on its own: batches by number, bytes and age, tried again while that
//! may help. A slow or absent sink costs the others nothing, and costs the reporter nothing.
//!
//! Every span that came in is in exactly one place at any time: refused, sampled out, or passed;
//! and what was passed is for each sink delivered, refused, dropped, or pending. All counters change
//! under one lock, so that a [`PipelineStatus`] adds up whenever it is taken.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use pintle_otlp::{
    Malformed, Origin,
    parts::{self, Parts, Piece},
    redact::Redaction,
};
use tokio::sync::{Notify, RwLock, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::{
    gate::Gate,
    queue::{Batch, Queue, Room},
    worker::Worker,
};
use super::ExportResult;
use crate::settings::{Sampling, TracingSettings};

mod count;
mod gate;
mod queue;
mod sampler;
mod worker;

#[cfg(test)]
mod tests;

pub use count::{PipelineStatus, SinkStatus, reason};
use count::{SinkCounts, Tally};

/// Exports under way to one sink at a time.
///
/// Some sinks answer late, because they wait for the rest of a trace.
const EXPORTS_MAX: usize = 16;
/// Before an export is tried again for the first time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// Takes spans and sees to it that they get to every sink. Cheap to clone; with the last clone all
/// that is still pending goes, so [`close`](Self::close) it first.
#[derive(Clone)]
pub struct Pipeline {
    inner: Arc<Inner>,
    /// Ended with the last clone.
    workers: Arc<Workers>,
}

/// A [`Pipeline`] that does not keep it going.
pub(crate) struct WeakPipeline {
    inner: Weak<Inner>,
    workers: Weak<Workers>,
}

impl WeakPipeline {
    pub(crate) fn upgrade(&self) -> Option<Pipeline> {
        Some(Pipeline { inner: self.inner.upgrade()?, workers: self.workers.upgrade()? })
    }
}

/// What the pipeline did with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Spans of the request.
    pub received: u64,
    /// Spans that cannot be passed on, by reason.
    pub rejected: Vec<(&'static str, u64)>,
}

/// Why the pipeline did not take a request. Nothing of it was counted as received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The bytes are no request.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The queue of every sink is full.
    #[error("the queues of all tracing backends are full; send it again in {} s", retry_after.as_secs())]
    Full {
        /// When to send it again.
        retry_after: Duration,
    },
    /// There is no backend that spans could go to.
    #[error("no backend takes spans: name one under `tracing` in [defaults]")]
    NoSink,
    /// The host is shutting down.
    #[error("the host is shutting down")]
    Closed,
}

/// Where batches go.
pub(crate) trait Sink: Send + Sync + 'static {
    /// The backend's name.
    fn name(&self) -> &str;

    /// Delivers one request.
    fn deliver(&self, batch: Bytes) -> BoxFuture<'_, Result<ExportResult, Failure>>;
}

/// Why a batch was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) remedy: Remedy,
    /// For a person.
    pub(crate) message: String,
}

/// What may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The same later; the sink may have said when.
    Later(Option<Duration>),
    /// The same later, and alone: the plugin ended over it, or over another that was under way.
    Cautiously,
    /// Fewer spans at once.
    Less,
    /// Nothing: the sink refuses with this code.
    None(String),
}

struct Inner {
    ways: Ways,
    sampler: sampler::Sampler,
    redaction: Redaction,
    sinks: Vec<Arc<dyn Sink>>,
    state: Mutex<State>,
    /// One for each sink: there is something to do.
    work: Vec<Notify>,
    /// Until when what is pending is still delivered, once the pipeline is being closed.
    closing: watch::Sender<Option<Instant>>,
}

/// How spans are batched and kept.
#[derive(Debug, Clone)]
struct Ways {
    queue: Room,
    batch: Room,
    batch_delay: Duration,
    retry_for: Duration,
    /// After the first failure; doubled from then on.
    pause_first: Duration,
}

impl Ways {
    fn of(settings: &TracingSettings) -> Self {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            queue: Room {
                spans: size(settings.queue_spans.into()),
                bytes: size(settings.queue_bytes.bytes()),
            },
            batch: Room {
                spans: size(settings.batch_spans.into()),
                bytes: size(settings.batch_bytes.bytes()),
            },
            batch_delay: settings.batch_delay,
            retry_for: settings.retry_for,
            pause_first: PAUSE_FIRST,
        }
    }
}

#[derive(Default)]
struct State {
    received: u64,
    turned_away: u64,
    rejected: Tally,
    sampled_out: Tally,
    passed: u64,
    sinks: Vec<SinkState>,
}

struct SinkState {
    queue: Queue,
    /// Taken out of the queue, and not settled yet.
    under_way: Room,
    /// First numbers of the batches that these spans are in.
    batches: BTreeSet<u64>,
    counts: SinkCounts,
}

struct Workers(Vec<AbortHandle>);

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Pipeline {
    /// Starts to serve the sinks on `runtime`.
    pub(crate) fn start(
        settings: &TracingSettings,
        sinks: Vec<Arc<dyn Sink>>,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        Self::start_in(Ways::of(settings), settings, sinks, runtime)
    }

    fn start_in(
        ways: Ways,
        settings: &TracingSettings,
        sinks: Vec<Arc<dyn Sink>>,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        let states = sinks.iter().map(|_| SinkState {
            queue: Queue::default(),
            under_way: Room::default(),
            batches: BTreeSet::new(),
            counts: SinkCounts::default(),
        });
        let inner = Arc::new(Inner {
            sampler: sampler::Sampler::new(settings.sampling, settings.ratio),
            redaction: Redaction::new(settings.redact.iter().map(String::as_str)),
            state: Mutex::new(State { sinks: states.collect(), ..State::default() }),
            work: sinks.iter().map(|_| Notify::new()).collect(),
            closing: watch::Sender::new(None),
            ways,
            sinks,
        });
        let mut workers = Vec::with_capacity(inner.sinks.len() * EXPORTS_MAX);
        for sink in 0..inner.sinks.len() {
            let turn = Arc::new(RwLock::new(()));
            let gate = Arc::new(Gate::new(inner.ways.pause_first));
            for _ in 0..EXPORTS_MAX {
                let (turn, gate) = (Arc::clone(&turn), Arc::clone(&gate));
                let worker = Worker::new(Arc::clone(&inner), sink, turn, gate);
                workers.push(runtime.spawn(worker.run()).abort_handle());
            }
        }
        Self { inner, workers: Arc::new(Workers(workers)) }
    }

    /// Takes one OTLP `ExportTraceServiceRequest` in protobuf. It never waits: what finds no room is
    /// dropped and counted.
    ///
    /// # Errors
    ///
    /// [`NotTaken`], but never `Full`.
    pub fn offer(&self, request: Bytes) -> Result<Taken, NotTaken> {
        self.take(request, false)
    }

    /// As [`offer`](Self::offer), for a reporter that has its spans apart already. What is in
    /// the bytes of each is not looked at again.
    ///
    /// # Errors
    ///
    /// [`NotTaken`], but neither `Full` nor `Malformed`.
    pub fn offer_parts(&self, parts: Parts) -> Result<Taken, NotTaken> {
        let bytes = parts.pieces.iter().map(|piece| piece.bytes.len()).sum();
        self.take_parts(parts, bytes, false)
    }

    /// As [`offer`](Self::offer), for a reporter that can send a request again: when no sink has room
    /// for it, it is turned away as a whole.
    ///
    /// # Errors
    ///
    /// [`NotTaken`].
    pub fn try_offer(&self, request: Bytes) -> Result<Taken, NotTaken> {
        self.take(request, true)
    }

    fn take(&self, request: Bytes, may_refuse: bool) -> Result<Taken, NotTaken> {
        if !self.has_sink() {
            return Err(NotTaken::NoSink);
        }
        let bytes = request.len();
        self.take_parts(parts::take_apart(request)?, bytes, may_refuse)
    }

    /// Takes spans whose bytes keep so many alive.
    fn take_parts(&self, parts: Parts, bytes: usize, may_refuse: bool) -> Result<Taken, NotTaken> {
        let inner = &self.inner;
        if !self.has_sink() {
            return Err(NotTaken::NoSink);
        }
        let received = parts.pieces.len() + parts.defects.len();
        let mut rejected = Vec::new();
        for defect in parts.defects {
            tally_into(&mut rejected, defect.reason(), 1);
        }
        let mut sampled_out = Vec::new();
        let mut kept = Vec::with_capacity(parts.pieces.len());
        for piece in parts.pieces {
            match inner.sampler.drops(&piece) {
                Some(reason) => tally_into(&mut sampled_out, reason, 1),
                None => kept.push(piece),
            }
        }
        let mut kept = inner.redact(kept, &mut rejected);
        queue::release_unused(&mut kept, bytes);

        let mut state = inner.lock();
        // Looked at under the lock: what is closed is swept under it.
        if inner.closing.borrow().is_some() {
            return Err(NotTaken::Closed);
        }
        let need = Room::of(&kept);
        let has_room = |sink: &SinkState| sink.room(inner.ways.queue).holds(need);
        if may_refuse && !kept.is_empty() && !state.sinks.iter().any(has_room) {
            // What never fits would be sent again for ever.
            if inner.ways.queue.holds(need) {
                state.turned_away += to_u64(received);
                return Err(NotTaken::Full { retry_after: Duration::from_secs(1) });
            }
        }
        state.received += to_u64(received);
        state.passed += to_u64(kept.len());
        for (reason, spans) in &rejected {
            state.rejected.add(reason, *spans);
        }
        for (reason, spans) in sampled_out {
            state.sampled_out.add(reason, spans);
        }
        for (sink, work) in state.sinks.iter_mut().zip(&inner.work) {
            let room = sink.room(inner.ways.queue);
            let admitted = sink.queue.push(&kept, room);
            sink.counts.dropped.add(reason::QUEUE_FULL, to_u64(kept.len() - admitted));
            if admitted > 0 {
                work.notify_one();
            }
        }
        drop(state);
        Ok(Taken { received: to_u64(received), rejected })
    }

    pub(crate) fn downgrade(&self) -> WeakPipeline {
        WeakPipeline { inner: Arc::downgrade(&self.inner), workers: Arc::downgrade(&self.workers) }
    }

    /// Whether spans go to this backend.
    pub(crate) fn goes_to(&self, backend: &str) -> bool {
        self.inner.sinks.iter().any(|sink| sink.name() == backend)
    }

    /// Whether there is anywhere that spans go to.
    #[must_use]
    pub fn has_sink(&self) -> bool {
        !self.inner.sinks.is_empty()
    }

    /// What came in and what became of it, at one moment.
    #[must_use]
    pub fn status(&self) -> PipelineStatus {
        let state = self.inner.lock();
        let sinks = self.inner.sinks.iter().zip(&state.sinks).map(|(sink, of)| {
            let pending = of.queue.room() + of.under_way;
            of.counts.status(sink.name(), to_u64(pending.spans), to_u64(pending.bytes))
        });
        PipelineStatus {
            received: state.received,
            turned_away: state.turned_away,
            rejected: state.rejected.to_map(),
            sampled_out: state.sampled_out.to_map(),
            passed: state.passed,
            sinks: sinks.collect(),
        }
    }

    /// Waits until nothing is pending that came in before.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost.
    pub async fn flush(&self) {
        let marks: Vec<u64> = {
            let mut state = self.inner.lock();
            state.sinks.iter_mut().map(|sink| sink.queue.hurry()).collect()
        };
        for ((index, mark), work) in marks.into_iter().enumerate().zip(&self.inner.work) {
            work.notify_waiters();
            work.notify_one();
            self.inner.settled(index, mark).await;
        }
    }

    /// Takes nothing more, delivers what is pending, and drops what is not delivered in time.
    pub async fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        {
            let mut state = self.inner.lock();
            self.inner.closing.send_if_modified(|closing| {
                let first = closing.is_none();
                closing.get_or_insert(deadline);
                first
            });
            for sink in &mut state.sinks {
                sink.queue.hurry();
            }
        }
        for work in &self.inner.work {
            work.notify_waiters();
            work.notify_one();
        }
        let all = async {
            for index in 0..self.inner.sinks.len() {
                self.inner.settled(index, u64::MAX).await;
            }
        };
        if tokio::time::timeout_at(deadline, all).await.is_err() {
            // Batches under way are given up by their workers at the same deadline, and settled.
            let swept = async {
                for index in 0..self.inner.sinks.len() {
                    self.inner.sweep(index);
                    self.inner.settled(index, u64::MAX).await;
                }
            };
            if tokio::time::timeout(Duration::from_secs(1), swept).await.is_err() {
                tracing::warn!("an export to a tracing backend does not end");
            }
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("status", &self.status()).finish()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn redact(&self, pieces: Vec<Piece>, rejected: &mut Vec<(&'static str, u64)>) -> Vec<Piece> {
        if self.redaction.is_empty() {
            return pieces;
        }
        let mut last: Option<(Arc<Origin>, Arc<Origin>)> = None;
        let mut redacted = Vec::with_capacity(pieces.len());
        for mut piece in pieces {
            let origin = match &last {
                Some((from, to)) if Arc::ptr_eq(from, &piece.origin) => Ok(Arc::clone(to)),
                _ => self.redact_origin(&piece.origin, last.as_ref()),
            };
            let (Ok(origin), Ok(bytes)) = (origin, self.redaction.span(piece.bytes.clone())) else {
                tally_into(rejected, parts::Defect::Malformed.reason(), 1);
                continue;
            };
            last = Some((Arc::clone(&piece.origin), Arc::clone(&origin)));
            piece.origin = origin;
            piece.bytes = bytes;
            redacted.push(piece);
        }
        redacted
    }

    /// Scopes of one resource share it also when it is redacted.
    fn redact_origin(
        &self,
        origin: &Origin,
        last: Option<&(Arc<Origin>, Arc<Origin>)>,
    ) -> Result<Arc<Origin>, Malformed> {
        let resource = match last {
            Some((from, to)) if from.resource.as_ptr_range() == origin.resource.as_ptr_range() => {
                to.resource.clone()
            }
            _ => self.redaction.resource(origin.resource.clone())?,
        };
        let scope = self.redaction.scope(origin.scope.clone())?;
        Ok(Arc::new(Origin { resource, scope }))
    }

    /// Waits until everything of a sink with a number below `mark` is settled.
    async fn settled(&self, index: usize, mark: u64) {
        let mut changed = {
            let state = self.lock();
            let Some(sink) = state.sinks.get(index) else { return };
            sink.counts.settled.subscribe()
        };
        loop {
            // Not while the channel is looked at: its sender notifies under the lock.
            let settled = self.lock().sinks.get(index).is_none_or(|sink| sink.is_settled(mark));
            if settled || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Drops what still waits for a sink, because the host is shutting down.
    fn sweep(&self, index: usize) {
        let mut state = self.lock();
        let Some(sink) = state.sinks.get_mut(index) else { return };
        let spans = sink.queue.clear();
        sink.counts.dropped.add(reason::SHUTDOWN, to_u64(spans));
        sink.counts.note_settled();
    }
}

impl SinkState {
    /// Room that is left in the queue.
    fn room(&self, all: Room) -> Room {
        all - self.queue.room() - self.under_way
    }

    /// The next batch. It is under way until it is [ended](Self::end).
    fn begin(&mut self, room: Room) -> Batch {
        let batch = self.queue.take(room);
        self.under_way = self.under_way + queue::room_of(&batch.spans);
        self.batches.insert(batch.first_number);
        batch
    }

    /// All spans of a batch are settled.
    fn end(&mut self, first_number: u64) {
        self.batches.remove(&first_number);
        self.counts.note_settled();
    }

    fn is_settled(&self, mark: u64) -> bool {
        let firsts = [self.batches.first().copied(), self.queue.first_number()];
        firsts.into_iter().flatten().all(|first| first >= mark)
    }
}

fn tally_into(list: &mut Vec<(&'static str, u64)>, reason: &'static str, spans: u64) {
    match list.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += spans,
        None => list.push((reason, spans)),
    }
}

pub(crate) fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
