//! One export after the other to one sink.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use pintle_otlp::put_together;
use tokio::{sync::RwLock, time::Instant};

use super::{
    Failure, Inner, Remedy, Sink, SinkState,
    count::reason,
    gate::Gate,
    queue::{Batch, Queued, Ready, room_of},
    to_u64,
};
use crate::tracing::{ExportResult, Rejection};

/// Longest pause between attempts, unless the sink asks for a longer one.
pub(super) const PAUSE_LAST: Duration = Duration::from_secs(10);

pub(super) struct Worker {
    inner: Arc<Inner>,
    index: usize,
    sink: Arc<dyn Sink>,
    /// Shared by the workers of a sink: held for writing by one whose export has to go alone, and for
    /// reading by all others.
    turn: Arc<RwLock<()>>,
    /// Shared by them too.
    gate: Arc<Gate>,
}

/// What a batch, or a part of one, came to.
enum Outcome {
    Answered(ExportResult),
    Refused(String),
    Dropped(&'static str),
    Split,
}

impl Worker {
    pub(super) fn new(
        inner: Arc<Inner>,
        index: usize,
        turn: Arc<RwLock<()>>,
        gate: Arc<Gate>,
    ) -> Self {
        let sink = inner.sinks.get(index).map(Arc::clone);
        // There is a worker only where there is a sink.
        let sink = sink.unwrap_or_else(|| Arc::new(Nowhere));
        Self { inner, index, sink, turn, gate }
    }

    pub(super) async fn run(self) {
        while let Some(batch) = self.next().await {
            self.settle_all(batch).await;
        }
    }

    /// The next batch; none when the pipeline is closed and nothing waits.
    async fn next(&self) -> Option<Batch> {
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
                        let batch = sink.begin(self.inner.ways.batch);
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
    async fn settle_all(&self, batch: Batch) {
        let Batch { first_number, spans } = batch;
        let mut parts = vec![spans];
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
        self.with_sink(|sink| sink.end(first_number));
    }

    async fn deliver(&self, spans: &[Queued]) -> Outcome {
        let mut closing = self.inner.closing.subscribe();
        tokio::select! {
            biased;
            () = self.gate.passed() => {}
            () = over(&mut closing) => return Outcome::Dropped(reason::SHUTDOWN),
        }
        let begun = Instant::now();
        let mut pause = self.inner.ways.pause_first;
        let mut served = self.gate.served();
        let mut is_suspect = false;
        loop {
            let exported = tokio::select! {
                biased;
                exported = self.attempt(spans, is_suspect) => exported,
                () = over(&mut closing) => return Outcome::Dropped(reason::SHUTDOWN),
            };
            let Failure { remedy, message } = match exported {
                Ok(result) => {
                    self.gate.open();
                    return Outcome::Answered(result);
                }
                Err(failure) => failure,
            };
            self.note_error(&message);
            let asked = match remedy {
                Remedy::None(code) => return Outcome::Refused(code),
                Remedy::Less => return Outcome::Split,
                // It was alone: nothing else was to blame.
                Remedy::Cautiously if is_suspect => return Outcome::Dropped(reason::PLUGIN_ENDED),
                Remedy::Cautiously => {
                    is_suspect = true;
                    None
                }
                Remedy::Later(asked) => asked,
            };
            let wait = wait(pause, asked);
            pause = (pause * 2).min(PAUSE_LAST);
            if begun.elapsed().saturating_add(wait) > self.inner.ways.retry_for {
                return Outcome::Dropped(reason::RETRIES);
            }
            let due = Instant::now() + wait;
            // While others get through it is this batch alone that has to wait.
            let before = std::mem::replace(&mut served, self.gate.served());
            if before == served {
                self.gate.shut(wait);
                pause = self.inner.ways.pause_first;
            }
            let again = async {
                self.gate.passed().await;
                tokio::time::sleep_until(due).await;
            };
            tokio::select! {
                () = again => {}
                () = tokio::time::sleep_until(begun + self.inner.ways.retry_for) => {
                    return Outcome::Dropped(reason::RETRIES);
                }
                () = over(&mut closing) => return Outcome::Dropped(reason::SHUTDOWN),
            }
            self.with_sink(|sink| sink.counts.retries += 1);
        }
    }

    /// Delivers spans once. Over one request of many under way a plugin ends for all of them;
    /// which one it was shows when each goes alone.
    async fn attempt(&self, spans: &[Queued], alone: bool) -> Result<ExportResult, Failure> {
        let (_alone, _shared);
        if alone {
            _alone = self.turn.write().await;
        } else {
            _shared = self.turn.read().await;
        }
        // Kept by nobody else, so that it is handed to the plugin without a copy.
        self.sink.deliver(put_together(spans.iter().map(Queued::part))).await
    }

    fn note_error(&self, message: &str) {
        let first = self.with_sink(|sink| sink.counts.last_error.replace(message.to_owned()));
        if first.flatten().is_none() {
            tracing::warn!(backend = self.sink.name(), "spans are not delivered: {message}");
        }
    }

    fn with_sink<T>(&self, act: impl FnOnce(&mut SinkState) -> T) -> Option<T> {
        self.inner.lock().sinks.get_mut(self.index).map(act)
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

/// How long to wait before the next attempt. A sink may ask for more than we wait of our own accord,
/// never for less: it would get one attempt after the other.
fn wait(pause: Duration, asked: Option<Duration>) -> Duration {
    jittered(pause).max(asked.unwrap_or_default())
}

/// Between half and the whole, so that hosts do not come back together.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1_000;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 2_000.0)
}

/// Takes nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn name(&self) -> &'static str {
        "none"
    }

    fn deliver(&self, _: Bytes) -> futures::future::BoxFuture<'_, Result<ExportResult, Failure>> {
        let failure =
            Failure { remedy: Remedy::None("no-sink".into()), message: "there is no sink".into() };
        Box::pin(std::future::ready(Err(failure)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_may_ask_for_more_patience_and_not_for_less() {
        let pause = Duration::from_millis(100);
        for asked in [None, Some(Duration::ZERO), Some(Duration::from_millis(1))] {
            let wait = wait(pause, asked);
            assert!(wait >= pause / 2 && wait <= pause, "{asked:?}: {wait:?}");
        }
        for asked in [Duration::from_secs(90), Duration::MAX] {
            assert_eq!(wait(pause, Some(asked)), asked);
        }
    }
}
