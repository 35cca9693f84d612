//! What was asked and answered during a check, for whoever has to understand its verdict.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use pintle::direct::{Recorder, Spoken};

/// The newest lines of one check. Clones write to the same.
#[derive(Clone)]
pub(crate) struct Evidence(Arc<Mutex<Lines>>);

struct Lines {
    began: Instant,
    kept: VecDeque<String>,
    dropped: u64,
}

/// As many lines are kept; older ones are counted.
const LINES_MAX: usize = 120;

impl Evidence {
    pub(crate) fn new() -> Self {
        let lines = Lines { began: Instant::now(), kept: VecDeque::new(), dropped: 0 };
        Self(Arc::new(Mutex::new(lines)))
    }

    /// Writes down what the suite itself did.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let mut lines = self.lock();
        let at_ms = lines.began.elapsed().as_millis();
        lines.push(format!("{at_ms:>6} ms  — {}", text.as_ref()));
    }

    /// Hears of the calls of one owner.
    pub(crate) fn recorder(&self, owner: &str) -> Recorder {
        let (lines, owner) = (self.clone(), owner.to_owned());
        Arc::new(move |spoken| lines.record(&owner, &spoken))
    }

    /// All that is kept, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.lock();
        let dropped = (lines.dropped > 0).then(|| format!("({} earlier lines)", lines.dropped));
        dropped.into_iter().chain(lines.kept.iter().cloned()).collect()
    }

    fn record(&self, owner: &str, spoken: &Spoken) {
        // The heartbeat of a quiet watch tells nothing.
        if spoken.asked.contains(".poll(") && spoken.answered == "[]" {
            return;
        }
        let mut lines = self.lock();
        let at_ms = spoken.at.saturating_duration_since(lines.began).as_millis();
        let took_ms = spoken.took.as_millis();
        let Spoken { asked, answered, .. } = spoken;
        lines.push(format!("{at_ms:>6} ms  {owner}: {asked} → {answered} ({took_ms} ms)"));
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn push(&mut self, line: String) {
        if self.kept.len() == LINES_MAX {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(line);
    }
}
