//! Who may read from the terminal: one group of processes at a time.

use std::fs::File;

use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// The terminal is another group's until this is dropped.
#[derive(Debug)]
pub(crate) struct Lent(File);

/// The terminal, whatever standard input is, if there is one and it is this group's to read from.
pub(crate) fn ours() -> Option<File> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    (tcgetpgrp(&terminal) == Ok(getpgrp())).then_some(terminal)
}

impl Lent {
    /// Lends the terminal to `group`, if there is one and it is ours. Without this the group would
    /// be stopped when it reads, and Ctrl-C would not reach it.
    pub(crate) fn to(group: Pid) -> Option<Self> {
        // A command whose input is a pipe may read from its terminal all the same, as `ssh` does.
        let terminal = ours()?;
        tcsetpgrp(&terminal, group).ok()?;
        // It may have tried to read before.
        let _ = killpg(group, Signal::SIGCONT);
        Some(Self(terminal))
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
        if let Err(error) = tcsetpgrp(&self.0, getpgrp()) {
            tracing::debug!(%error, "the terminal was not taken back");
        }
        let _ = stop.thread_unblock();
    }
}
