//! What a plugin writes to standard output and error: log lines, and the last words of a panic.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use super::guest::printable;

/// Keeps the last bytes written; a panic message is among them when a plugin traps.
#[derive(Clone, Default)]
pub(crate) struct LastWords {
    said: Arc<Mutex<VecDeque<u8>>>,
    noted: Arc<Mutex<Option<String>>>,
}

/// Longer than any panic message worth reading.
const KEPT_BYTES: usize = 4096;

impl LastWords {
    /// Keeps what the host saw of its end, beside what the guest said itself. The first note stays.
    pub(crate) fn note(&self, text: &str) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get_or_insert_with(|| text.to_owned());
    }

    /// What was noted and what was said last, if anything was.
    pub(crate) fn summary(&self) -> Option<String> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (noted, self.said_last()) {
            (Some(noted), Some(said)) => Some(format!("{noted}; it said: {said}")),
            (noted, said) => noted.or(said),
        }
    }

    /// The last line that is not empty and not the usual hint about backtraces, made printable.
    fn said_last(&self) -> Option<String> {
        let bytes: Vec<u8> =
            self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("note: "))
            .collect();
        let tail = lines.get(lines.len().saturating_sub(2)..)?;
        if tail.is_empty() { None } else { Some(printable(&tail.join(" "), KEPT_BYTES)) }
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(KEPT_BYTES);
        kept.drain(..excess);
    }
}

impl IsTerminal for LastWords {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LastWords {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for LastWords {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_message_is_the_last_thing_said() {
        let words = LastWords::default();
        words.push(b"starting\nthread '<unnamed>' panicked at src/lib.rs:3:5:\nboom\nnote: run with `RUST_BACKTRACE=1`\n");
        assert_eq!(words.summary().unwrap(), "thread '<unnamed>' panicked at src/lib.rs:3:5: boom");
    }

    #[test]
    fn last_words_cannot_command_a_terminal() {
        let words = LastWords::default();
        words.push(b"\x1b]0;owned\x07boom\r\n");
        assert_eq!(words.summary().unwrap(), "\\u{1b}]0;owned\\u{7}boom");
    }

    #[test]
    fn only_the_end_of_a_flood_is_kept() {
        let words = LastWords::default();
        for _ in 0..10_000 {
            words.push(b"0123456789");
        }
        assert!(words.said.lock().unwrap().len() <= KEPT_BYTES);
    }
}
