//! A command that runs below this process, in a group of its own.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::{
    exit::{Exit, Failure},
    group,
    guard::Guard,
    output,
    signals::Signals,
    terminal::Lent,
};

/// A running command and everything that it started.
#[derive(Debug)]
pub(crate) struct Job {
    child: Child,
    group: Pid,
    signals: Signals,
    /// While it is lent to the command.
    terminal: Option<Lent>,
    guard: Option<Guard>,
}

/// What a command finds under a name in its environment; nothing, whatever this process finds there,
/// where there is no value.
pub(crate) type Variable = (&'static str, Option<String>);

impl Job {
    /// Starts a command with `variables` set or taken out of its environment, in the group of `guard`
    /// or in one of its own. It gets `signals` passed on.
    pub(crate) fn start(
        command: &[OsString],
        variables: Vec<Variable>,
        signals: Signals,
        guard: Option<Guard>,
    ) -> anyhow::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| Failure::error(Exit::USAGE, "no command given"))?;
        let mut command = Command::new(program);
        command.args(arguments);
        command.process_group(guard.as_ref().map_or(0, |guard| guard.group().as_raw()));
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                if let Some(guard) = guard {
                    guard.dismiss();
                }
                return Err(not_started(program, &error));
            }
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let group = guard.as_ref().map_or(Pid::from_raw(pid), Guard::group);
        Ok(Self { child, group, signals, terminal: Lent::to(group), guard })
    }

    /// Waits until the command has ended, passing on to it the signals that this process gets.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub(crate) async fn ended(&mut self) -> io::Result<Exit> {
        let mut children = signal(SignalKind::child())?;
        loop {
            tokio::select! {
                status = self.child.wait() => return status.map(|status| self.bury(status)),
                signal = self.signals.next() => self.signal(signal),
                Some(()) = children.recv() => self.go_on_if_suspended(),
            }
        }
    }

    /// Undoes Ctrl-Z: the shell knows this process only, and would wait for ever.
    fn go_on_if_suspended(&self) {
        if self.terminal.is_none() {
            return;
        }
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        if let Ok(WaitStatus::Stopped(..)) = waitid(Id::Pid(Pid::from_raw(pid)), flags) {
            self.signal(Signal::SIGCONT);
            output::note("pintle: the command goes on: what is kept for it cannot be suspended");
        }
    }

    /// Asks the whole group to end, and ends it when `grace` has passed.
    pub(crate) async fn stop(&mut self, grace: Duration) -> io::Result<Exit> {
        self.signal(Signal::SIGTERM);
        // A command that was stopped with Ctrl-Z cannot end before it goes on.
        self.signal(Signal::SIGCONT);
        let deadline = Instant::now() + grace;
        // A shell ends at once, and what it started still has something to put away.
        let _ = tokio::time::timeout(grace, self.child.wait()).await;
        let guard = self.guard.as_ref().map(Guard::group);
        while Instant::now() < deadline && group::runs_besides(self.group, guard) {
            tokio::time::sleep(group::LOOK_PERIOD).await;
        }
        self.signal(Signal::SIGKILL);
        let status = self.child.wait().await?;
        Ok(self.bury(status))
    }

    /// The command has ended, and nothing needs to be guarded.
    fn bury(&mut self, status: ExitStatus) -> Exit {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        exit_of(status)
    }

    fn signal(&self, signal: Signal) {
        match killpg(self.group, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(%signal, group = %self.group, %error, "not delivered"),
        }
    }
}

fn not_started(program: &OsString, error: &io::Error) -> anyhow::Error {
    let exit = if error.kind() == io::ErrorKind::NotFound { Exit(127) } else { Exit(126) };
    Failure::error(exit, format!("cannot start {}: {error}", program.display()))
}

/// The code of a command as a shell gives it.
fn exit_of(status: ExitStatus) -> Exit {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(command: &[OsString], variables: Vec<Variable>) -> anyhow::Result<Job> {
        Job::start(command, variables, Signals::to_forward()?, None)
    }

    fn shell(script: &str) -> Vec<OsString> {
        ["sh", "-c", script].map(OsString::from).into()
    }

    #[tokio::test]
    async fn a_command_hands_its_code_on() {
        let mut job = start(&shell("exit 42"), Vec::new()).unwrap();
        assert_eq!(job.ended().await.unwrap(), Exit(42));
        let mut job = start(&shell("kill -9 $$"), Vec::new()).unwrap();
        assert_eq!(job.ended().await.unwrap(), Exit(137));
    }

    #[tokio::test]
    async fn a_command_sees_the_variables_that_it_is_given_and_not_those_taken_away() {
        // Set for every test by cargo.
        let variables = vec![("PINTLE_TOKEN", Some("7".to_owned())), ("CARGO_PKG_NAME", None)];
        let script = "exit $PINTLE_TOKEN$CARGO_PKG_NAME";
        let mut job = start(&shell(script), variables).unwrap();
        assert_eq!(job.ended().await.unwrap(), Exit(7));
    }

    #[tokio::test]
    async fn what_a_command_started_has_time_to_end_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, ended) = (folder.path().join("ready"), folder.path().join("ended"));
        // The shell itself ends on SIGTERM at once.
        let script = format!(
            "(trap 'sleep 0.3; : >{}; exit' TERM; : >{}; while :; do sleep 0.05; done) & wait",
            ended.display(),
            ready.display()
        );
        let mut job = start(&shell(&script), Vec::new()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready.exists() && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        assert_eq!(job.stop(Duration::from_secs(30)).await.unwrap(), Exit(128 + 15));
        assert!(ended.exists() && begun.elapsed() < Duration::from_secs(20), "{begun:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_started_has_the_shells_codes() {
        let missing = start(&["/no/such/command".into()], Vec::new()).unwrap_err();
        assert_eq!(crate::exit::of(&missing), Exit(127));
        let folder = start(&["/".into()], Vec::new()).unwrap_err();
        assert_eq!(crate::exit::of(&folder), Exit(126));
    }

    #[tokio::test]
    async fn a_command_that_will_not_end_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let script = format!(
            "trap '' TERM; (trap '' TERM; sleep 60) & echo $! >{0}.tmp; \
             mv {0}.tmp {0}; wait; wait",
            ready.display()
        );
        let mut job = start(&shell(&script), Vec::new()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready.exists() && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        let below: i32 = std::fs::read_to_string(&ready).unwrap().trim().parse().unwrap();
        let exit = job.stop(Duration::from_millis(50)).await.unwrap();
        assert_eq!(exit, Exit(128 + 9));
        // Init, or whoever takes over orphans, may need a moment to bury it.
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{below}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        while !is_gone() {
            assert!(Instant::now() < deadline, "{below} still runs");
            tokio::task::yield_now().await;
        }
    }
}
