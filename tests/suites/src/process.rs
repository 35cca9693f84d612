//! Programs that are measured or measured against, each in a process of its own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{Sandbox, arguments::PART};

/// `pintle` with arguments, beside this program; its settings are the `pintle.toml` of the sandbox.
///
/// # Errors
///
/// It is not built.
pub fn pintle(sandbox: &Sandbox, arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe()?.with_file_name("pintle");
    ensure!(
        program.exists(),
        "{} is not built; run `cargo build --release --bin pintle`",
        program.display()
    );
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PINTLE_SETTINGS", sandbox.path().join("pintle.toml"))
        .env("PINTLE_SERVER__LISTEN", "127.0.0.1:0")
        .env("PINTLE_PLUGINS__DIR", sandbox.plugins_dir())
        .env("PINTLE_DATA_DIR", sandbox.path().join("data"))
        .env_remove("PINTLE_SERVER")
        .env_remove("PINTLE_ACCESS_TOKEN");
    Ok(command)
}

/// A process that ends with this, and the lines that it prints.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot be started")?;
        let lines = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, lines })
    }

    /// This program in another [part](crate::arguments::part), which the arguments name.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn this(arguments: &[&str]) -> Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).arg(PART).args(arguments))
    }

    /// The next line that it prints.
    ///
    /// # Errors
    ///
    /// It ended.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "it ended");
        Ok(line.trim().to_owned())
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
