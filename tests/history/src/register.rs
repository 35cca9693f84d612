//! Operations on keys, and their recorder.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was asked of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Read the value.
    Get,
    /// Write this value if the expectation holds. Values should be unique in a history.
    Put {
        /// The value.
        value: String,
        /// What has to be true before.
        expect: Expect,
    },
    /// Remove the value if the expectation holds.
    Delete {
        /// What has to be true before.
        expect: Expect,
    },
}

/// What has to be true of a key for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// There is no value.
    Absent,
    /// There is a value.
    Exists,
    /// There is a value of this version.
    Version(String),
}

/// A value as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: String,
    /// Its version; `None` where the backend has no versions that can be relied on.
    pub version: Option<String>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a get.
    Got(Option<Entry>),
    /// To a put: done, with the new version where it is told.
    Stored(Option<String>),
    /// To a delete: there was a value and it is gone.
    Deleted,
    /// To a delete: there was no value.
    Absent,
    /// To a put or delete: the expectation did not hold; this was there at that moment.
    Stale(Option<Entry>),
    /// The same, without a claim about what was there at that moment.
    Refused,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok(Answer),
    /// It certainly had no effect and never will.
    Failed,
    /// It may have happened, may still happen at any later time, or may never.
    Unknown,
}

/// One recorded operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who called.
    pub client: u32,
    /// The key.
    pub key: String,
    /// What was asked.
    pub call: Call,
    /// How it ended.
    pub outcome: Outcome,
    /// Stamp of the call.
    pub invoked: u64,
    /// Stamp of the end. Operations that share a stamp count as concurrent.
    pub returned: u64,
}

/// Records operations from any number of tasks and threads. Clones share the record.
#[derive(Debug, Clone, Default)]
pub struct History {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl History {
    /// An empty record. All keys are absent at the beginning of a history.
    pub fn new() -> History {
        History::default()
    }

    /// To be called just before the operation is begun.
    ///
    /// When the result is dropped without an end, as a cancelled future does, the outcome is
    /// unknown.
    pub fn begin(&self, client: u32, key: &str, call: Call) -> Pending {
        let invoked = self.stamp();
        let operation = Operation {
            client,
            key: key.to_owned(),
            call,
            outcome: Outcome::Unknown,
            invoked,
            returned: 0,
        };
        Pending { history: self.clone(), operation: Some(operation) }
    }

    /// What has been recorded so far, in the order of ends.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    fn stamp(&self) -> u64 {
        self.shared.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.shared.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation that has begun.
#[derive(Debug)]
#[must_use = "dropping it records an unknown outcome"]
pub struct Pending {
    history: History,
    operation: Option<Operation>,
}

impl Pending {
    /// It was answered.
    pub fn ok(mut self, answer: Answer) {
        self.end(Outcome::Ok(answer));
    }

    /// It failed and certainly had no effect.
    pub fn failed(mut self) {
        self.end(Outcome::Failed);
    }

    /// It failed and may have had an effect.
    pub fn unknown(mut self) {
        self.end(Outcome::Unknown);
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(mut operation) = self.operation.take() else { return };
        operation.returned = self.history.stamp();
        operation.outcome = outcome;
        self.history.lock().push(operation);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} [{}..", self.client, self.invoked)?;
        match self.outcome {
            Outcome::Unknown => write!(f, "?] ")?,
            _ => write!(f, "{}] ", self.returned)?,
        }
        match &self.call {
            Call::Get => write!(f, "get")?,
            Call::Put { value, expect } => write!(f, "put {value:?}{expect}")?,
            Call::Delete { expect } => write!(f, "delete{expect}")?,
        }
        match &self.outcome {
            Outcome::Ok(answer) => write!(f, " -> {answer}"),
            Outcome::Failed => write!(f, " -> failed"),
            Outcome::Unknown => write!(f, " -> unknown"),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Anything => Ok(()),
            Expect::Absent => write!(f, " if absent"),
            Expect::Exists => write!(f, " if there is one"),
            Expect::Version(version) => write!(f, " if version {version}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Got(entry) => write!(f, "{}", Shown(entry)),
            Answer::Stored(Some(version)) => write!(f, "stored as version {version}"),
            Answer::Stored(None) => write!(f, "stored"),
            Answer::Deleted => write!(f, "deleted"),
            Answer::Absent => write!(f, "absent"),
            Answer::Stale(entry) => write!(f, "stale, there is {}", Shown(entry)),
            Answer::Refused => write!(f, "stale"),
        }
    }
}

struct Shown<'a>(&'a Option<Entry>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => write!(f, "nothing"),
            Some(Entry { value, version: Some(version) }) => {
                write!(f, "{value:?} of version {version}")
            }
            Some(Entry { value, version: None }) => write!(f, "{value:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelled_operation_is_recorded_as_unknown() {
        let history = History::new();
        let call = Call::Put { value: "a".into(), expect: Expect::Anything };
        drop(history.begin(1, "k", call));
        history.begin(2, "k", Call::Get).ok(Answer::Got(None));
        let operations = history.operations();
        assert_eq!(operations[0].outcome, Outcome::Unknown);
        assert!(operations[0].returned < operations[1].invoked);
        assert_eq!(operations[1].to_string(), "client 2 [2..3] get -> nothing");
    }
}
