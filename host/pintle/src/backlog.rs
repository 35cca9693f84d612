//! What a watch from a version has delivered and nobody has taken yet.
//!
//! It knows where the watch has to be opened again so that each change comes once: after which
//! version, and how many changes of the version after that were delivered already (a transaction
//! changes several keys at one version).

use std::{collections::VecDeque, sync::Arc};

use crate::{
    config::{ChangePosition, Entry, Version, WatchEvent},
    error::Error,
    mirror::Upstream,
};

/// Most changes that wait for the reader.
const WAITING_LEN_MAX: usize = 1024;
/// Bytes of keys and values that wait for the reader, after which no more are taken.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Whether an event was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Taken,
    /// Too much waits: close the watch, and open it again when everything was read.
    Full,
}

pub(crate) struct Backlog {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Where the watch continues; nothing while only a snapshot can help.
    position: Option<ChangePosition>,
    /// The version whose changes `position` counts.
    counted: Option<Version>,
    /// Changes that an opening repeats.
    repeated: u32,
    in_snapshot: bool,
    end: End,
    /// Where the watch continues for one who has seen what was taken.
    taken_position: ChangePosition,
}

struct Waiting {
    event: WatchEvent,
    bytes: usize,
    position: Option<ChangePosition>,
}

enum End {
    Open,
    /// The reader is to be told.
    Ended(Error),
    Told,
}

impl Backlog {
    /// An empty one, of a watch that continues at `position`.
    pub(crate) fn new(position: ChangePosition) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            position: Some(position.clone()),
            counted: None,
            repeated: 0,
            in_snapshot: false,
            end: End::Open,
            taken_position: position,
        }
    }

    /// Prepares for an opening: the version to open from; without one, a snapshot comes and the
    /// reader is told why.
    pub(crate) fn reopen(&mut self) -> Option<Version> {
        self.counted = None;
        self.repeated = 0;
        let Some(position) = &self.position else {
            self.apply(Upstream::Resync("the watch was interrupted and begins anew".into()));
            return None;
        };
        self.repeated = position.delivered;
        Some(position.after.clone())
    }

    /// Takes the next event of the watch.
    pub(crate) fn apply(&mut self, event: Upstream<Entry>) -> Fit {
        match event {
            Upstream::Put { value, previous, .. } => {
                let version = Some(value.version.clone());
                return self.change(WatchEvent::Put { entry: value, previous }, version);
            }
            Upstream::Removed { key, version, previous } => {
                let version = version.map(|text| Version::from(&*text));
                let event = WatchEvent::Removed { key, version: version.clone(), previous };
                return self.change(event, version);
            }
            Upstream::SnapshotBegin => {
                self.in_snapshot = true;
                self.continue_at(None);
                self.push(WatchEvent::SnapshotBegin);
            }
            Upstream::SnapshotEnd(version) => {
                self.in_snapshot = false;
                self.continue_at(version);
                self.push(WatchEvent::SnapshotEnd);
            }
            Upstream::Resync(reason) => {
                self.in_snapshot = false;
                self.continue_at(None);
                self.forget_snapshot();
                self.push(WatchEvent::Resync(reason));
            }
            Upstream::Progress(Some(version)) if !self.in_snapshot => {
                self.continue_at(Some(version));
            }
            Upstream::Progress(_) => {}
            Upstream::Ended(error) if matches!(self.end, End::Open) => self.end = End::Ended(error),
            Upstream::Ended(_) => {}
        }
        Fit::Taken
    }

    /// The next event for the reader, or the error with which the watch ended, or nothing after it
    /// (`Some(None)`). Without any of these it has to wait.
    pub(crate) fn take(&mut self) -> Option<Option<Result<WatchEvent, Error>>> {
        if let Some(Waiting { event, bytes, position }) = self.waiting.pop_front() {
            self.waiting_bytes -= bytes;
            if let Some(position) = position {
                self.taken_position = position;
            }
            return Some(Some(Ok(event)));
        }
        match std::mem::replace(&mut self.end, End::Told) {
            End::Open => {
                self.end = End::Open;
                None
            }
            End::Ended(error) => Some(Some(Err(error))),
            End::Told => Some(None),
        }
    }

    /// Where a watch continues for one who has seen everything that was taken.
    pub(crate) fn taken_position(&self) -> &ChangePosition {
        // Proof that nothing is missing reaches further than the last change.
        match &self.position {
            Some(position) if self.waiting.is_empty() => position,
            _ => &self.taken_position,
        }
    }

    fn change(&mut self, event: WatchEvent, version: Option<Version>) -> Fit {
        if self.in_snapshot {
            // All of it is taken: a part of a snapshot is of no use, and it cannot be continued.
            self.push(event);
            return Fit::Taken;
        }
        if self.is_repeated(version.as_ref()) {
            return Fit::Taken;
        }
        if self.waiting.len() >= WAITING_LEN_MAX || self.waiting_bytes >= WAITING_BYTES_MAX {
            return Fit::Full;
        }
        self.count(version);
        self.push(event);
        Fit::Taken
    }

    /// Whether the reader has this change from an earlier opening.
    fn is_repeated(&mut self, version: Option<&Version>) -> bool {
        if self.repeated == 0 {
            return false;
        }
        let goes_on = self.counted.is_none() || self.counted.as_ref() == version;
        if !goes_on {
            self.repeated = 0;
            return false;
        }
        self.repeated -= 1;
        self.counted = version.cloned();
        true
    }

    /// Moves the position over a change at `version`.
    fn count(&mut self, version: Option<Version>) {
        let Some(version) = version else { return self.continue_at(None) };
        if self.counted.as_ref() == Some(&version) {
            if let Some(position) = &mut self.position {
                position.delivered = position.delivered.saturating_add(1);
            }
            return;
        }
        let finished = self.counted.replace(version);
        let after = finished.or_else(|| self.position.take().map(|position| position.after));
        self.position = after.map(|after| ChangePosition { after, delivered: 1 });
    }

    fn continue_at(&mut self, version: Option<Arc<str>>) {
        self.counted = None;
        self.repeated = 0;
        self.position = version.map(|text| Version::from(&*text).into());
    }

    /// Takes back a snapshot that another one supersedes.
    fn forget_snapshot(&mut self) {
        let begin = |waiting: &Waiting| matches!(waiting.event, WatchEvent::SnapshotBegin);
        if let Some(position) = self.waiting.iter().position(begin) {
            self.waiting.truncate(position);
        }
        while let Some(last) = self.waiting.back()
            && matches!(last.event, WatchEvent::Resync(_))
        {
            self.waiting.pop_back();
        }
        self.waiting_bytes = self.waiting.iter().map(|waiting| waiting.bytes).sum();
    }

    fn push(&mut self, event: WatchEvent) {
        let bytes = bytes_of(&event);
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { event, bytes, position: self.position.clone() });
    }
}

fn bytes_of(event: &WatchEvent) -> usize {
    let entry = |entry: &Entry| entry.key.len() + entry.value.len();
    let previous = |previous: &Option<Arc<Entry>>| previous.as_deref().map_or(0, entry);
    match event {
        WatchEvent::Put { entry: put, previous: replaced } => entry(put) + previous(replaced),
        WatchEvent::Removed { key, previous: removed, .. } => key.len() + previous(removed),
        WatchEvent::SnapshotBegin | WatchEvent::SnapshotEnd | WatchEvent::Resync(_) => 0,
    }
}

#[cfg(test)]
mod tests;
