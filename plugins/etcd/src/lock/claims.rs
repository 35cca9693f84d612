//! The queue of a lock: claims in the order in which they were made.

use crate::wire::layout::{Layout, claim_id};
use crate::wire::messages::{KeyValue, RangeRequest, ResponseHeader, SortOrder, SortTarget};
use pintle_plugin_sdk::lock::{Claim, LockState, Mode, Token};
use pintle_plugin_sdk::queue;
use pintle_plugin_sdk::record::ClaimRecord;

/// All claims on one lock at one revision.
#[derive(Debug)]
pub(crate) struct Queue {
    claims: Vec<Queued>,
    /// The revision of the store that it shows.
    pub(crate) revision: i64,
    cluster: u64,
}

#[derive(Debug)]
struct Queued {
    key: Vec<u8>,
    claim_id: String,
    create_revision: i64,
    record: ClaimRecord,
}

/// Where a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Holds,
    /// It can hold when the claim with this key is gone; none: when any before it is.
    WaitsFor(Option<Vec<u8>>),
    Gone,
}

impl Queue {
    /// The request that reads a queue.
    pub(super) fn read(layout: &Layout, lock: &str) -> RangeRequest {
        let range = layout.claims(lock);
        RangeRequest {
            key: range.start,
            range_end: range.end,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..RangeRequest::default()
        }
    }

    /// The queue that these keys are.
    pub(super) fn new(layout: &Layout, kvs: Vec<KeyValue>, header: ResponseHeader) -> Self {
        let mut claims: Vec<Queued> =
            kvs.into_iter().filter_map(|kv| Queued::new(layout, kv)).collect();
        claims.sort_by_key(|claim| claim.create_revision);
        Self { claims, revision: header.revision, cluster: header.cluster_id }
    }

    fn modes(&self) -> Vec<Mode> {
        self.claims.iter().map(|claim| claim.record.mode).collect()
    }

    /// Whether a further claim would hold at once.
    pub(super) fn would_hold(&self, mode: Mode) -> bool {
        queue::would_hold(&self.modes(), mode)
    }

    /// Where the claim stands that was made with this key at this revision.
    pub(super) fn standing(&self, key: &[u8], create_revision: i64) -> Standing {
        let own = |claim: &Queued| claim.key == key && claim.create_revision == create_revision;
        let Some(position) = self.claims.iter().position(own) else { return Standing::Gone };
        if position < queue::holders(&self.modes()) {
            return Standing::Holds;
        }
        let before = self.claims.get(..position).unwrap_or_default();
        let shared = self.claims.get(position).is_some_and(|own| own.record.mode == Mode::Shared);
        let permit =
            self.claims.get(position).is_some_and(|own| matches!(own.record.mode, Mode::Permit(_)));
        // Shared claims hold together: the one to wait for is the nearest of another kind.
        let blocker = before.iter().rfind(|claim| !shared || claim.record.mode != Mode::Shared);
        // Of those who share permits any may go first.
        Standing::WaitsFor(blocker.filter(|_| !permit).map(|claim| claim.key.clone()))
    }

    /// Who holds the lock, and who waits for it.
    pub(super) fn state(&self, lock: &str, generation: u32) -> LockState {
        let claims: Vec<Claim> =
            self.claims.iter().map(|claim| claim.shown(self.cluster, generation)).collect();
        let mut holders = claims;
        let waiters = holders.split_off(queue::holders(&self.modes()).min(holders.len()));
        LockState { name: lock.to_owned(), holders, waiters }
    }
}

impl Queued {
    fn new(layout: &Layout, kv: KeyValue) -> Option<Self> {
        let (_, claim_id) = layout.claim_named(&kv.key)?;
        let record = ClaimRecord::decode(&kv.value).unwrap_or_else(|error| {
            // etcd's own recipe writes no value. Whatever else this is, it excludes everybody.
            if !kv.value.is_empty() {
                tracing::warn!(%error, "a claim on a lock cannot be read");
            }
            let owner = format!("lease {:x}", kv.lease);
            ClaimRecord { mode: Mode::Exclusive, owner, since_ms: None }
        });
        Some(Self { key: kv.key, claim_id, create_revision: kv.create_revision, record })
    }

