//! Locks.

use pintle::lock as host;
use pintle_api::lock as api;

use super::epoch_ms;

pub(crate) fn mode(mode: api::Mode) -> host::Mode {
    match mode {
        api::Mode::Exclusive => host::Mode::Exclusive,
        api::Mode::Shared => host::Mode::Shared,
        api::Mode::Permit(permits) => host::Mode::Permit(permits),
    }
}

pub(crate) fn token(token: &host::Token) -> api::Token {
    api::Token { epoch: token.epoch.to_string(), value: token.value }
}

pub(crate) fn claim(claim: &host::Claim) -> api::Claim {
    api::Claim {
        claim_id: claim.claim_id.clone(),
        owner: claim.owner.clone(),
        mode: match claim.mode {
            host::Mode::Exclusive => api::Mode::Exclusive,
            host::Mode::Shared => api::Mode::Shared,
            host::Mode::Permit(permits) => api::Mode::Permit(permits),
        },
        token: claim.token.as_ref().map(token),
        since_ms: claim.since.map(epoch_ms),
    }
}

pub(crate) fn state(state: &host::LockState) -> api::LockState {
    api::LockState {
        name: state.name.clone(),
        holders: state.holders.iter().map(claim).collect(),
        waiters: state.waiters.iter().map(claim).collect(),
    }
}
