//! Running other programs, with errors that say what was run.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output};
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
    let mut child =
        command.spawn().with_context(|| format!("cannot run `{}`", describe(command)))?;
    match wait_for(&mut child, limit)? {
        Some(status) => check(command, status),
        None => {
            child.kill().context("cannot kill it")?;
            child.wait().context("cannot wait for its end")?;
            bail!("`{}` did not end within {} s", describe(command), limit.as_secs())
        }
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
    fn a_failing_command_is_an_error_with_its_status() {
        assert!(
            run(&mut Command::new("false")).unwrap_err().to_string().contains("`false` failed")
        );
        assert!(run(&mut Command::new("true")).is_ok());
    }
}
