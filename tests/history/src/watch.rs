//! Did a watcher see what it was promised?

mod checker;
mod written;

use crate::Report;

pub use written::{Change, Written};

/// What a watch is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One key.
    Key(String),
    /// Everything below a prefix: `a/b` covers `a/b/c`, not `a/b` and not `a/bc`; empty covers all.
    Prefix(String),
}

impl Target {
    fn covers(&self, key: &str) -> bool {
        match self {
            Target::Key(only) => key == only,
            Target::Prefix(prefix) if prefix.is_empty() => true,
            Target::Prefix(prefix) => {
                key.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// With a snapshot.
    Snapshot,
    /// From a version: of each key, how many of its changes that version includes (0 if not named).
    After(Vec<(String, usize)>),
}

/// How much a watch promises. Both: final states arrive, versions never go back, gaps are marked,
/// nothing outside the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Each change once and in order, unless a resync covers it.
    EveryChange,
    /// Changes in between may be left out.
    FinalState,
}

/// One thing that a watcher saw, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A snapshot begins.
    SnapshotBegin,
    /// A value, in a snapshot or as a change.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Its version, if the backend's versions are unique.
        version: Option<String>,
    },
    /// A key was removed.
    Removed {
        /// The key.
        key: String,
        /// The version of the removal, where the backend tells.
        version: Option<String>,
    },
    /// A snapshot is complete.
    SnapshotEnd,
    /// Something may be missing; a snapshot follows.
    Resync(String),
    /// A sign of life.
    Progress,
    /// The watch is over for good.
    Ended(String),
    /// Not an event: the test knows that from here something was lost, so that a resync must follow.
    Gap,
}

/// A watcher, and all that it saw until the test had waited for the final state.
#[derive(Debug, Clone)]
pub struct Watcher {
    /// Named in violations.
    pub name: String,
    /// What it watched.
    pub target: Target,
    /// How it began.
    pub opening: Opening,
    /// What it was promised.
    pub promise: Promise,
    /// The most resyncs that it may have seen, for instance one for each reconnect.
    pub resyncs_max: Option<usize>,
    /// What it saw.
    pub seen: Vec<Seen>,
}

/// Checks what one watcher saw against what was written.
///
/// Changes are told apart by version, or by value where one side has no version: let values be
/// unique within a key then.
pub fn check_watch(written: &Written, watcher: &Watcher) -> Report {
    checker::Checker::new(written, watcher).run()
}
