//! What a watch from a version has delivered and nobody has taken yet.
//!
//! It knows where the watch has to be opened again so that each change comes once: after which
//! version, and how many changes of the version after that were delivered already (a transaction
//! changes several keys at one version).

use std::{collections::VecDeque, sync::Arc};

use crate::{
    config::{ChangePosition, DeliveredPart, Entry, Version, WatchEvent},
    error::{Error, Refusal},
    mirror::{Upstream, Weight},
};

/// Most changes that wait for the reader.
const WAITING_LEN_MAX: usize = 1024;
/// Bytes of changes that wait for the reader, after which no more are taken.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Most entries of a snapshot that wait for the reader. All of it is taken, or the watch ends.
const SNAPSHOT_LEN_MAX: usize = 1 << 20;
/// Bytes of a snapshot that wait for the reader, after which the watch ends.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

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
    /// Where the watch continues.
    position: ChangePosition,
    /// The version of the last change, while `position` has none.
    newest: Option<Version>,
    /// Changes that an opening repeats.
    repeated: Option<DeliveredPart>,
    in_snapshot: bool,
    end: End,
    /// Where the watch continues for one who has seen what was taken.
    taken_position: ChangePosition,
}

struct Waiting {
    event: WatchEvent,
    bytes: usize,
    position: ChangePosition,
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
            position: position.clone(),
            newest: None,
            repeated: None,
            in_snapshot: false,
            end: End::Open,
            taken_position: position,
        }
    }

    /// Prepares for an opening: the version to open from; without one, a snapshot comes and the
    /// reader is told why.
    pub(crate) fn reopen(&mut self) -> Option<Version> {
        self.newest = None;
        let ChangePosition::After { version, part } = &self.position else {
            self.apply(Upstream::Resync("the watch was interrupted and begins anew".into()));
            return None;
        };
        self.repeated.clone_from(part);
        Some(version.clone())
    }

    /// Whether nothing more is taken.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.end, End::Open)
    }

    /// Takes the next event of the watch.
    pub(crate) fn apply(&mut self, event: Upstream<Entry>) -> Fit {
        if self.is_over() {
            return Fit::Taken;
        }
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
            // The end of nothing.
            Upstream::SnapshotEnd(_) if !self.in_snapshot => {}
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
            Upstream::Ended(error) => self.end = End::Ended(error),
        }
        Fit::Taken
    }

    /// The next event for the reader, or the error with which the watch ended, or nothing after it
    /// (`Some(None)`). Without any of these it has to wait.
    pub(crate) fn take(&mut self) -> Option<Option<Result<WatchEvent, Error>>> {
        if let Some(Waiting { event, bytes, position }) = self.waiting.pop_front() {
            self.waiting_bytes -= bytes;
            self.taken_position = position;
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
        if self.waiting.is_empty() { &self.position } else { &self.taken_position }
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
        // A change of another version ends the repetition: the repeated one may be gone by now.
        let goes_on = |part: &DeliveredPart| part.count > 0 && Some(&part.version) == version;
        self.repeated = self.repeated.take().filter(goes_on);
        let Some(part) = &mut self.repeated else { return false };
        part.count -= 1;
        true
    }

    /// Moves the position over a change at `version`.
    fn count(&mut self, version: Option<Version>) {
        let Some(version) = version else { return self.continue_at(None) };
        let first = |version| Some(DeliveredPart { version, count: 1 });
        match &mut self.position {
            ChangePosition::After { part: Some(part), .. } if part.version == version => {
                part.count = part.count.saturating_add(1);
            }
            ChangePosition::After { version: after, part } => {
                if let Some(finished) = std::mem::replace(part, first(version)) {
                    *after = finished.version;
                }
            }
            ChangePosition::Snapshot => {
                let finished = self.newest.replace(version.clone()).filter(|last| *last != version);
                if let Some(after) = finished {
                    self.position = ChangePosition::After { version: after, part: first(version) };
                }
            }
        }
    }

    fn continue_at(&mut self, version: Option<Arc<str>>) {
        self.newest = None;
        self.repeated = None;
        self.position = match version {
            Some(text) => Version::from(&*text).into(),
            None => ChangePosition::Snapshot,
        };
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
        if self.waiting.len() >= SNAPSHOT_LEN_MAX
            || self.waiting_bytes + bytes > SNAPSHOT_BYTES_MAX + WAITING_BYTES_MAX
        {
            return self.give_up();
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { event, bytes, position: self.position.clone() });
    }

    /// Ends a watch whose snapshot is too large. What waits is of no use without the rest of it.
    fn give_up(&mut self) {
        let what = format!(
            "{SNAPSHOT_LEN_MAX} entries or {} MiB of a snapshot that wait for their reader",
            SNAPSHOT_BYTES_MAX >> 20
        );
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
        self.end = End::Ended(Refusal::Exhausted { what }.into());
    }
}

fn bytes_of(event: &WatchEvent) -> usize {
    let previous = |previous: &Option<Arc<Entry>>| previous.as_deref().map_or(0, Weight::bytes);
    let texts = match event {
        WatchEvent::Put { entry, previous: replaced } => entry.bytes() + previous(replaced),
        WatchEvent::Removed { key, version, previous: removed } => {
            let version = version.as_ref().map_or(0, |version| version.as_str().len());
            key.len() + version + previous(removed)
        }
        WatchEvent::Resync(reason) => reason.len(),
        WatchEvent::SnapshotBegin | WatchEvent::SnapshotEnd => 0,
    };
    size_of::<Waiting>() + texts
}

#[cfg(test)]
mod tests;
