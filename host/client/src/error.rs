//! Why a call did not succeed.

use std::time::Duration;

use pintle_api::{Effect, Problem};

use crate::transport::BoxError;

/// Why a call did not succeed. Lost races are results of the calls, not errors.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No connection came about. Nothing happened.
    #[error("cannot connect to {url}: {}", innermost(.source.as_ref()))]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The connection failed before the answer was complete. A change may have happened.
    #[error("the connection to {url} broke: {}", innermost(.source.as_ref()))]
    Interrupted {
        /// The server.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// No answer within the time that the client allows. A change may have happened.
    #[error("{url} did not answer within {} ms", .after.as_millis())]
    Timeout {
        /// The server.
        url: String,
        /// How long the client waited.
        after: Duration,
    },
    /// The answer is not what the API promises.
    #[error("the answer of {url} is not one of Pintle's: {reason}")]
    Malformed {
        /// The server.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// An argument that can never work; nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    /// The problem document, if the server gave one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// The stable code of the problem document; empty if there is none.
    #[must_use]
    pub fn code(&self) -> &str {
        self.problem().map_or("", Problem::code)
    }

    /// What the call may have done.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::Problem(problem) => problem.effect,
            Self::Unreachable { .. } | Self::Invalid(_) => Effect::None,
            Self::Interrupted { .. } | Self::Timeout { .. } | Self::Malformed { .. } => {
                Effect::Unknown
            }
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Problem(problem) => {
                matches!(problem.status, 429 | 502 | 503 | 504) || problem.retry_after_ms.is_some()
            }
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Timeout { .. } => true,
            Self::Malformed { .. } | Self::Invalid(_) => false,
        }
    }
}

/// The cause at the bottom, which is the one that says something ("connection refused").
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
