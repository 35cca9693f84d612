//! The signals that ask a process to do something.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Delivers signals one after another instead of letting them end the process.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
}

impl Signals {
    /// Those that ask a process to end.
    pub(crate) fn to_end() -> io::Result<Self> {
        Self::of(&[Signal::SIGINT, Signal::SIGTERM])
    }

    /// Those by which a terminal interrupts what runs in the foreground.
    pub(crate) fn to_interrupt() -> io::Result<Self> {
        Self::of(&[Signal::SIGINT, Signal::SIGQUIT])
    }

    /// Those that a command is to get that runs below this process. What whoever started this process
    /// wants ignored (`nohup`, a shell that runs it in the background) stays ignored by both.
    pub(crate) fn to_forward() -> io::Result<Self> {
        let ignored = ignored();
        let mut signals = vec![
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ];
        signals.retain(|signal| !is_in(ignored, *signal));
        Self::of(&signals)
    }

    fn of(signals: &[Signal]) -> io::Result<Self> {
        let stream =
            |signal: &Signal| Ok((*signal, unix::signal(SignalKind::from_raw(*signal as i32))?));
        Ok(Self { streams: signals.iter().map(stream).collect::<io::Result<_>>()? })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        if self.streams.is_empty() {
            return std::future::pending().await;
        }
        let received = self.streams.iter_mut().map(|(signal, stream)| {
            let signal = *signal;
            Box::pin(async move {
                stream.recv().await;
                signal
            })
        });
        futures::future::select_all(received).await.0
    }
}

/// The signals that this process ignores, one bit each; none where the system does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn is_in(mask: u64, signal: Signal) -> bool {
    mask & (1 << (signal as i32 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_told_from_what_is_not() {
        // The runtime of Rust ignores this one in every program.
        assert!(is_in(ignored(), Signal::SIGPIPE));
        assert!(!is_in(ignored(), Signal::SIGUSR2));
    }
}
