//! A resource that is guarded by fencing tokens.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Report, Token};

/// A write that a resource took, in the order in which it took them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedWrite {
    /// Which of the resources.
    pub resource: String,
    /// Who wrote.
    pub writer: String,
    /// The token that came with it.
    pub token: Token,
}

/// A write was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleToken {
    /// The highest token that was seen.
    pub highest: Token,
}

/// Resources by name that remember the highest token and refuse lower ones, or, to show what the
/// check is good for, take everything.
#[derive(Debug)]
pub struct Resource {
    checks: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    highest: BTreeMap<String, Token>,
    accepted: Vec<AcceptedWrite>,
    refused: u64,
}

impl Resource {
    /// Resources that check tokens.
    pub fn checking() -> Resource {
        Resource { checks: true, state: Mutex::default() }
    }

    /// Resources that take every write.
    pub fn unchecked() -> Resource {
        Resource { checks: false, state: Mutex::default() }
    }

    /// Writes with this token.
    ///
    /// # Errors
    /// [`StaleToken`] when a higher one was seen. A token of another epoch than the last is taken:
    /// the operator began a new one.
    pub fn write(&self, resource: &str, writer: &str, token: Token) -> Result<(), StaleToken> {
        let mut state = self.lock();
        if let Some(highest) = state.highest.get(resource)
            && highest.epoch == token.epoch
            && highest.value > token.value
            && self.checks
        {
            let highest = highest.clone();
            state.refused += 1;
            return Err(StaleToken { highest });
        }
        state.highest.insert(resource.to_owned(), token.clone());
        let (resource, writer) = (resource.to_owned(), writer.to_owned());
        state.accepted.push(AcceptedWrite { resource, writer, token });
        Ok(())
    }

    /// The writes taken so far.
    pub fn accepted(&self) -> Vec<AcceptedWrite> {
        self.lock().accepted.clone()
    }

    /// How many writes were refused.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that no resource took a write after one with a higher token of the same epoch.
pub fn check_writes(accepted: &[AcceptedWrite]) -> Report {
    let mut report = Report { checked: accepted.len() as u64, ..Report::default() };
    let mut highest: BTreeMap<(&str, &str), (usize, &AcceptedWrite)> = BTreeMap::new();
    for (position, write) in accepted.iter().enumerate() {
        let line = |position: usize, write: &AcceptedWrite| {
            let Token { epoch, value } = &write.token;
            format!("  write {position} by {} with token {epoch}/{value}", write.writer)
        };
        match highest.get(&(write.resource.as_str(), write.token.epoch.as_str())) {
            Some((before, higher)) if higher.token.value > write.token.value => {
                let excerpt = format!("{}\n{}", line(*before, higher), line(position, write));
                report.violation("stale write", &format!("resource {}", write.resource), excerpt);
            }
            _ => {
                highest.insert((&write.resource, &write.token.epoch), (position, write));
            }
        }
    }
    report
}
