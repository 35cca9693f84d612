//! What can go wrong with a call, told apart by who failed.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// What a failed call may have done to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing happened: the call may be repeated as it is.
    None,
    /// Unknown: read before you repeat.
    Unknown,
}

/// A call on a capability that did not succeed.
///
/// It prints as `backend main (etcd 0.1.0): lock.acquire: …`. Who failed is in [`Error::cause`].
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    cause: Cause,
    place: Option<Place>,
}

/// Where a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the backend.
    pub backend: Arc<str>,
    /// Plugin and its version: `etcd 0.1.0`.
    pub plugin: Arc<str>,
    /// Capability and function: `lock.acquire`.
    pub operation: &'static str,
}

/// Who failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Cause {
    /// The plugin answered with an error.
    #[error("{0}")]
    Plugin(PluginError),
    /// The host did not pass the call on.
    #[error("{0}")]
    Refused(Refusal),
    /// The incarnation ended while the call was under way.
    #[error("{0}")]
    Ended(Ended),
}

/// An error as a plugin reports it (`pintle:plugin/types.error`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// One of an open list: `invalid`, `unsupported`, `unavailable` …
    pub code: String,
    /// What may have happened.
    pub effect: Effect,
    /// How long the server asked to wait.
    pub retry_after: Option<Duration>,
    /// One sentence for a person.
    pub message: String,
    /// Facts for a program or a log.
    pub details: BTreeMap<String, String>,
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// Why the host did not pass a call on. Nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No backend has this name.
    #[error("no backend is named \"{name}\"; known: {}{}", known.join(", "), meant(name, known))]
    UnknownBackend {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A default was asked for, and none is chosen.
    #[error(
        "no default backend for {capability}: name one, or set `{capability}` in [defaults]; \
         with it: {}", candidates.join(", ")
    )]
    NoDefault {
        /// `config`, `registry`, `lock` or `tracing`.
        capability: &'static str,
        /// Backends that offer it.
        candidates: Vec<String>,
    },
    /// The plugin does not offer the capability.
    #[error("the plugin does not offer {capability}; it offers {}", offered.join(", "))]
    NoCapability {
        /// What was asked for.
        capability: &'static str,
        /// What there is.
        offered: Vec<String>,
    },
    /// The plugin does not declare the feature that the call needs.
    #[error("needs the feature `{feature}`, which this backend does not offer")]
    Unsupported {
        /// Name of the feature.
        feature: &'static str,
    },
    /// An argument that can never work.
    #[error("{argument}: {problem}")]
    Invalid {
        /// Which argument.
        argument: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The backend does not run at the moment.
    #[error("the backend is not running: {reason}")]
    NotRunning {
        /// Its state, and why.
        reason: String,
    },
    /// Too many calls are waiting for this backend.
    #[error(
        "too many calls at once: {waiting} wait for their turn on this backend{}",
        no_more(*queued_max)
    )]
    Busy {
        /// How many.
        waiting: usize,
        /// How many may, where that is why this one may not. Else it did, for as long as it could.
        queued_max: Option<usize>,
    },
    /// A limit of the host was reached.
    #[error("the host's limit is reached: {what}")]
    Exhausted {
        /// How much of what there may be.
        what: String,
    },
    /// A lease was named to a backend that did not grant it.
    #[error(
        "the lease belongs to backend \"{owner}\"; a precondition holds within one backend only"
    )]
    ForeignLease {
        /// The backend that granted the lease.
        owner: String,
    },
    /// The lease is not held any more.
    #[error("the lease is not held any more: {reason}")]
    LeaseLost {
        /// Why it was lost.
        reason: String,
    },
    /// The host is shutting down.
    #[error("the host is shutting down")]
    ShuttingDown,
}

fn meant(name: &str, known: &[String]) -> String {
    match crate::settings::closest(name, known.iter().map(String::as_str)) {
        Some(candidate) => format!("; did you mean \"{candidate}\"?"),
        None => String::new(),
    }
}

