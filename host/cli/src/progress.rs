//! How far a command has come, for people, where it takes long.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use crate::output;

/// After this time somebody begins to wonder.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// How often a number may change before the eyes.
const PERIOD: Duration = Duration::from_millis(100);
/// Goes to the beginning of the line and empties it.
const AGAIN: &str = "\r\x1b[K";

/// A line on a terminal that is written again and again, and is gone at the end.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    next: Instant,
    shows: bool,
    shown: bool,
}

impl Progress {
    /// The progress of something that has just begun: `what` says what is counted.
    pub(crate) fn new(what: &'static str) -> Self {
        let next = Instant::now() + QUIET_MAX;
        Self { what, next, shows: io::stderr().is_terminal(), shown: false }
    }

    /// Tells how much is done, of how much where that is known.
    pub(crate) fn at(&mut self, done: usize, of: Option<usize>) {
        let now = Instant::now();
        if !self.shows || now < self.next {
            return;
        }
        self.next = now + PERIOD;
        self.shown = true;
        let of = of.map(|total| format!(" of {total}")).unwrap_or_default();
        output::note_part(format_args!("{AGAIN}{done}{of} {}", self.what));
    }

    /// Counts the seconds until `task` is done.
    pub(crate) async fn seconds<T>(what: &'static str, task: impl Future<Output = T>) -> T {
        let (begun, mut progress) = (Instant::now(), Self::new(what));
        tokio::pin!(task);
        loop {
            match tokio::time::timeout(QUIET_MAX, &mut task).await {
                Ok(done) => return done,
                Err(_) => {
                    let seconds = begun.elapsed().as_secs();
                    progress.at(usize::try_from(seconds).unwrap_or(usize::MAX), None);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            output::note_part(AGAIN);
        }
    }
}
