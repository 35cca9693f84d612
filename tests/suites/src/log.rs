//! What the host logs, kept for the tests to look at.

use std::{
    io::{self, Write},
    sync::{Mutex, Once, PoisonError},
};

use tracing_subscriber::fmt::format::FmtSpan;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static BEGIN: Once = Once::new();

/// Begins to keep lines. All tests of the process share them: a test looks for its own by what only
/// it says.
pub fn begin() {
    BEGIN.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_env_filter("warn,pintle=info,audit=info")
            .with_span_events(FmtSpan::NEW)
            .with_writer(|| Keeper(Vec::new()))
            .finish();
        // Fails when there is one already, and then the tests that look at lines say so.
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
}

/// The lines in which each of these stands.
#[must_use]
pub fn lines_with(words: &[&str]) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |line: &&String| words.iter().all(|word| line.contains(word));
    lines.iter().filter(fits).cloned().collect()
}

/// One line.
struct Keeper(Vec<u8>);

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let line = String::from_utf8_lossy(&self.0).into_owned();
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}
