//! What a check is, and how it ends.

use std::time::Duration;

use futures::future::BoxFuture;
use pintle::{Capability, direct::Failure};

use crate::trial::Trial;

/// One way to see whether a promise is kept.
pub struct Check {
    /// The promise, or the feature, that it is about; where that has several checks, with a word of
    /// its own behind a slash: `config.cas/delete`.
    pub id: &'static str,
    /// What is to be seen, as a sentence.
    pub says: &'static str,
    /// Without all of these it is skipped.
    pub needs: &'static [Need],
    /// Whether it is left out of a quick look.
    pub slow: bool,
    /// Whether it makes the server forget its past where the operator says how: then it runs alone.
    pub forgets: bool,
    pub(crate) run: for<'a> fn(&'a mut Trial) -> BoxFuture<'a, Outcome>,
}

/// What a check needs besides the capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A feature has to be declared; if it is not, asking for it has to be refused.
    Feature(&'static str),
    /// One of these capabilities besides the check's own.
    Capability(Capability),
    /// Something of the plugin is kept outside of its incarnation: on a server or in files.
    Keeps,
    /// Two incarnations can work on the same data at once.
    Shares,
    /// Its servers are reached over a network, which the suite breaks.
    Network,
}

impl Check {
    /// The promise or feature that it is about.
    #[must_use]
    pub fn promise(&self) -> &'static str {
        self.id.split_once('/').map_or(self.id, |(promise, _)| promise)
    }

    /// The capability that it is about; none for what every plugin has.
    #[must_use]
    pub fn capability(&self) -> Option<Capability> {
        match self.id.split_once('.')?.0 {
            "watch" => Some(Capability::Config),
            word => word.parse().ok(),
        }
    }
}

/// How a check ended: well, or with a [`Stop`].
pub(crate) type Outcome<T = ()> = Result<T, Stop>;

/// Why a check went no further.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    /// The promise is not kept: what was expected, and what was seen.
    Broken(String),
    /// It cannot be told: the server was away, or the machine too slow.
    Unclear(String),
    /// It does not apply to this plugin, and why.
    Skipped(String),
}

impl Stop {
    /// With more of what was seen.
    pub(crate) fn and(self, more: String) -> Self {
        match self {
            Self::Broken(text) => Self::Broken(format!("{text}; {more}")),
            Self::Unclear(text) => Self::Unclear(format!("{text}; {more}")),
            skipped @ Self::Skipped(_) => skipped,
        }
    }
}

impl From<Failure> for Stop {
    /// A call that has to succeed did not.
    fn from(failure: Failure) -> Self {
        match &failure {
            Failure::Error(error)
                if matches!(error.code.as_str(), "unavailable" | "exhausted" | "timeout") =>
            {
                Self::Unclear(failure.to_string())
            }
            Failure::Error(_) | Failure::Ended(_) => Self::Broken(failure.to_string()),
            Failure::Host(reason) => Self::Unclear(reason.clone()),
        }
    }
}

/// Ends the check as broken unless `$holds`.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::check::Stop::Broken(format!($($text)+)));
        }
    };
}
pub(crate) use ensure;

/// One line of a list of checks.
macro_rules! check {
    ($id:literal, $function:path, $says:literal $(, needs $($need:expr),+)? $(; $($mark:ident)+)?) => {
        $crate::check::Check {
            id: $id,
            says: $says,
            needs: &[$($($need),+)?],
            slow: $crate::check::check!(@slow $($($mark)+)?),
            forgets: $crate::check::check!(@forgets $($($mark)+)?),
            run: |trial| Box::pin($function(trial)),
        }
    };
    (@slow) => { false };
    (@slow slow $($more:ident)*) => { true };
    (@slow forgets $($more:ident)*) => { $crate::check::check!(@slow $($more)*) };
    (@forgets) => { false };
    (@forgets forgets $($more:ident)*) => { true };
    (@forgets slow $($more:ident)*) => { $crate::check::check!(@forgets $($more)*) };
}
pub(crate) use check;

/// How long a call may take that has no reason to wait.
pub(crate) const PROMPT: Duration = Duration::from_secs(5);

/// How long anything is waited for that has to come on its own.
pub(crate) const SOON: Duration = Duration::from_secs(10);
