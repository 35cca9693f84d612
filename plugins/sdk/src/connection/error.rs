//! Why a connection could not be opened.

use crate::{Endpoint, Error};
use std::fmt;
use std::time::Duration;

/// Where opening a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectStep {
    /// While the name was looked up.
    LookUp,
    /// While connecting to the address.
    Connect,
}

/// A connection could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    endpoint: String,
    step: ConnectStep,
    reason: &'static str,
    detail: Option<String>,
}

impl ConnectError {
    pub(super) fn new(
        endpoint: &Endpoint,
        step: ConnectStep,
        reason: &'static str,
        detail: Option<String>,
    ) -> Self {
        Self { endpoint: endpoint.to_string(), step, reason, detail }
    }

    pub(super) fn timeout(endpoint: &Endpoint, limit: Duration) -> Self {
        let detail = format!("no connection within {} ms", limit.as_millis());
        Self::new(endpoint, ConnectStep::Connect, "timeout", Some(detail))
    }

    /// The endpoint, as the operator wrote it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where it failed.
    pub fn step(&self) -> ConnectStep {
        self.step
    }

    /// A name as WASI has it: `connection-refused`, `name-unresolvable`, `access-denied` …
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    fn is_denied(&self) -> bool {
        self.reason == "access-denied"
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = match self.step {
            ConnectStep::LookUp => "cannot look up",
            ConnectStep::Connect => "cannot connect to",
        };
        write!(f, "{doing} {}: {}", self.endpoint, self.reason.replace('-', " "))?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if self.is_denied() {
            f.write_str("; it has to stand in `endpoints` or `allow` of this backend")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        let message = error.to_string();
        let made =
            if error.is_denied() { Self::denied(message) } else { Self::unavailable(message) };
        let step = match error.step {
            ConnectStep::LookUp => "look-up",
            ConnectStep::Connect => "connect",
        };
        made.detail("endpoint", error.endpoint)
            .detail("step", step)
            .detail("socket-error", error.reason)
    }
}
