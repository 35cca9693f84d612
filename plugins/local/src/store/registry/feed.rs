//! The latest changes of instances, for watches to follow.

use super::types::InstanceState;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most changes that are kept for watches that lag behind; beyond them they begin anew.
pub(crate) const FEED_CHANGES_MAX: usize = 4_096;

/// A change of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceChange {
    /// The service.
    pub service: String,
    /// The instance.
    pub id: String,
    /// What is there now.
    pub state: Option<InstanceState>,
    /// What was there before.
    pub previous: Option<InstanceState>,
}

/// A bounded tail of all changes, each numbered one more than the one before.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    changes: VecDeque<Arc<InstanceChange>>,
    /// Number of the newest change.
    newest: u64,
}

impl Feed {
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    pub(crate) fn push(&mut self, change: InstanceChange) {
        if self.changes.len() >= FEED_CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Arc::new(change));
        self.newest += 1;
    }

    /// Marks a gap: every watch begins anew.
    pub(crate) fn interrupt(&mut self) {
        self.changes.clear();
        self.newest += 1;
    }

    /// The change that follows number `after`; an error when it is no longer kept.
    pub(crate) fn following(&self, after: u64) -> Result<Option<Arc<InstanceChange>>, Behind> {
        if after >= self.newest {
            return Ok(None);
        }
        let back = usize::try_from(self.newest - after).unwrap_or(usize::MAX);
        match self.changes.len().checked_sub(back).and_then(|index| self.changes.get(index)) {
            Some(change) => Ok(Some(Arc::clone(change))),
            None => Err(Behind),
        }
    }
}

/// The reader missed changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Behind;
