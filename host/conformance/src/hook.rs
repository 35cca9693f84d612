//! What the suite cannot do, and the operator can: make a server forget, and write to it as others do.

use std::{fmt, process::Stdio, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::process::Command;

/// Names and values that a hook is given; a command finds them in its environment.
pub type Facts = Vec<(&'static str, String)>;

/// Something that the operator lends the suite.
#[derive(Clone)]
pub struct Hook(Arc<Run>);

type Run = dyn Fn(Facts) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// All that the operator may lend.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Makes the server forget what was before `PINTLE_VERSION`.
    pub forget: Option<Hook>,
    /// Writes `PINTLE_VALUE` under `PINTLE_KEY` past the plugin, or removes the key when there is no
    /// value. The key is as the server has it, nothing in it escaped, and without the backend's root.
    pub write: Option<Hook>,
}

/// A command that takes longer is given up.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Bytes of a command's complaint that are shown.
const COMPLAINT_BYTES_MAX: usize = 400;

impl Hook {
    /// A hook that calls a function.
    pub fn new<F>(run: F) -> Self
    where
        F: Fn(Facts) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    {
        Self(Arc::new(run))
    }

    /// A hook that runs a command in a shell.
    #[must_use]
    pub fn command(line: impl Into<String>) -> Self {
        let line: Arc<str> = line.into().into();
        Self::new(move |facts| Box::pin(shell(Arc::clone(&line), facts)))
    }

    pub(crate) async fn run(&self, facts: Facts) -> Result<(), String> {
        (self.0)(facts).await
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

async fn shell(line: Arc<str>, facts: Facts) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.args(["-c", &line]).envs(facts).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(COMMAND_MAX, command.output()).await;
    let ended = ended.map_err(|_| format!("not done within {} s", COMMAND_MAX.as_secs()))?;
    let output = ended.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let end = complaint.floor_char_boundary(COMPLAINT_BYTES_MAX);
    Err(format!("{}: {}", output.status, complaint.get(..end).unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_finds_its_facts_and_says_why_it_failed() {
        let hook = Hook::command("test \"$PINTLE_KEY\" = 'a b%' || { echo no >&2; exit 3; }");
        assert_eq!(hook.run(vec![("PINTLE_KEY", "a b%".to_owned())]).await, Ok(()));
        let failed = hook.run(vec![("PINTLE_KEY", "a".to_owned())]).await.unwrap_err();
        assert!(failed.contains('3') && failed.ends_with("no"), "{failed}");
    }
}
