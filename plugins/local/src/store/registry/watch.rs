//! Following instances: a snapshot, then every change.

use super::feed::{Behind, InstanceChange};
use super::read::{self, Scope};
use super::types::InstanceState;
use crate::store::tables::{INSTANCES, OVERRIDES};
use crate::store::{Result, Store, WATCH_STEP_EVENTS};
use std::sync::Arc;

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryEvent {
    /// A snapshot begins.
    SnapshotBegin,
    /// An instance of the snapshot.
    Present(Box<InstanceState>),
    /// The snapshot is complete.
    SnapshotEnd,
    /// An instance changed.
    Changed(Arc<InstanceChange>),
    /// Something is missing; a new snapshot follows.
    Resync(String),
}

/// A watch's position.
#[derive(Debug)]
pub struct RegistryWatch {
    scope: Scope,
    state: State,
    /// Number of the change up to which `state` accounts for everything.
    seen: u64,
}

#[derive(Debug)]
enum State {
    /// A snapshot is to begin, after the given gap.
    Begin(Option<String>),
    /// Instances up to `after` were delivered; those that changed since wait in `changed`.
    Snapshot {
        after: Option<(String, String)>,
        changed: Vec<Arc<InstanceChange>>,
    },
    Follow,
}

impl RegistryWatch {
    /// A watch on one service, or on all.
    pub fn new(service: Option<String>) -> Self {
        let scope = service.map_or(Scope::All, Scope::Service);
        Self { scope, state: State::Begin(None), seen: 0 }
    }

    /// Begins anew: whoever reads has missed something and knows it.
    pub fn restart(&mut self) {
        self.state = State::Begin(None);
    }

    /// What has happened since the last call, or part of it; empty when there is nothing new.
    pub fn next(&mut self, store: &Store) -> Result<Vec<RegistryEvent>> {
        if let State::Begin(reason) = &self.state {
            let mut events: Vec<_> =
                reason.clone().map(RegistryEvent::Resync).into_iter().collect();
            events.push(RegistryEvent::SnapshotBegin);
            self.seen = store.feed.newest();
            self.state = State::Snapshot { after: None, changed: Vec::new() };
            return Ok(events);
        }
        let changes = match self.changes(store) {
            Ok(changes) => changes,
            Err(Behind) => {
                let reason = "the watch was too slow for the changes of instances";
                self.state = State::Begin(Some(reason.to_owned()));
                return self.next(store);
            }
        };
        match &mut self.state {
            State::Snapshot { after, changed } => {
                // What was delivered already is told after the snapshot; the rest will be read.
                let delivered = |change: &Arc<InstanceChange>| {
                    after
                        .as_ref()
                        .is_some_and(|(service, id)| (&change.service, &change.id) <= (service, id))
                };
                changed.extend(changes.into_iter().filter(delivered));
                self.snapshot(store)
            }
            _ => Ok(changes.into_iter().map(RegistryEvent::Changed).collect()),
        }
    }

    fn changes(&mut self, store: &Store) -> Result<Vec<Arc<InstanceChange>>, Behind> {
        let mut changes = Vec::new();
        let following = matches!(self.state, State::Follow);
        while let Some(change) = store.feed.following(self.seen)? {
            self.seen += 1;
            if matches!(&self.scope, Scope::Service(service) if *service != change.service) {
                continue;
            }
            changes.push(change);
            if following && changes.len() >= WATCH_STEP_EVENTS {
                break;
            }
        }
        Ok(changes)
    }

    fn snapshot(&mut self, store: &Store) -> Result<Vec<RegistryEvent>> {
        let State::Snapshot { after, changed } = &mut self.state else { return Ok(vec![]) };
        let txn = store.snapshot()?;
        let position = after.as_ref().map(|(service, id)| (service.as_str(), id.as_str()));
        let states = read::scan(
            &txn.open_table(INSTANCES)?,
            &txn.open_table(OVERRIDES)?,
            &self.scope,
            position,
            WATCH_STEP_EVENTS,
        )?;
        let complete = states.len() < WATCH_STEP_EVENTS;
        if let Some(last) = states.last() {
            *after = Some((last.instance.service.clone(), last.instance.id.clone()));
        }
        let mut events: Vec<_> =
            states.into_iter().map(Box::new).map(RegistryEvent::Present).collect();
        if complete {
            events.push(RegistryEvent::SnapshotEnd);
            events.extend(std::mem::take(changed).into_iter().map(RegistryEvent::Changed));
            self.state = State::Follow;
        }
        Ok(events)
    }
}
