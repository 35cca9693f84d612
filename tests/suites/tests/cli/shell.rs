//! Runs `pintle` in an environment of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};
use pintle_test_suites::{Sandbox, built, within};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// A data directory, a plugins' directory, and nothing from outside.
pub(crate) struct Shell {
    sandbox: Sandbox,
    program: PathBuf,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A command that runs. It is killed when this is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    pub(crate) fn new() -> Result<Self> {
        Self::with_plugins(&["plugins/local"])
    }

    pub(crate) fn with_plugins(plugins: &[&str]) -> Result<Self> {
        let sandbox = Sandbox::new(plugins)?;
        // Beside the folder of this test's program.
        let here = std::env::current_exe()?;
        let program = here.ancestors().nth(2).context("a folder")?.join("pintle");
        ensure!(program.exists(), "{} is not built", program.display());
        Ok(Self { sandbox, program })
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.sandbox.path().join("data")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path().join(name)
    }

    pub(crate) fn plugins_dir(&self) -> PathBuf {
        self.sandbox.plugins_dir()
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// What makes `pintle` use this folder.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("PINTLE_DATA_DIR", self.data_dir()),
            ("PINTLE_PLUGINS__DIR", self.sandbox.plugins_dir()),
            ("PINTLE_PLUGINS__CACHE_DIR", built("test-cache")),
        ]
    }

    /// `pintle` with arguments.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs `pintle` to its end.
    pub(crate) async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        self.run_with(arguments, b"").await
    }

    /// Runs `pintle` to its end, with standard input.
    pub(crate) async fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        input: &[u8],
    ) -> Result<Output> {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("standard input")?;
        // It may have ended without reading.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let output = within("the end of pintle", child.wait_with_output()).await??;
        Ok(Output {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts `pintle` and leaves it running.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Running> {
        self.running(self.command(arguments))
    }

    /// Starts a command of [`Shell::command`] and leaves it running.
    pub(crate) fn running(&self, mut command: Command) -> Result<Running> {
        let mut child = command.stderr(Stdio::inherit()).spawn()?;
        let stdout = child.stdout.take().context("standard output")?;
        Ok(Running { child, lines: BufReader::new(stdout).lines() })
    }

    /// Starts `pintle serve` on a free port, and waits until it serves; its URL.
    pub(crate) async fn serve(&self) -> Result<(Running, String)> {
        self.serve_with(None).await
    }

    /// The same with a file of settings.
    pub(crate) async fn serve_with(&self, settings: Option<&Path>) -> Result<(Running, String)> {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0", "-o", "json"]);
        command.envs(settings.map(|file| ("PINTLE_SETTINGS", file)));
        let mut server = self.running(command)?;
        let line: serde_json::Value = serde_json::from_str(&server.line().await?)?;
        let url = line.get("url").and_then(|url| url.as_str()).context("a url")?.to_owned();
        Ok((server, url))
    }
}

impl Output {
    /// Its text, if it succeeded.
    pub(crate) fn text(&self) -> Result<String> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(String::from_utf8(self.stdout.clone())?)
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_str(&self.text()?)?)
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(child: &Child, name: &str) -> Result<()> {
    let pid = child.id().context("it has ended")?.to_string();
    let status = std::process::Command::new("kill").args(["-s", name, &pid]).status()?;
    ensure!(status.success(), "kill: {status}");
    Ok(())
}

impl Running {
    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> Result<String> {
        within("a line", self.lines.next_line()).await??.context("it printed no more")
    }

    /// The next line that contains `part`.
    pub(crate) async fn line_with(&mut self, part: &str) -> Result<String> {
        loop {
            let line = self.line().await?;
            if line.contains(part) {
                return Ok(line);
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        signal(&self.child, name)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(within("the end of pintle", self.child.wait()).await??)
    }

    /// What it still prints until its end.
    pub(crate) async fn rest(self) -> Result<String> {
        let mut text = String::new();
        let mut reader = self.lines.into_inner();
        within("the end of its output", reader.read_to_string(&mut text)).await??;
        Ok(text)
    }
}
