//! A server's process: it dies with this one, can be killed, paused and watched.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result, cache, until};

const TAIL_LINES: usize = 40;
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running server.
///
/// Dropping it kills it; in a test that panics the end of its log is printed as well.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to the end of the file `log`.
    ///
    /// # Errors
    /// [`Error::Program`] when it, or `setpriv`, is not installed.
    pub fn start(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let output = open().map_err(Error::file("open", log))?;
        let errors = open().map_err(Error::file("open", log))?;
        let mut command = dying_with_parent(command);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn(command).map_err(|source| Error::Program {
            program: "setpriv".into(),
            source,
            remedy: "install the package `util-linux`",
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::State`] when the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        ended.map(drop).map_err(|error| self.refused("kill", &error))
    }

    /// Asks it to end (SIGTERM), waits, and kills it when it does not within ten seconds.
    ///
    /// # Errors
    /// [`Error::State`] when the system refuses.
    ///
    /// # Cancellation
    /// It may still be ending.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let ended = until(STOP_LIMIT, || std::future::ready(self.ended())).await;
        if ended.is_some() { Ok(()) } else { self.kill() }
    }

    /// Stops it from running (SIGSTOP): its connections stay open and silent.
    ///
    /// # Errors
    /// [`Error::State`] when it has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it run again (SIGCONT).
    ///
    /// # Errors
    /// [`Error::State`] when it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        cache::last_lines(&String::from_utf8_lossy(&bytes), TAIL_LINES)
    }

    /// An error about this server that shows its log.
    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Server {
            name: self.name.clone(),
            problem: problem.into(),
            log: self.log.clone(),
            tail: self.log_tail(),
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended() {
            return Err(self.error(format!("has ended by itself ({status})")));
        }
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        // Not reaped yet, so the id cannot be another process's.
        let sent = id.map_or(Err(rustix::io::Errno::SRCH), |id| kill_process(id, signal));
        sent.map_err(|error| self.refused("signal", &error.into()))
    }

    fn refused(&self, what: &str, error: &io::Error) -> Error {
        let problem = format!("cannot {what} process {}: {error}", self.id());
        Error::State { name: self.name.clone(), problem }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (process {}, log {})", self.name, self.id(), self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let (name, log) = (&self.name, self.log.display());
            eprintln!("--- end of the log of {name} ({log}) ---\n{}", self.log_tail());
        }
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same command, killed by the system when the thread that starts it ends.
fn dying_with_parent(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

struct Order {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

/// Starts a process from a thread that lives as long as this program.
///
/// The system ties a child to the *thread* that started it: a server started from one test's
/// thread would die when that test ends, although others still use it.
fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, received) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for Order { mut command, answer } in received {
                // The caller waits for the answer, so it cannot be gone.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts servers has ended");
    starter.send(Order { command, answer }).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
