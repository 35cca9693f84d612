//! Why a call failed, in the words of `pintle:plugin/types.error`.

use crate::bindings::wire::types;
use std::fmt;
use std::time::Duration;

pub use types::Effect;

/// Why a call failed: a code, what the call may have done, and one sentence for a person.
///
/// Each constructor names a code. An error starts with effect `none`; say
/// [`effect_unknown`](Self::effect_unknown) when the call may have changed something.
///
/// ```
/// use pintle_plugin_sdk::Error;
///
/// let error = Error::unavailable("no answer from etcd1:2379: connection refused")
///     .effect_unknown()
///     .detail("endpoint", "etcd1:2379");
/// assert_eq!(error.code(), "unavailable");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: String,
    effect: Effect,
    retry_after: Option<Duration>,
    message: String,
    details: Vec<(String, String)>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $(
            $(#[$doc])*
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new($code, message)
            }
        )*
    };
}

impl Error {
    codes! {
        /// The request can never succeed as it stands.
        invalid = "invalid";
        /// This plugin or this server does not offer what was asked.
        unsupported = "unsupported";
        /// The server did not accept who we are.
        unauthenticated = "unauthenticated";
        /// The server knows us and refuses.
        denied = "denied";
        /// A named thing that has to exist does not.
        not_found = "not-found";
        /// The request clashes with the state of the server, and no outcome says how.
        conflict = "conflict";
        /// The version asked for is no longer kept.
        compacted = "compacted";
        /// A limit of the server; name it with `.detail("limit", …)`.
        too_large = "too-large";
        /// A quota; later it may succeed.
        exhausted = "exhausted";
        /// No server can be reached, or it has no quorum.
        unavailable = "unavailable";
        /// Not done within the time that the caller gave.
        timeout = "timeout";
        /// Ended because the caller asked for it.
        cancelled = "cancelled";
        /// A defect of the plugin.
        internal = "internal";
    }

    /// An error with a code of your own; hosts that do not know it go by its effect.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            effect: Effect::None,
            retry_after: None,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// The call may have changed something.
    #[must_use]
    pub fn effect_unknown(mut self) -> Self {
        self.effect = Effect::Unknown;
        self
    }

    /// The call certainly changed nothing.
    #[must_use]
    pub fn effect_none(mut self) -> Self {
        self.effect = Effect::None;
        self
    }

    /// The server asked to wait this long before another attempt.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a fact for a program or a log: `endpoint`, `status`, `limit` …
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.push((name.into(), value.into()));
        self
    }

    /// Says before the message what was being done: `reading the lock: …`.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// One of an open list.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What the call may have done.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// One sentence for a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Facts, in the order in which they were added.
    pub fn details(&self) -> &[(String, String)] {
        &self.details
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Error {}

impl From<Error> for types::Error {
    fn from(error: Error) -> Self {
        Self {
            code: error.code,
            effect: error.effect,
            retry_after_ms: error.retry_after.map(millis),
            message: error.message,
            details: error.details,
        }
    }
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        Self {
            code: error.code,
            effect: error.effect,
            retry_after: error.retry_after_ms.map(|ms| Duration::from_millis(ms.into())),
            message: error.message,
            details: error.details,
        }
    }
}

/// Milliseconds rounded up, so that nobody comes back too early.
fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
