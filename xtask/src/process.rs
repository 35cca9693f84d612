//! Running other programs, with errors that say what was run.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a command with this program's own input and output, and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", describe(command)))?;
    check(command, status)
}

/// Runs a command and gives what it printed to standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    check(command, output.status)
        .with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command and gives its output, whether it succeeds or not.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run `{}`", describe(command)))
}

/// Runs a command for at most `limit`; past that it is killed and this fails.
pub(crate) fn run_for(command: &mut Command, limit: Duration) -> Result<()> {
    let status = status_within(command, limit)?;
    check(command, status)
}

/// The same, whether it succeeds or not.
pub(crate) fn status_within(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let mut child =
        command.spawn().with_context(|| format!("cannot run `{}`", describe(command)))?;
    if let Some(status) = wait_for(&mut child, limit)? {
        return Ok(status);
    }
    child.kill().context("cannot kill it")?;
    child.wait().context("cannot wait for its end")?;
    bail!("`{}` did not end within {} s", describe(command), limit.as_secs())
}

/// A program that runs beside another one that has the terminal. It is killed when this is dropped.
pub(crate) struct Background {
    child: Child,
    what: String,
    printed: Arc<Mutex<Printed>>,
    reader: Option<JoinHandle<()>>,
}

/// What it printed to standard error.
#[derive(Default)]
struct Printed {
    kept: Vec<String>,
    /// Lines are shown as they come, because somebody waits.
    live: bool,
}

impl Background {
    /// Starts it; what it prints to standard error is kept.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let what = describe(command);
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run `{what}`"))?;
        let errors = child.stderr.take().context("it has no standard error")?;
        let printed = Arc::new(Mutex::new(Printed::default()));
        let keep = Arc::clone(&printed);
        let reader = thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let mut printed = keep.lock().unwrap_or_else(PoisonError::into_inner);
                if printed.live {
                    eprintln!("{line}");
                } else {
                    printed.kept.push(line);
                }
            }
        });
        Ok(Self { child, what, printed, reader: Some(reader) })
    }

    /// Waits for its end, showing what it prints from now on, and before that too if it fails.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).live = true;
        let status = self.child.wait().context("cannot wait for a program")?;
        // What it started may still write; who panicked while reading has said so.
        let _ = self.reader.take().map(JoinHandle::join);
        if !status.success() {
            for line in &self.printed.lock().unwrap_or_else(PoisonError::into_inner).kept {
                eprintln!("{line}");
            }
            bail!("`{}` failed ({status})", self.what);
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Fails for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program of this name can be found in `PATH`.
pub(crate) fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

/// Where in `PATH` a program of this name is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The command line, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Waits for a program's end for at most `limit`.
pub(crate) fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a program")? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_past_its_limit_is_killed_and_named() {
        let start = Instant::now();
        let result = run_for(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert!(result.unwrap_err().to_string().contains("sleep 60"));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_in_the_background_is_waited_for_and_its_failure_named() {
        let background = |script| Background::start(Command::new("sh").args(["-c", script]));
        background("echo working >&2").unwrap().wait().unwrap();
        let error = background("echo broken >&2; exit 3").unwrap().wait().unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_program_in_the_background_ends_with_its_owner() {
        let background = Background::start(Command::new("sleep").arg("600")).unwrap();
        let process = PathBuf::from(format!("/proc/{}", background.child.id()));
        assert!(process.exists());
        drop(background);
        assert!(!process.exists());
    }

    #[test]
    fn a_failing_command_is_an_error_with_its_status() {
        assert!(
            run(&mut Command::new("false")).unwrap_err().to_string().contains("`false` failed")
        );
        assert!(run(&mut Command::new("true")).is_ok());
    }
}
