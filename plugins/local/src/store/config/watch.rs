//! Following keys: a snapshot, then every change, read from the log as the watcher gets to it.

use super::read;
use super::types::{ConfigEvent, List, Target};
use crate::store::record::{LogPart, decode};
use crate::store::tables::{LOG, VERSIONS};
use crate::store::{Result, Store, StoreError};

/// Most keys that one call of a watch's `next` delivers.
pub const WATCH_STEP_EVENTS: usize = 256;
/// Bytes of values after which a watcher is given what was read so far.
const STEP_BYTES_MAX: usize = 512 * 1024;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With all that is there.
    Snapshot,
    /// With the first change after this revision.
    After(u64),
}

/// A watch's position. It holds no resources: it reads the log when it is asked, and begins anew
/// when the log does not reach back far enough.
#[derive(Debug)]
pub struct ConfigWatch {
    target: Target,
    previous: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A snapshot is to begin, after the given gap.
    Begin(Option<String>),
    /// A snapshot of this revision is under way.
    Snapshot { revision: u64, after: Option<String> },
    /// What comes next.
    Follow(Position),
}

/// One key in the log.
#[derive(Clone, Copy, Debug)]
struct Position {
    revision: u64,
    part: u32,
    index: usize,
}

impl ConfigWatch {
    /// A watch that nobody has read from.
    pub fn new(target: Target, start: WatchStart, previous: bool) -> Self {
        let state = match start {
            WatchStart::Snapshot => State::Begin(None),
            WatchStart::After(revision) => State::Follow(Position::after(revision)),
        };
        Self { target, previous, state }
    }

    /// What has happened since the last call, or part of it; empty when there is nothing new.
    pub fn next(&mut self, store: &Store) -> Result<Vec<ConfigEvent>> {
        match &self.state {
            State::Begin(reason) => {
                let mut events: Vec<_> =
                    reason.clone().map(ConfigEvent::Resync).into_iter().collect();
                events.push(ConfigEvent::SnapshotBegin);
                self.state = State::Snapshot { revision: store.revision(), after: None };
                Ok(events)
            }
            State::Snapshot { revision, after } => {
                let (revision, after) = (*revision, after.clone());
                self.snapshot(store, revision, after)
            }
            State::Follow(position) => {
                let position = *position;
                match missed(store, position) {
                    Some(reason) => {
                        self.state = State::Begin(Some(reason));
                        self.next(store)
                    }
                    None => self.follow(store, position),
                }
            }
        }
    }

    /// Begins anew: whoever reads has missed something and knows it.
    pub fn restart(&mut self) {
        self.state = State::Begin(None);
    }

    /// The revision up to which nothing is missing, between a snapshot and the next gap.
    pub fn complete_through(&self) -> Option<u64> {
        match &self.state {
            State::Follow(position) if position.part == 0 && position.index == 0 => {
                Some(position.revision.saturating_sub(1))
            }
            _ => None,
        }
    }

    fn snapshot(
        &mut self,
        store: &Store,
        revision: u64,
        after: Option<String>,
    ) -> Result<Vec<ConfigEvent>> {
        let (entries, more) = match &self.target {
            Target::Key(key) => match store.entry(key, Some(revision)) {
                Ok(entry) => (entry.into_iter().collect(), false),
                Err(error) => return self.begin_again(store, error),
            },
            Target::Prefix(prefix) => {
                let list = List {
                    prefix: prefix.clone(),
                    after,
                    limit: WATCH_STEP_EVENTS,
                    keys_only: false,
                    at: Some(revision),
                };
                match store.list(&list) {
                    Ok(page) => (page.entries, page.more),
                    Err(error) => return self.begin_again(store, error),
                }
            }
        };
        let last = entries.last().map(|entry| entry.key.clone());
        let mut events: Vec<_> =
            entries.into_iter().map(|entry| ConfigEvent::Put { entry, previous: None }).collect();
        if more {
            self.state = State::Snapshot { revision, after: last };
        } else {
            events.push(ConfigEvent::SnapshotEnd(revision));
            self.state = State::Follow(Position::after(revision));
        }
        Ok(events)
    }

    fn begin_again(&mut self, store: &Store, error: StoreError) -> Result<Vec<ConfigEvent>> {
        match error {
            StoreError::Compacted { .. } => {
                let reason = "the snapshot took so long that its version is no longer kept";
                self.state = State::Begin(Some(reason.to_owned()));
                self.next(store)
            }
            error => Err(error),
        }
    }

    fn follow(&mut self, store: &Store, from: Position) -> Result<Vec<ConfigEvent>> {
        if from.revision > store.revision() {
            return Ok(vec![]);
        }
        let txn = store.snapshot()?;
        let (log, versions) = (txn.open_table(LOG)?, txn.open_table(VERSIONS)?);
        let mut events = Vec::new();
        let mut bytes = 0;
        for row in log.range((from.revision, from.part)..)? {
            let (id, record) = row?;
            let (revision, part) = id.value();
            let record: LogPart = decode("config.log", record.value())?;
            let resumes = (revision, part) == (from.revision, from.part);
            let first = if resumes { from.index } else { 0 };
            for (index, key) in record.keys.iter().enumerate().skip(first) {
                if !self.target.covers(key) {
                    continue;
                }
                if events.len() >= WATCH_STEP_EVENTS || bytes >= STEP_BYTES_MAX {
                    self.state = State::Follow(Position { revision, part, index });
                    return Ok(events);
                }
                let version = read::version_at(&versions, key, revision)?
                    .filter(|version| version.revision == revision)
                    .ok_or_else(|| StoreError::Damaged {
                        table: "config.versions",
                        reason: format!("revision {revision} of `{key}` is missing"),
                    })?;
                let previous = match self.previous {
                    true => read::entry_at(&versions, key, revision.saturating_sub(1))?,
                    false => None,
                };
                bytes += key.len() + version.value.len();
                events.push(match version.into_entry(key) {
                    Some(entry) => ConfigEvent::Put { entry, previous },
                    None => ConfigEvent::Removed { key: key.clone(), revision, previous },
                });
            }
        }
        self.state = State::Follow(Position::after(store.revision()));
        Ok(events)
    }
}

impl Position {
    fn after(revision: u64) -> Self {
        Self { revision: revision.saturating_add(1), part: 0, index: 0 }
    }
}

/// Why a watch cannot go on from a position.
fn missed(store: &Store, position: Position) -> Option<String> {
    let (oldest, newest) = (store.compacted(), store.revision());
    if position.revision <= oldest {
        Some(format!(
            "version {} is no longer kept, the oldest is {oldest}",
            position.revision.saturating_sub(1)
        ))
    } else if position.revision > newest.saturating_add(1) {
        Some(format!(
            "version {} does not exist, the newest is {newest}: the store was replaced by an \
             older one",
            position.revision.saturating_sub(1)
        ))
    } else {
        None
    }
}
