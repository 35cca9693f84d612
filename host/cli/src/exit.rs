//! What the process exits with, and what it says of an error.

use std::process::ExitCode;

use nix::sys::signal::Signal;
use pintle_client::ClientError;

/// Printed below every help.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    failed; `config diff`: something differs
  2    wrong usage, or wrong settings
  3    not found
  4    a precondition failed: another version, another holder, another owner
  5    unavailable: the server or the backend cannot be reached, or has too much to do
  6    denied: no access token, or one that is not good for this
  7    `lock run`, `leader run`: the lease was lost while the command ran
  `lock run`, `leader run` and `registry run` exit with the code of the command that they run, and with
  126 or 127 when it cannot be started.

A running server is found by itself and asked; without one the same work is done in this process.
Every setting can be given in the environment: PINTLE_SERVER__LISTEN is `listen` of [server].";

/// What the process exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const FAILED: Self = Self(1);
    pub(crate) const USAGE: Self = Self(2);
    pub(crate) const NOT_FOUND: Self = Self(3);
    pub(crate) const LOST: Self = Self(4);
    pub(crate) const UNAVAILABLE: Self = Self(5);
    pub(crate) const DENIED: Self = Self(6);
    pub(crate) const LEASE_LOST: Self = Self(7);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// A failure that has said itself which code it exits with.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Failure {
    /// An error that exits with `exit`.
    pub(crate) fn error(exit: Exit, text: impl Into<String>) -> anyhow::Error {
        Self { exit, text: text.into() }.into()
    }
}

/// The end of a command that a signal asked for.
pub(crate) fn ended_by(signal: Signal) -> anyhow::Error {
    let code = u8::try_from(128 + signal as i32).unwrap_or(Exit::FAILED.0);
    Failure::error(Exit(code), format!("ended by {signal}"))
}

/// The code for an error.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return of_client(error);
        }
        if cause.is::<pintle::settings::SettingsError>()
            || matches!(cause.downcast_ref(), Some(pintle::StartError::Settings(_)))
        {
            return Exit::USAGE;
        }
    }
    Exit::FAILED
}

fn of_client(error: &ClientError) -> Exit {
    use pintle_client::api::problem::code;
    match error {
        ClientError::Invalid(_) => return Exit::USAGE,
        ClientError::Unreachable { .. }
        | ClientError::Interrupted { .. }
        | ClientError::Timeout { .. } => return Exit::UNAVAILABLE,
        ClientError::Problem(_) | ClientError::Malformed { .. } => {}
    }
    match error.code() {
        code::NOT_FOUND | code::UNKNOWN_PLUGIN | code::UNKNOWN_TOKEN | "unknown-backend" => {
            Exit::NOT_FOUND
        }
        code::INVALID => Exit::USAGE,
        code::TOKEN_MISSING
        | code::TOKEN_REFUSED
        | code::FORBIDDEN
        | code::READ_ONLY
        | code::FOREIGN_HOST
        | code::FOREIGN_ORIGIN
        | "denied"
        | "unauthenticated" => Exit::DENIED,
        code::EXHAUSTED
        | code::SHUTTING_DOWN
        | code::TOO_MANY_ATTEMPTS
        | code::TOO_MANY_CALLS
        | "unavailable"
        | "timeout"
        | "cancelled"
        | "not-running"
        | "busy"
        | "plugin-ended" => Exit::UNAVAILABLE,
        code::STALE
        | code::FENCED
        | code::LOCK_BUSY
        | code::TAKEN
        | code::LEASE_LOST
        | code::LEASE_UNKNOWN
        | code::LEASE_RELEASED
        | code::TOKEN_EXISTS
        | "conflict" => Exit::LOST,
        _ => Exit::FAILED,
    }
}

/// The error and what led to it, in one text.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // Some errors print their sources themselves.
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        // It has named the cause at the bottom; what lies between says nothing more.
        if cause.is::<ClientError>() {
            break;
        }
    }
    text
}

/// What to do about an error, line by line.
pub(crate) fn advice(error: &anyhow::Error) -> Vec<String> {
    use pintle_client::api::problem::code;
    let mut lines = Vec::new();
    for cause in error.chain() {
        let Some(error) = cause.downcast_ref::<ClientError>() else { continue };
        if let Some(problem) = error.problem() {
            // The server speaks of headers; here it is an option.
            let of_token = problem.code() == code::TOKEN_MISSING;
            lines.extend(problem.advice.clone().filter(|_| !of_token));
            if let Some(after) = problem.retry_after_ms {
                lines.push(format!("try again in {after} ms"));
            }
        }
        if matches!(error.code(), code::TOKEN_MISSING | code::TOKEN_REFUSED) {
            lines.push(
                "name a file with the token by --token-file, or set PINTLE_ACCESS_TOKEN".into(),
            );
        }
        if matches!(error, ClientError::Unreachable { .. }) {
            lines.push("start a server with `pintle serve`, or check --server".into());
        }
        if error.effect() == pintle_client::api::Effect::Unknown && error.problem().is_none() {
            lines.push("a change may have happened all the same: read before you repeat it".into());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_client::api::Problem;

    fn problem(code: &str) -> anyhow::Error {
        let kind = format!("urn:pintle:problem:{code}");
        let problem = Problem { kind, detail: "text".into(), ..Problem::default() };
        anyhow::Error::from(ClientError::Problem(Box::new(problem)))
    }

    #[test]
    fn each_kind_of_failure_has_its_code() {
        assert_eq!(of(&problem("not-found")), Exit::NOT_FOUND);
        assert_eq!(of(&problem("stale")), Exit::LOST);
        assert_eq!(of(&problem("lock-busy").context("lock x")), Exit::LOST);
        assert_eq!(of(&problem("unavailable")), Exit::UNAVAILABLE);
        assert_eq!(of(&problem("token-missing")), Exit::DENIED);
        assert_eq!(of(&problem("forbidden")), Exit::DENIED);
        assert_eq!(of(&problem("too-many-calls")), Exit::UNAVAILABLE);
        assert_eq!(of(&problem("internal")), Exit::FAILED);
        assert_eq!(of(&problem("invalid")), Exit::USAGE);
        assert_eq!(of(&anyhow::anyhow!("anything else")), Exit::FAILED);
        assert_eq!(of(&Failure::error(Exit(77), "own")), Exit(77));
    }

    #[test]
    fn causes_are_told_once() {
        let error = problem("x").context("put a: text");
        assert_eq!(describe(&error), "put a: text");
        let error = problem("x").context("put a");
        assert_eq!(describe(&error), "put a: text");
        let source = std::io::Error::other(std::io::Error::other("refused"));
        let unreachable = ClientError::Unreachable { url: "u".into(), source: source.into() };
        assert_eq!(describe(&unreachable.into()), "cannot connect to u: refused");
    }
}
