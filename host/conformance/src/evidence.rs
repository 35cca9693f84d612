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
    /// The newest call with its answer, and how often it came in a row.
    last: (String, u32),
}

/// As many lines are kept; older ones are counted.
const LINES_MAX: usize = 120;

impl Evidence {
    pub(crate) fn new() -> Self {
        let last = (String::new(), 0);
        let lines = Lines { began: Instant::now(), kept: VecDeque::new(), dropped: 0, last };
        Self(Arc::new(Mutex::new(lines)))
    }

    /// Writes down what the suite itself did.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let mut lines = self.lock();
        let at_ms = lines.began.elapsed().as_millis();
        lines.push(format!("{at_ms:>6} ms  — {}", text.as_ref()));
        lines.last = (String::new(), 0);
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
        let said = format!("{owner}: {} → {}", spoken.asked, spoken.answered);
        // What is asked again and again until something happens shows once, with its last time.
        let again = if lines.last.0 == said { lines.last.1 + 1 } else { 1 };
        let mut line = format!("{at_ms:>6} ms  {said} ({took_ms} ms)");
        if again > 1 {
            line += &format!(" [{again} times]");
            lines.kept.pop_back();
        }
        lines.push(line);
        lines.last = (said, again);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_asked_again_and_again_shows_once() {
        let evidence = Evidence::new();
        let recorder = evidence.recorder("a");
        let say = |asked: &str| {
            let (at, took) = (Instant::now(), Duration::ZERO);
            recorder(Spoken { at, took, asked: asked.to_owned(), answered: "x".to_owned() });
        };
        for _ in 0..500 {
            say("config.get(1)");
        }
        say("config.get(2)");
        evidence.note("the network of a is cut");
        say("config.get(2)");
        let lines = evidence.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].ends_with("[500 times]"), "{lines:?}");
    }
}
