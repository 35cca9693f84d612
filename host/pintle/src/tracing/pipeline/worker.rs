//! One export after the other to one sink.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use pintle_otlp::Writer;
use tokio::time::Instant;

use super::{
    Failure, Inner, Remedy, Sink,
    count::reason,
    queue::{Queued, Ready, Room},
    to_u64,
};
use crate::tracing::{ExportResult, Rejection};

/// Between attempts: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(10);
/// A sink does not decide that we wait for ever.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Attempts with a batch over which the plugin ends.
const ENDS_MAX: u32 = 2;

pub(super) struct Worker {
    inner: Arc<Inner>,
    index: usize,
    sink: Arc<dyn Sink>,
}

/// What a batch, or a part of one, came to.
enum Outcome {
    Answered(ExportResult),
    Refused(String),
    Dropped(&'static str),
    Split,
}

impl Worker {
    pub(super) fn new(inner: Arc<Inner>, index: usize) -> Self {
        let sink = inner.sinks.get(index).map(Arc::clone);
        // There is a worker only where there is a sink.
        let sink = sink.unwrap_or_else(|| Arc::new(Nowhere));
        Self { inner, index, sink }
    }

    pub(super) async fn run(self) {
        while let Some(batch) = self.next().await {
            self.settle_all(batch).await;
        }
    }

    /// The next batch; none when the pipeline is closed and nothing waits.
    async fn next(&self) -> Option<Vec<Queued>> {
        let work = self.inner.work.get(self.index)?;
        loop {
            let mut notified = std::pin::pin!(work.notified());
            // From now on nothing is missed.
            notified.as_mut().enable();
            let at = {
                let mut state = self.inner.lock();
                let sink = state.sinks.get_mut(self.index)?;
                match sink.queue.ready(self.inner.ways.batch, self.inner.ways.batch_delay) {
                    Ready::Now => {
                        let batch = sink.queue.take(self.inner.ways.batch);
                        sink.under_way = sink.under_way + room_of(&batch);
                        if sink.queue.room().spans > 0 {
                            // For another worker.
                            work.notify_one();
                        }
                        return Some(batch);
                    }
                    Ready::At(due) => Some(due),
                    Ready::Empty if self.inner.closing.borrow().is_some() => return None,
                    Ready::Empty => None,
                }
            };
            match at {
                Some(due) => drop(tokio::time::timeout_at(due, notified).await),
                None => notified.await,
            }
        }
    }

    /// Delivers a batch, in parts where it is too large for the sink.
    async fn settle_all(&self, batch: Vec<Queued>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            match self.deliver(&part).await {
                Outcome::Split if part.len() > 1 => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
                Outcome::Split => self.settle(&part, &Outcome::Dropped(reason::TOO_LARGE)),
                outcome => self.settle(&part, &outcome),
            }
        }
    }

    async fn deliver(&self, spans: &[Queued]) -> Outcome {
        let mut writer = Writer::default();
        for span in spans {
            writer.add(&span.origin, &span.bytes);
        }
        let request = writer.finish();
        let begun = Instant::now();
        let mut closing = self.inner.closing.subscribe();
        let (mut pause, mut ends) = (PAUSE_FIRST, 0);
        loop {
            let exported = tokio::select! {
                biased;
                exported = self.sink.deliver(request.clone()) => exported,
                () = over(&mut closing) => return Outcome::Dropped(reason::SHUTDOWN),
            };
            let Failure { remedy, message } = match exported {
                Ok(result) => return Outcome::Answered(result),
                Err(failure) => failure,
            };
            self.note_error(&message);
            let asked = match remedy {
                Remedy::None(code) => return Outcome::Refused(code),
                Remedy::Less => return Outcome::Split,
                Remedy::Cautiously => {
                    ends += 1;
                    if ends >= ENDS_MAX {
                        return Outcome::Dropped(reason::PLUGIN_ENDED);
                    }
                    None
                }
                Remedy::Later(asked) => asked,
            };
            let wait = match asked {
                Some(asked) => asked.min(RETRY_AFTER_MAX),
                None => jittered(pause),
            };
            pause = (pause * 2).min(PAUSE_LAST);
            if begun.elapsed() + wait > self.inner.ways.retry_for {
                return Outcome::Dropped(reason::RETRIES);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = over(&mut closing) => return Outcome::Dropped(reason::SHUTDOWN),
            }
            self.with_counts(|counts| counts.retries += 1);
        }
    }

    fn note_error(&self, message: &str) {
        let first = self.with_counts(|counts| counts.last_error.replace(message.to_owned()));
        if first.flatten().is_none() {
            tracing::warn!(backend = self.sink.name(), "spans are not delivered: {message}");
        }
    }

    fn with_counts<T>(&self, act: impl FnOnce(&mut super::SinkCounts) -> T) -> Option<T> {
        let mut state = self.inner.lock();
        state.sinks.get_mut(self.index).map(|sink| act(&mut sink.counts))
    }

    /// Counts what became of spans that were under way. The numbers are made to add up, whatever the
    /// sink says.
    fn settle(&self, spans: &[Queued], outcome: &Outcome) {
        let number = to_u64(spans.len());
        let mut state = self.inner.lock();
        let Some(sink) = state.sinks.get_mut(self.index) else { return };
        sink.under_way = sink.under_way - room_of(spans);
        let counts = &mut sink.counts;
        match outcome {
            Outcome::Answered(ExportResult { accepted, rejected }) => {
                counts.batches += 1;
                counts.last_error = None;
                let mut left = number;
                for Rejection { reason, spans } in rejected {
                    let spans = (*spans).min(left);
                    left -= spans;
                    counts.rejected.add(reason, spans);
                }
                let delivered = (*accepted).min(left);
                counts.delivered += delivered;
                counts.dropped.add(reason::UNACCOUNTED, left - delivered);
            }
            Outcome::Refused(code) => counts.rejected.add(code, number),
            Outcome::Dropped(reason) => counts.dropped.add(reason, number),
            Outcome::Split => counts.dropped.add(reason::TOO_LARGE, number),
        }
        counts.note_settled();
    }
}

/// The pipeline is being closed, and its time is over.
async fn over(closing: &mut tokio::sync::watch::Receiver<Option<Instant>>) {
    let deadline = match closing.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        // The pipeline is gone.
        Err(_) => return,
    };
    tokio::time::sleep_until(deadline).await;
}

/// Between half and the whole, so that hosts do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1_000;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 2_000.0)
}

fn room_of(spans: &[Queued]) -> Room {
    Room { spans: spans.len(), bytes: spans.iter().map(Queued::weight).sum() }
}

/// Takes nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn name(&self) -> &'static str {
        "none"
    }

    fn deliver(
        &self,
        _: bytes::Bytes,
    ) -> futures::future::BoxFuture<'_, Result<ExportResult, Failure>> {
        let failure =
            Failure { remedy: Remedy::None("no-sink".into()), message: "there is no sink".into() };
        Box::pin(std::future::ready(Err(failure)))
    }
}
