//! What was asked of the servers, and how often that failed.

use super::client::Failure;
use crate::wire::ErrorCode;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Counted over all sessions of a plugin, for health.
#[derive(Default)]
pub(crate) struct Tally {
    operations: Cell<u64>,
    /// By the code of the error that it becomes.
    errors: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    /// A request goes out.
    pub(super) fn asked(&self) {
        self.operations.set(self.operations.get() + 1);
    }

    /// A request has failed, unless that is an answer: that a node is missing, or there already.
    pub(super) fn failed(&self, failure: &Failure) {
        if let Failure::Refused(code) = failure
            && is_answer(*code)
        {
            return;
        }
        let code = failure.explain("").code().to_owned();
        *self.errors.borrow_mut().entry(code).or_default() += 1;
    }

    /// Requests so far, without signs of life.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Failures so far, by code.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.borrow().clone()
    }
}

fn is_answer(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NO_NODE | ErrorCode::NODE_EXISTS | ErrorCode::BAD_VERSION | ErrorCode::NOT_EMPTY
    )
}
