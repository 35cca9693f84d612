//! Bounds on what the host keeps of a plugin's answers where no other limit counts it. An answer
//! beyond them ends its incarnation: what only the plugin understands cannot be cut.

use crate::plugin::bindings::{config, lock, registry};

/// Most bytes of what only the plugin understands: a version, an epoch, the name of a claim.
const OPAQUE_BYTES_MAX: usize = 4 << 10;
/// Most bytes of an instance that is kept outside of a watch: 64 labels have some 70 KiB.
const INSTANCE_BYTES_MAX: usize = 1 << 20;

/// What is too long, in words.
type Bounded = Result<(), String>;

pub(crate) fn config_event(event: &config::Event) -> Bounded {
    use config::Event;
    match event {
        Event::Put(put) => {
            let previous = put.previous.as_ref();
            version(Some(&put.entry.version))?;
            version(previous.map(|entry| &entry.version))
        }
        Event::Removed(removed) => {
            let previous = removed.previous.as_ref();
            version(removed.version.as_ref())?;
            version(previous.map(|entry| &entry.version))
        }
        Event::SnapshotEnd(at) | Event::Progress(at) => version(at.as_ref()),
        Event::SnapshotBegin | Event::Resync(_) | Event::Ended(_) => Ok(()),
    }
}

pub(crate) fn registry_event(event: &registry::Event) -> Bounded {
    match event {
        registry::Event::Taken(owner) => instance(owner),
        // The rest is weighed by the watch, or cut.
        _ => Ok(()),
    }
}

pub(crate) fn lock_event(event: &lock::Event) -> Bounded {
    let lock::Event::State(state) = event else { return Ok(()) };
    opaque("a lock's name", &state.name)?;
    state.holders.iter().chain(&state.waiters).try_for_each(|claim| {
        opaque("a claim's name", &claim.claim_id)?;
        token(claim.token.as_ref())
    })
}

pub(crate) fn token(token: Option<&lock::Token>) -> Bounded {
    token.map_or(Ok(()), |token| opaque("an epoch", &token.epoch))
}

pub(crate) fn instance(state: &registry::InstanceState) -> Bounded {
    let registry::Instance { service, id, host, version, zone, labels, .. } = &state.instance;
    let texts = [service, id, host, version, &state.owner, &state.version];
    let texts = texts.into_iter().chain(zone).chain(state.operator.as_ref().map(|it| &it.note));
    let labels = labels.iter().flat_map(|(name, value)| [name, value]);
    let bytes: usize = texts.chain(labels).map(String::len).sum();
    within("an instance", bytes, INSTANCE_BYTES_MAX)
}

fn version(version: Option<&String>) -> Bounded {
    version.map_or(Ok(()), |version| opaque("a version", version))
}

fn opaque(what: &str, text: &str) -> Bounded {
    within(what, text.len(), OPAQUE_BYTES_MAX)
}

fn within(what: &str, bytes: usize, max: usize) -> Bounded {
    if bytes <= max {
        return Ok(());
    }
    Err(format!("{what} of {bytes} bytes; it may have {max}"))
}
