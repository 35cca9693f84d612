//! Numbers of leases. etcd lets the client choose them.

use pintle_plugin_sdk::checkpoint;
use pintle_plugin_sdk::random::random_u64;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};

/// Bits of a number that count within a family; the others name the family. A number is positive, so
/// it has 63.
const COUNT_BITS: u32 = 23;
/// Families that a checkpoint names, when several incarnations end one after the other.
const FAMILIES_MAX: usize = 64;

/// Who gave a lease its number: one incarnation. Found at random among 2⁴⁰, so that no two
/// incarnations of any host share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Family(i64);

impl Family {
    fn random() -> Self {
        // 40 bits, not 0: a lease's number must not be 0.
        let number = random_u64() >> 24;
        Self(i64::try_from(number).unwrap_or_default().max(1))
    }

    /// Whether this family gave the number.
    fn has(self, lease: i64) -> bool {
        lease >> COUNT_BITS == self.0
    }
}

/// The numbers that this incarnation gives, and what it inherited.
pub(crate) struct LeaseIds {
    own: RefCell<Vec<Family>>,
    next: Cell<i64>,
    inherited: Vec<Family>,
}

/// What a checkpoint says: whose leases the successor may take over.
#[derive(Deserialize, Serialize)]
struct Legacy {
    families: Vec<Family>,
}

impl LeaseIds {
    /// New numbers, and the families that the predecessor's checkpoint names. Writes a checkpoint
    /// before any number is given.
    pub(crate) fn inherit(resume: Option<&[u8]>) -> Self {
        let legacy: Option<Legacy> = resume.and_then(|state| match serde_json::from_slice(state) {
            Ok(legacy) => Some(legacy),
            Err(error) => {
                tracing::warn!(%error, "the predecessor's checkpoint cannot be read");
                None
            }
        });
        let inherited = legacy.map(|legacy| legacy.families).unwrap_or_default();
        let ids = Self { own: RefCell::default(), next: Cell::new(0), inherited };
        ids.found();
        ids
    }

    /// A number that was not given before.
    pub(crate) fn next(&self) -> i64 {
        if self.next.get() >> COUNT_BITS > 0 {
            self.found();
        }
        let count = self.next.get();
        self.next.set(count + 1);
        let family = self.own.borrow().last().map_or(0, |family| family.0);
        family << COUNT_BITS | count
    }

    /// Whether a predecessor gave the number.
    pub(crate) fn is_inherited(&self, lease: i64) -> bool {
        self.inherited.iter().any(|family| family.has(lease))
    }

    /// Whether this incarnation gave the number.
    pub(crate) fn is_own(&self, lease: i64) -> bool {
        self.own.borrow().iter().any(|family| family.has(lease))
    }

    /// Whether there was a predecessor.
    pub(crate) fn has_inherited(&self) -> bool {
        !self.inherited.is_empty()
    }

    /// Begins a family, and names it in the checkpoint.
    fn found(&self) {
        let mut own = self.own.borrow_mut();
        own.push(Family::random());
        self.next.set(0);
        let known = || self.inherited.iter().chain(own.iter());
        let skipped = known().count().saturating_sub(FAMILIES_MAX);
        let families = known().skip(skipped).copied().collect();
        match serde_json::to_vec(&Legacy { families }) {
            Ok(state) => checkpoint(&state),
            Err(error) => tracing::error!(%error, "a checkpoint cannot be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_plugin_sdk::testing;

    #[test]
    fn a_successor_knows_the_numbers_of_all_its_predecessors() {
        let first = LeaseIds::inherit(None);
        let (one, two) = (first.next(), first.next());
        assert!(one > 0 && two > 0 && one != two);
        assert!(first.is_own(one) && !first.is_inherited(one) && !first.has_inherited());
        let second = LeaseIds::inherit(testing::checkpoint().as_deref());
        assert!(second.is_inherited(one) && second.is_inherited(two) && !second.is_own(one));
        let three = second.next();
        let third = LeaseIds::inherit(testing::checkpoint().as_deref());
        assert!(third.is_inherited(one) && third.is_inherited(three));
        assert!(!third.is_inherited(third.next()));
    }

    #[test]
    fn numbers_do_not_end_and_many_generations_fit_a_checkpoint() {
        let ids = LeaseIds::inherit(None);
        ids.next.set(1 << COUNT_BITS);
        let later = ids.next();
        assert!(later > 0 && ids.is_own(later));
        assert_eq!(ids.own.borrow().len(), 2);
        for _ in 0..200 {
            LeaseIds::inherit(testing::checkpoint().as_deref());
        }
        assert!(testing::checkpoint().unwrap().len() < 2_000);
    }

    #[test]
    fn a_checkpoint_that_cannot_be_read_is_none() {
        assert!(!LeaseIds::inherit(Some(b"{")).has_inherited());
    }
}
