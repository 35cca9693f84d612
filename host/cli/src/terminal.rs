//! Who may read from the terminal: one group of processes at a time.

use std::io::{self, IsTerminal};

use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// The terminal is another group's until this is dropped.
#[derive(Debug)]
pub(crate) struct Lent;

impl Lent {
    /// Lends the terminal to `group`, if there is one and it is ours. Without this the group would
    /// be stopped when it reads, and Ctrl-C would not reach it.
    pub(crate) fn to(group: Pid) -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || tcgetpgrp(&stdin) != Ok(getpgrp()) {
            return None;
        }
        tcsetpgrp(&stdin, group).ok()?;
        // It may have tried to read before.
        let _ = killpg(group, Signal::SIGCONT);
        Some(Self)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // To take it back from the background is met with a signal that would stop this process.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        if stop.thread_block().is_err() {
            return;
        }
        if let Err(error) = tcsetpgrp(io::stdin(), getpgrp()) {
            tracing::debug!(%error, "the terminal was not taken back");
        }
        let _ = stop.thread_unblock();
    }
}
