//! What the store knows without asking the database. Its maps are persistent, so that a turn works
//! on a copy and a turn that fails leaves no trace.

use super::config::retention::LogStats;
use super::lease::{Kept, Leases};
use super::lock::{Claim, LockQueue, claim_from_record};
use super::record::{ClaimRecord, InstanceRecord, LogPart, decode};
use super::tables::{CLAIMS, INSTANCES, LOG, META, meta};
use super::{Result, StoreError, registry};
use imbl::{OrdMap, OrdSet};
use redb::{ReadTransaction, ReadableTable};
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The newest revision.
    pub(crate) revision: u64,
    /// The oldest revision that can be read.
    pub(crate) compacted: u64,
    /// How many times the store was opened, this time included.
    pub(crate) incarnation: u64,
    /// Leases made by this incarnation.
    pub(crate) leases_made: u32,
    /// Earlier incarnations whose registrations this one continues.
    pub(crate) predecessors: OrdSet<u64>,
    pub(crate) log: LogStats,
    pub(crate) leases: Leases,
    pub(crate) locks: OrdMap<String, Arc<LockQueue>>,
    /// Names of the locks that leases wait for.
    pub(crate) waiting: OrdMap<u64, Arc<str>>,
}

/// What the database says of revisions.
pub(crate) struct Revisions {
    pub(crate) revision: u64,
    pub(crate) compacted: u64,
    pub(crate) log: LogStats,
}

/// A held claim or a kept instance, as the database has it.
pub(crate) struct StoredLease {
    pub(crate) number: u64,
    pub(crate) ttl_ms: u32,
    pub(crate) kept: Kept,
    /// Present for claims.
    pub(crate) claim: Option<Claim>,
}

impl Memory {
    /// Takes in what an earlier incarnation left; every lease runs for its whole time again.
    pub(crate) fn take_over(&mut self, stored: StoredLease, now_ns: u64) {
        if let (Kept::Claim(name), Some(claim)) = (&stored.kept, stored.claim) {
            let queue = self.locks.entry(name.to_string()).or_default();
            Arc::make_mut(queue).holders.insert(stored.number, claim);
        }
        self.leases.insert(stored.number, stored.ttl_ms, now_ns, stored.kept);
    }

    pub(crate) fn set_revisions(&mut self, revisions: &Revisions) {
        self.revision = revisions.revision;
        self.compacted = revisions.compacted;
        self.log = revisions.log;
    }
}

/// Reads the counters.
pub(crate) fn read_revisions(txn: &ReadTransaction) -> Result<Revisions> {
    let mut log = LogStats::default();
    let mut newest = 0;
    for row in txn.open_table(LOG)?.iter()? {
        let (id, record) = row?;
        let (revision, part) = id.value();
        if part == 0 {
            let record: LogPart = decode("config.log", record.value())?;
            log.add(record.modified_ms, record.bytes);
            newest = revision;
        }
    }
    let unlogged = read_number(txn, meta::REVISION)?.unwrap_or_default();
    let compacted = read_number(txn, meta::COMPACTED)?.unwrap_or_default();
    Ok(Revisions { revision: newest.max(unlogged).max(compacted), compacted, log })
}

/// Reads what leases keep.
pub(crate) fn read_leases(txn: &ReadTransaction) -> Result<Vec<StoredLease>> {
    let mut leases = Vec::new();
    for row in txn.open_table(CLAIMS)?.iter()? {
        let (key, record) = row?;
        let record: ClaimRecord = decode("lock.claims", record.value())?;
        let (name, claim) = claim_from_record(key.value(), record)?;
        leases.push(StoredLease {
            number: claim.lease,
            ttl_ms: claim.ttl_ms,
            kept: Kept::Claim(Arc::from(name)),
            claim: Some(claim),
        });
    }
    for row in txn.open_table(INSTANCES)?.iter()? {
        let (key, record) = row?;
        let record: InstanceRecord = decode("registry.instances", record.value())?;
        if record.lease != 0 {
            let (service, id) = registry::read::split(key.value())?;
            leases.push(StoredLease {
                number: record.lease,
                ttl_ms: record.ttl_ms,
                kept: Kept::Instance(Arc::from(service), Arc::from(id)),
                claim: None,
            });
        }
    }
    Ok(leases)
}

/// Reads a number of the meta table.
pub(crate) fn read_number(txn: &ReadTransaction, name: &str) -> Result<Option<u64>> {
    Ok(read_bytes(txn, name)?.map(u64::from_be_bytes))
}

/// Reads a value of the meta table that has so many bytes.
pub(crate) fn read_bytes<const N: usize>(
    txn: &ReadTransaction,
    name: &str,
) -> Result<Option<[u8; N]>> {
    let Some(bytes) = txn.open_table(META)?.get(name)? else { return Ok(None) };
    bytes.value().try_into().map(Some).map_err(|_| StoreError::Damaged {
        table: "meta",
        reason: format!("`{name}` does not have {N} bytes"),
    })
}
