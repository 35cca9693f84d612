//! How much of the sandbox's memory trees and watches may take.

use crate::session::Failure;
use std::cell::Cell;
use std::rc::Rc;

/// What is kept for one node beside its path and data.
pub(crate) const NODE_BYTES: usize = 256;

/// What all watches of a plugin may keep together, with the changes that wait for them.
pub(crate) struct Budget {
    limit: usize,
    taken: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { limit, taken: Cell::new(0) })
    }

    /// The share of one more watch: nothing yet.
    pub(crate) fn share(self: &Rc<Self>) -> Share {
        Share { budget: Rc::clone(self), own: Cell::new(0) }
    }
}

/// What one watch keeps, given back when it is dropped.
pub(crate) struct Share {
    budget: Rc<Budget>,
    own: Cell<usize>,
}

impl Share {
    /// How much it may become.
    pub(crate) fn bytes_max(&self) -> usize {
        let of_others = self.budget.taken.get().saturating_sub(self.own.get());
        self.budget.limit.saturating_sub(of_others)
    }

    /// Takes this much from now on.
    ///
    /// # Errors
    ///
    /// When it is more than the others leave.
    pub(crate) fn set(&self, bytes: usize) -> Result<(), Failure> {
        if bytes > self.bytes_max() {
            return Err(self.exceeded());
        }
        let of_others = self.budget.taken.get().saturating_sub(self.own.replace(bytes));
        self.budget.taken.set(of_others + bytes);
        Ok(())
    }

    /// What a watch fails with that would need more.
    pub(crate) fn exceeded(&self) -> Failure {
        Failure::OverLimit {
            name: "watched_bytes_max",
            what: "the watches of this backend would keep more bytes than `watched_bytes_max`",
            limit: self.budget.limit,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let of_others = self.budget.taken.get().saturating_sub(self.own.get());
        self.budget.taken.set(of_others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_share_what_there_is_and_give_it_back() {
        let budget = Budget::new(100);
        let (one, other) = (budget.share(), budget.share());
        one.set(60).unwrap();
        assert_eq!((one.bytes_max(), other.bytes_max()), (100, 40));
        let refused = other.set(41).unwrap_err().explain("watching");
        assert_eq!(refused.code(), "exhausted");
        assert!(refused.message().contains("`watched_bytes_max` (at most 100)"), "{refused}");
        one.set(20).unwrap();
        other.set(80).unwrap();
        drop(one);
        assert_eq!(other.bytes_max(), 100);
    }
}