    fn shown(&self, cluster: u64, generation: u32) -> Claim {
        let ClaimRecord { mode, owner, since_ms } = self.record.clone();
        Claim {
            owner,
            mode,
            token: token(mode, cluster, generation, self.create_revision),
            claim_id: self.claim_id.clone(),
            since_ms,
        }
    }
}

/// The fencing token of a claim; exclusive ones have one.
///
/// The epoch is the cluster's identity, and how often an operator has said that it was restored.
pub(super) fn token(
    mode: Mode,
    cluster: u64,
    generation: u32,
    create_revision: i64,
) -> Option<Token> {
    let epoch = match generation {
        0 => claim_id(cluster.cast_signed()),
        _ => format!("{}-{generation}", claim_id(cluster.cast_signed())),
    };
    let value = u64::try_from(create_revision).unwrap_or_default();
    (mode == Mode::Exclusive).then_some(Token { epoch, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new("/prod/")
    }

    fn kv(id: &str, create_revision: i64, value: &[u8]) -> KeyValue {
        let key = layout().claim("job", id);
        KeyValue { key, create_revision, value: value.to_vec(), lease: 7, ..KeyValue::default() }
    }

    fn claim(id: &str, create_revision: i64, mode: Mode) -> KeyValue {
        let record = ClaimRecord { mode, owner: id.to_owned(), since_ms: None };
        kv(id, create_revision, &record.encode().unwrap())
    }

    fn queue(kvs: Vec<KeyValue>) -> Queue {
        let header = ResponseHeader { cluster_id: 0xab, revision: 99 };
        Queue::new(&layout(), kvs, header)
    }

    fn standing(queue: &Queue, id: &str) -> Standing {
        let key = layout().claim("job", id);
        let revision = queue.claims.iter().find(|claim| claim.key == key);
        queue.standing(&key, revision.map_or(0, |claim| claim.create_revision))
    }

    fn behind(id: &str) -> Standing {
        Standing::WaitsFor(Some(layout().claim("job", id)))
    }

    #[test]
    fn the_lowest_create_revision_holds_and_each_waits_for_the_one_before() {
        let queue = queue(vec![
            claim("a", 7, Mode::Exclusive),
            claim("b", 5, Mode::Exclusive),
            claim("c", 9, Mode::Exclusive),
        ]);
        assert_eq!(standing(&queue, "b"), Standing::Holds);
        assert_eq!(standing(&queue, "a"), behind("b"));
        assert_eq!(standing(&queue, "c"), behind("a"));
        let state = queue.state("job", 0);
        assert_eq!(state.holders[0].token, Some(Token { epoch: "ab".to_owned(), value: 5 }));
        assert_eq!(state.waiters.len(), 2);
        let restored = queue.state("job", 2).holders[0].token.clone().unwrap();
        assert_eq!(restored.epoch, "ab-2");
    }

    #[test]
    fn a_claim_that_was_made_again_is_another() {
        let queue = queue(vec![claim("a", 7, Mode::Exclusive)]);
        assert_eq!(queue.standing(&layout().claim("job", "a"), 6), Standing::Gone);
        assert_eq!(standing(&queue, "x"), Standing::Gone);
    }

    #[test]
    fn readers_wait_for_the_nearest_writer_and_permits_for_anyone() {
        let readers = queue(vec![
            claim("w", 1, Mode::Exclusive),
            claim("r", 2, Mode::Shared),
            claim("s", 3, Mode::Shared),
        ]);
        assert_eq!(standing(&readers, "s"), behind("w"));
        let permits = queue(vec![
            claim("a", 1, Mode::Permit(2)),
            claim("b", 2, Mode::Permit(2)),
            claim("c", 3, Mode::Permit(2)),
        ]);
        assert_eq!(standing(&permits, "b"), Standing::Holds);
        assert_eq!(standing(&permits, "c"), Standing::WaitsFor(None));
        assert_eq!(permits.state("job", 0).holders[0].token, None);
    }

    #[test]
    fn claims_of_etcds_own_recipe_and_unreadable_ones_exclude_everybody() {
        let queue = queue(vec![kv("2f", 1, b""), kv("x", 2, b"junk"), claim("a", 3, Mode::Shared)]);
        assert_eq!(standing(&queue, "a"), behind("x"));
        assert_eq!(queue.state("job", 0).holders[0].owner, "lease 7");
        assert!(!queue.would_hold(Mode::Shared));
    }
}
