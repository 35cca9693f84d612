//! Locks: who holds which name, and who waits for it.
//!
//! Holders are rows of the database and survive a crash until their lease runs out. Waiters are
//! kept in memory only: a waiter is a call that is running, and ends with it.

mod queue;
mod turn;

pub use queue::{Claim, LockState, Mode};
pub(crate) use queue::{LockQueue, claim_from_record};
pub use turn::{Acquire, Acquired, Grant, OWNER_BYTES_MAX, WAITERS_MAX};
