//! What servers of one process have in common: they are started, ready, hurt, and started again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Error, Process, Result, http, until};

const READY_LIMIT: Duration = Duration::from_secs(120);

/// A server of one process; it keeps nothing over a restart. Stopped when dropped.
#[derive(Debug)]
pub struct Single {
    name: &'static str,
    command: Command,
    /// Answers the path with 200 when it serves.
    ready: (SocketAddr, &'static str),
    process: Option<Process>,
    folder: TempDir,
}

impl Single {
    /// Starts a server and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Server`] with its log when that takes too long, or when it ends.
    pub(crate) async fn start(
        name: &'static str,
        command: Command,
        ready: (SocketAddr, &'static str),
        folder: TempDir,
    ) -> Result<Self> {
        let mut server = Self { name, command, ready, process: None, folder };
        server.run()?;
        server.ready().await?;
        Ok(server)
    }

    /// The running process.
    ///
    /// # Errors
    /// [`Error::State`] after [`kill`](Self::kill).
    pub fn process(&mut self) -> Result<&mut Process> {
        let problem = || Error::State { name: self.name.into(), problem: "not running".into() };
        self.process.as_mut().ok_or_else(problem)
    }

    /// Kills it (SIGKILL), with all that it had.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Stops it from running (SIGSTOP): connections stay open and silent.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.process()?.pause()
    }

    /// Lets it run again (SIGCONT).
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.process()?.resume()
    }

    /// Starts it again on the same ports, killing it first if it runs, and waits until it serves.
    ///
    /// # Errors
    /// As for starting it.
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        self.run()?;
        self.ready().await
    }

    fn run(&mut self) -> Result<()> {
        let log = self.folder.path().join("log");
        self.process = Some(Process::start(self.name, &self.command, Path::new(&log))?);
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let (address, path) = self.ready;
        let process = self.process()?;
        let state = until(READY_LIMIT, || {
            let ended = process.ended();
            async move {
                if let Some(status) = ended {
                    return Some(Err(status));
                }
                let status = http::status(address, path).await.ok()?;
                (status == 200).then_some(Ok(()))
            }
        });
        match state.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => Err(process.error(format!("ended at once ({status})"))),
            None => Err(process.error(format!("was not ready in {} s", READY_LIMIT.as_secs()))),
        }
    }
}

/// A folder for a server's log.
pub(crate) fn folder(name: &str) -> Result<TempDir> {
    TempDir::with_prefix(format!("pintle-{name}-"))
        .map_err(Error::file("create a folder in", std::env::temp_dir()))
}
