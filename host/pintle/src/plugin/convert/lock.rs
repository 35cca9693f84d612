//! `pintle:lock`.

use super::time;
use crate::{
    lock::{Claim, LockState, Mode, Token},
    plugin::bindings::lock as wit,
};

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

pub(crate) fn claim(claim: wit::Claim) -> Claim {
    Claim {
        owner: claim.owner,
        mode: from_mode(claim.mode),
        token: claim.token.map(token),
        claim_id: claim.claim_id,
        since: time(claim.since_ms),
    }
}

pub(crate) fn state(state: wit::LockState) -> LockState {
    LockState {
        name: state.name,
        holders: state.holders.into_iter().map(claim).collect(),
        waiters: state.waiters.into_iter().map(claim).collect(),
    }
}
