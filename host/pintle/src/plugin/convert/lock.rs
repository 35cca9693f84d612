//! `pintle:lock`.

use super::time;
use crate::{
    lock::{Claim, LockState, Mode, Token},
    plugin::{bindings::lock as wit, guest::printable},
};

/// Most bytes that are shown of who holds a lock or waits for it.
const OWNER_BYTES_MAX: usize = 4 << 10;
/// Most holders that are shown of a lock, and most who wait for it.
const CLAIMS_MAX: usize = 1024;

pub(crate) const fn to_mode(mode: Mode) -> wit::Mode {
    match mode {
        Mode::Exclusive => wit::Mode::Exclusive,
        Mode::Shared => wit::Mode::Shared,
        Mode::Permit(permits) => wit::Mode::Permit(permits),
    }
}

const fn from_mode(mode: wit::Mode) -> Mode {
    match mode {
        wit::Mode::Exclusive => Mode::Exclusive,
        wit::Mode::Shared => Mode::Shared,
        wit::Mode::Permit(permits) => Mode::Permit(permits),
    }
}

pub(crate) fn token(token: wit::Token) -> Token {
    Token { epoch: token.epoch.into(), value: token.value }
}

fn claim(claim: wit::Claim) -> Claim {
    Claim {
        owner: printable(&claim.owner, OWNER_BYTES_MAX),
        mode: from_mode(claim.mode),
        token: claim.token.map(token),
        claim_id: claim.claim_id,
        since: time(claim.since_ms),
    }
}

/// The first of them.
pub(crate) fn claims(claims: Vec<wit::Claim>) -> Vec<Claim> {
    claims.into_iter().take(CLAIMS_MAX).map(claim).collect()
}

pub(crate) fn state(state: wit::LockState) -> LockState {
    LockState { name: state.name, holders: claims(state.holders), waiters: claims(state.waiters) }
}
