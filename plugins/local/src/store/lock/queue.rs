//! One lock's holders and waiters, and the rule of who may hold it.

use crate::store::record::ClaimRecord;
use crate::store::{Result, StoreError};
use imbl::OrdMap;

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With other shared holders.
    Shared,
    /// With up to so many holders of permits, this one included.
    Permit(u32),
}

/// A holder of a lock, or one who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The claim's lease; names it to forced release.
    pub lease: u64,
    /// How the lock is or will be held.
    pub mode: Mode,
    /// Who asked.
    pub owner: String,
    /// The lease's time to live, in milliseconds.
    pub ttl_ms: u32,
    /// Present for exclusive holders: greater than that of every earlier one.
    pub token: Option<u64>,
    /// Since when it is held or waits, in milliseconds of the Unix epoch.
    pub since_ms: u64,
}

/// Who has a lock and who waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockState {
    /// In the order in which they asked for it.
    pub holders: Vec<Claim>,
    /// In the order in which they will get it.
    pub waiters: Vec<Claim>,
}

/// Claims by their lease. Leases are numbered in the order of the requests, so that waiters stand in
/// the order in which they came; all holders have the same mode.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockQueue {
    pub(crate) holders: OrdMap<u64, Claim>,
    pub(crate) waiters: OrdMap<u64, Claim>,
}

impl LockQueue {
    /// Whether one more may hold it now, leaving aside who waits.
    pub(crate) fn admits(&self, mode: Mode) -> bool {
        let Some((_, holder)) = self.holders.get_min() else { return true };
        match mode {
            Mode::Exclusive => false,
            Mode::Shared => holder.mode == mode,
            Mode::Permit(count) => holder.mode == mode && self.holders.len() < count as usize,
        }
    }

    /// Whether somebody uses this name with another number of permits.
    pub(crate) fn clashes_with(&self, mode: Mode) -> Option<u32> {
        let Mode::Permit(own) = mode else { return None };
        self.holders.values().chain(self.waiters.values()).find_map(|claim| match claim.mode {
            Mode::Permit(count) if count != own => Some(count),
            _ => None,
        })
    }

    pub(crate) fn state(&self) -> LockState {
        LockState {
            holders: self.holders.values().cloned().collect(),
            waiters: self.waiters.values().cloned().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }
}

impl Claim {
    pub(crate) fn to_record(&self) -> ClaimRecord {
        let (mode, permits) = match self.mode {
            Mode::Exclusive => (0, 0),
            Mode::Shared => (1, 0),
            Mode::Permit(count) => (2, count),
        };
        ClaimRecord {
            mode,
            permits,
            owner: self.owner.clone(),
            ttl_ms: self.ttl_ms,
            token: self.token.unwrap_or_default(),
            since_ms: self.since_ms,
        }
    }
}

/// Takes a row of the claims apart: the lock's name and the claim.
pub(crate) fn claim_from_record(key: &[u8], record: ClaimRecord) -> Result<(String, Claim)> {
    let damaged =
        |reason: &str| StoreError::Damaged { table: "lock.claims", reason: reason.to_owned() };
    let (name, lease) = key
        .split_last_chunk::<8>()
        .and_then(|(head, lease)| {
            let name = std::str::from_utf8(head.strip_suffix(&[0])?).ok()?;
            Some((name.to_owned(), u64::from_be_bytes(*lease)))
        })
        .ok_or_else(|| damaged("a key is not of the form `name 0x00 lease`"))?;
    let mode = match record.mode {
        0 => Mode::Exclusive,
        1 => Mode::Shared,
        2 => Mode::Permit(record.permits),
        _ => return Err(damaged("a claim has an unknown mode")),
    };
    let claim = Claim {
        lease,
        mode,
        owner: record.owner,
        ttl_ms: record.ttl_ms,
        token: (record.token != 0).then_some(record.token),
        since_ms: record.since_ms,
    };
    Ok((name, claim))
}
