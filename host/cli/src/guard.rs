//! Watches over the watcher: ends a command when the process that holds its lock has died.
//!
//! A process that is killed cannot end what it runs. So `lock run` starts a second process that does
//! nothing but wait for the end of a pipe, which the system closes whatever happens to the first.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// How often a group is looked at that was asked to end.
const LOOK: Duration = Duration::from_millis(50);

/// What the second process is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The group of processes to end
    group: i32,
    /// Time that it has after SIGTERM
    grace_ms: u64,
}

/// The second process, as the first one sees it.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Has the group ended when this process dies.
    pub(crate) fn over(group: Pid, grace: Duration) -> anyhow::Result<Self> {
        // The link holds even when the file was replaced since.
        let link = Path::new("/proc/self/exe");
        let program = if link.exists() { link.into() } else { std::env::current_exe()? };
        let mut process = Command::new(program)
            .arg0("pintle")
            .arg("guard")
            .args([group.to_string(), grace.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is not meant for it.
            .process_group(0)
            .spawn()
            .context("cannot start the process that guards the command")?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The group has ended, and its number may soon be another's.
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b".");
        }
        let _ = self.process.wait();
    }
}

/// The second process itself.
pub(crate) fn run(arguments: &Arguments) {
    let mut word = [0];
    let ended_well = std::io::stdin().read(&mut word).is_ok_and(|length| length > 0);
    // Zero and below would name other groups.
    if ended_well || arguments.group <= 1 {
        return;
    }
    let group = Pid::from_raw(arguments.group);
    let deadline = Instant::now() + Duration::from_millis(arguments.grace_ms);
    // Errors mean that there is nobody left.
    let _ = killpg(group, Signal::SIGTERM);
    let _ = killpg(group, Signal::SIGCONT);
    while Instant::now() < deadline && killpg(group, None).is_ok() {
        std::thread::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now())));
    }
    let _ = killpg(group, Signal::SIGKILL);
}
