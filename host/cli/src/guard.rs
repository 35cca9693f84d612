//! Watches over the watcher: ends a command when the process that holds its lock has died.
//!
//! A process that is killed cannot end what it runs. So `lock run` starts a second process before
//! the command. It leads the group of processes that the command belongs to, and does nothing but
//! wait for the end of a pipe, which the system closes whatever happens to the first process.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::{Pid, getpgrp, getpid},
};

use crate::group;

/// What either process says to the other.
const READY: &[u8] = b"+";
const DONE: &[u8] = b".";

/// What the second process is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Time that the group has after SIGTERM
    grace_ms: u64,
}

/// The second process, as the first one sees it. Unless it is dismissed it ends the group: whatever
/// goes wrong here, the command does not run on by itself.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts a group of processes that is ended when this process dies.
    pub(crate) fn start(grace: Duration) -> anyhow::Result<Self> {
        // The link holds even when the file was replaced since.
        let link = Path::new("/proc/self/exe");
        let program = if link.exists() { link.into() } else { std::env::current_exe()? };
        let mut process = Command::new(program)
            .arg0("pintle")
            .args(["guard", &grace.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the process that guards the command")?;
        let pipe = process.stdin.take().context("the process that guards has no input")?;
        let said = process.stdout.take().and_then(|mut said| said.read_exact(&mut [0]).ok());
        said.context("the process that guards the command ended at once")?;
        Ok(Self { process, pipe })
    }

    /// The group.
    pub(crate) fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap_or_default())
    }

    /// Ends the guarding, because the command has ended or was never started.
    pub(crate) fn dismiss(mut self) {
        // Fails when the guard was ended with its group.
        let _ = self.pipe.write_all(DONE);
        let _ = self.process.wait();
    }
}

/// The second process itself.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // What the group is asked to do concerns the command.
    SigSet::all().thread_block()?;
    if getpgrp() != getpid() {
        anyhow::bail!("`pintle guard` is started by `pintle lock run` only");
    }
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    let mut word = [0];
    if io::stdin().read(&mut word).is_ok_and(|length| length > 0) {
        return Ok(());
    }
    let group = getpgrp();
    killpg(group, Signal::SIGTERM)?;
    // A command that was stopped with Ctrl-Z cannot end before it goes on.
    killpg(group, Signal::SIGCONT)?;
    let deadline = Instant::now() + Duration::from_millis(arguments.grace_ms);
    while Instant::now() < deadline && group::runs_besides(group, Some(getpid())) {
        std::thread::sleep(group::LOOK_PERIOD);
    }
    // This process is one of the group.
    killpg(group, Signal::SIGKILL)?;
    Ok(())
}