/// The incarnation ended while the call was under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How it ended: a trap with its message, or the limit that was passed.
    pub reason: Arc<str>,
    /// [`Effect::Unknown`] when the call may have reached the server.
    pub effect: Effect,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plugin ended during the call: {}", self.reason)
    }
}

impl Error {
    pub(crate) fn new(cause: Cause, place: Place) -> Self {
        Self(Box::new(Inner { cause, place: Some(place) }))
    }

    /// Who failed, and how.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// Where it failed; absent when no backend was chosen yet.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The plugin's code, or one of the host's own: `unknown-backend`, `no-default`,
    /// `no-capability`, `unsupported`, `invalid`, `not-running`, `busy`, `foreign-lease`,
    /// `lease-lost`, `shutting-down`, `plugin-ended`.
    #[must_use]
    pub fn code(&self) -> &str {
        match &self.0.cause {
            Cause::Plugin(error) => &error.code,
            Cause::Ended(_) => "plugin-ended",
            Cause::Refused(refusal) => match refusal {
                Refusal::UnknownBackend { .. } => "unknown-backend",
                Refusal::NoDefault { .. } => "no-default",
                Refusal::NoCapability { .. } => "no-capability",
                Refusal::Unsupported { .. } => "unsupported",
                Refusal::Invalid { .. } => "invalid",
                Refusal::NotRunning { .. } => "not-running",
                Refusal::Busy { .. } => "busy",
                Refusal::Exhausted { .. } => "exhausted",
                Refusal::ForeignLease { .. } => "foreign-lease",
                Refusal::LeaseLost { .. } => "lease-lost",
                Refusal::ShuttingDown => "shutting-down",
            },
        }
    }

    /// What the call may have done.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match &self.0.cause {
            Cause::Plugin(error) => error.effect,
            Cause::Ended(ended) => ended.effect,
            Cause::Refused(_) => Effect::None,
        }
    }

    /// How long to wait before another attempt, where somebody said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.0.cause {
            Cause::Plugin(error) => error.retry_after,
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    ///
    /// With [`Effect::Unknown`] a mutation has to be read back first.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &self.0.cause {
            Cause::Plugin(error) => {
                matches!(error.code.as_str(), "unavailable" | "exhausted" | "timeout")
                    || error.retry_after.is_some()
            }
            Cause::Ended(_) => true,
            Cause::Refused(refusal) => {
                matches!(refusal, Refusal::NotRunning { .. } | Refusal::Busy { .. })
            }
        }
    }

    /// What a person can do about it, where there is something to say beyond the message.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let advice = match self.code() {
            "unauthenticated" => "check the user, password or token in the backend's settings",
            "denied" => "ask for the permission on the server, or use another user",
            "unavailable" => {
                "check that the endpoints are right and the server runs: `pintle backend check`"
            }
            "not-running" => "see why: `pintle backend list`",
            "unsupported" => "`pintle plugin inspect` shows what the plugin offers",
            "compacted" => "read the present state, or ask for a newer version",
            "busy" | "exhausted" => "try again later, or raise the limit",
            "plugin-ended" => "it is being restarted; `pintle backend list` shows how often",
            "timeout" => "raise the backend's `limits.call`, or check the server's load",
            _ => return None,
        };
        Some(advice)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(Inner { cause: Cause::Refused(refusal), place: None }))
    }
}

fn no_more(queued_max: Option<usize>) -> String {
    let named = |most| {
        format!(
            ", and calls_queued_max = {most} may; make fewer at a time, or raise it in the backend's \
             limits.more"
        )
    };
    queued_max.map(named).unwrap_or_default()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.0.place {
            if place.plugin.is_empty() {
                write!(f, "backend {}: {}: ", place.backend, place.operation)?;
            } else {
                write!(f, "backend {} ({}): {}: ", place.backend, place.plugin, place.operation)?;
            }
        }
        self.0.cause.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("cause", &self.0.cause).field("place", &self.0.place).finish()
    }
}

impl std::error::Error for Error {}
