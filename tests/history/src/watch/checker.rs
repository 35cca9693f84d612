//! Follows one watcher through what it saw.

use std::collections::{BTreeMap, BTreeSet};

use super::{Opening, Promise, Seen, Watcher, Written};
use crate::Report;

pub(super) struct Checker<'a> {
    written: &'a Written,
    watcher: &'a Watcher,
    report: Report,
    places: BTreeMap<&'a str, Place>,
    phase: Phase<'a>,
    gap_unmarked: bool,
    resyncs: usize,
    /// Rules already reported of a key: one excerpt is enough.
    reported: BTreeSet<(&'static str, &'a str)>,
    /// Late changes of unknown outcome that were seen.
    late: BTreeSet<(&'a str, usize)>,
}

/// How far into a key's changes the watcher is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// This many changes are behind for certain.
    floor: usize,
    /// With only final states promised: what was seen may also be a later change that looks alike.
    highest: usize,
    /// The key was not in a snapshot: any later place is possible at which it was absent.
    absent_somewhere: bool,
    /// The last thing seen was a change that came later than its place.
    late: bool,
}

impl Place {
    fn at(floor: usize) -> Place {
        Place { floor, highest: floor, ..Place::default() }
    }
}

enum Phase<'a> {
    /// A snapshot has to begin.
    Expected,
    /// Inside a snapshot: the keys so far.
    Snapshot(BTreeSet<&'a str>),
    Following,
    Ended,
}

impl<'a> Checker<'a> {
    pub(super) fn new(written: &'a Written, watcher: &'a Watcher) -> Checker<'a> {
        let mut places = BTreeMap::new();
        let phase = match &watcher.opening {
            Opening::Snapshot => Phase::Expected,
            Opening::After(included) => {
                for (key, floor) in included {
                    places.insert(key.as_str(), Place::at(*floor));
                }
                Phase::Following
            }
        };
        let report = Report { checked: watcher.seen.len() as u64, ..Report::default() };
        let (reported, late) = (BTreeSet::new(), BTreeSet::new());
        let (gap_unmarked, resyncs) = (false, 0);
        Checker { written, watcher, report, places, phase, gap_unmarked, resyncs, reported, late }
    }

    pub(super) fn run(mut self) -> Report {
        for (position, seen) in self.watcher.seen.iter().enumerate() {
            if let Phase::Ended = self.phase {
                if !matches!(seen, Seen::Gap) {
                    self.violation("watch end", "", position, "an event after the last");
                }
                continue;
            }
            self.follow(position, seen);
        }
        self.finish();
        self.report
    }

    fn follow(&mut self, position: usize, seen: &'a Seen) {
        match seen {
            Seen::Progress => {}
            Seen::Gap => self.gap_unmarked = true,
            Seen::Ended(_) => self.phase = Phase::Ended,
            Seen::Resync(_) => {
                self.gap_unmarked = false;
                self.resyncs += 1;
                self.phase = Phase::Expected;
            }
            Seen::SnapshotBegin => {
                if !matches!(self.phase, Phase::Expected) {
                    self.violation("watch snapshot", "", position, "it begins without a resync");
                }
                self.phase = Phase::Snapshot(BTreeSet::new());
            }
            Seen::SnapshotEnd => match std::mem::replace(&mut self.phase, Phase::Following) {
                Phase::Snapshot(keys) => self.end_snapshot(position, &keys),
                _ => self.violation("watch snapshot", "", position, "it ends without beginning"),
            },
            Seen::Put { key, value, version } => {
                self.state(position, key, Some(value), version.as_deref());
            }
            Seen::Removed { key, version } => self.state(position, key, None, version.as_deref()),
        }
    }

    /// A value or a removal, as part of a snapshot or as a change.
    fn state(
        &mut self,
        position: usize,
        key: &'a str,
        value: Option<&'a str>,
        version: Option<&'a str>,
    ) {
        if !self.watcher.target.covers(key) {
            return self.violation("watch boundary", key, position, "it is outside the target");
        }
        match &mut self.phase {
            Phase::Snapshot(keys) => {
                let is_new = keys.insert(key);
                if !is_new || value.is_none() {
                    let what = "a snapshot has each key once, and no removals";
                    return self.violation("watch snapshot", key, position, what);
                }
                self.move_on(position, key, value, version, Promise::FinalState);
            }
            Phase::Expected => {
                self.violation("watch snapshot", key, position, "a change before the snapshot");
            }
            Phase::Following => {
                self.move_on(position, key, value, version, self.watcher.promise);
            }
            Phase::Ended => {}
        }
    }

    fn move_on(
        &mut self,
        position: usize,
        key: &'a str,
        value: Option<&'a str>,
        version: Option<&'a str>,
        promise: Promise,
    ) {
        let place = self.places.get(key).copied().unwrap_or_default();
        let written = self.written;
        let possible: Vec<usize> = written.places(key, value, version).collect();
        let follows = |to: &usize| match promise {
            Promise::FinalState => *to >= place.floor,
            Promise::EveryChange if place.absent_somewhere => {
                *to > place.floor && written.may_be_absent(key, *to - 1, place.floor)
            }
            Promise::EveryChange => {
                *to > place.floor && written.may_skip(key, place.floor, *to - 1)
            }
        };
        if let Some(floor) = possible.iter().copied().find(follows) {
            let highest = match promise {
                Promise::EveryChange => floor,
                Promise::FinalState => possible.last().copied().unwrap_or(floor),
            };
            self.places.insert(key, Place { highest, ..Place::at(floor) });
            return;
        }
        let changes = written.changes(key);
        let is_uncertain = |place: usize| changes.get(place - 1).is_some_and(|c| !c.certain);
        let late = possible.iter().find(|to| is_uncertain(**to) && **to <= place.floor);
        if let Some(late) = late
            && (self.late.insert((key, *late)) || promise == Promise::FinalState)
        {
            self.places.insert(key, Place { late: true, ..place });
            return;
        }
        let next = possible.iter().copied().find(|to| *to > place.floor);
        let (rule, what) = match next {
            Some(next) => {
                let missing = next.saturating_sub(place.floor + 1);
                ("watch every change", format!("{missing} changes are missing before it"))
            }
            None if possible.contains(&place.floor) => {
                ("watch every change", "it is delivered twice".to_owned())
            }
            None if possible.is_empty() => ("watch value", "it was never written".to_owned()),
            None => ("watch order", "it is older than what was seen before".to_owned()),
        };
        self.violation(rule, key, position, &what);
        // Goes on from there, so that one gap is not reported for each event behind it.
        if let Some(floor) = next {
            self.places.insert(key, Place::at(floor));
        }
    }

    fn end_snapshot(&mut self, position: usize, keys: &BTreeSet<&'a str>) {
        let watcher = self.watcher;
        let missing = self.written.keys().filter(|key| !keys.contains(key));
        for key in missing.filter(|key| watcher.target.covers(key)) {
            let place = self.places.get(key).copied().unwrap_or_default();
            let len = self.written.changes(key).len();
            let absent = |at: &usize| self.written.may_be_absent(key, *at, place.floor);
            match (place.floor..=len).find(absent) {
                Some(floor) => {
                    let place = Place { absent_somewhere: true, ..Place::at(floor) };
                    self.places.insert(key, place);
                }
                None if place.late => {}
                None => self.violation("watch snapshot", key, position, "the key is missing in it"),
            }
        }
    }

    fn finish(&mut self) {
        let last = self.watcher.seen.len();
        if let Some(max) = self.watcher.resyncs_max
            && self.resyncs > max
        {
            let what = format!("{} resyncs, at most {max} are explained", self.resyncs);
            self.violation("watch resyncs", "", last, &what);
        }
        match &self.phase {
            Phase::Ended => return,
            Phase::Following => {}
            Phase::Expected | Phase::Snapshot(_) => {
                self.violation("watch snapshot", "", last, "it is not complete at the end");
                return;
            }
        }
        if self.gap_unmarked {
            self.violation("watch gap", "", last, "something was lost and no resync followed");
        }
        let watcher = self.watcher;
        for key in self.written.keys().filter(|key| watcher.target.covers(key)) {
            let place = self.places.get(key).copied().unwrap_or_default();
            let len = self.written.changes(key).len();
            let reached = place.late
                || self.written.may_skip(key, place.highest, len)
                || place.absent_somewhere && self.written.may_be_absent(key, len, place.floor);
            if !reached {
                self.violation("watch final state", key, last, "its last change never arrived");
            }
        }
    }

    fn violation(&mut self, rule: &'static str, key: &'a str, position: usize, what: &str) {
        if !self.reported.insert((rule, key)) {
            return;
        }
        let mut excerpt = format!("  {what}");
        for (at, seen) in self.context(key, position) {
            excerpt.push_str(&format!("\n  event {at}: {seen:?}"));
        }
        let floor = self.places.get(key).map_or(0, |place| place.floor);
        let from = floor.saturating_sub(1);
        for (index, change) in self.written.changes(key).iter().enumerate().skip(from).take(3) {
            excerpt.push_str(&format!("\n  written as change {}: {change}", index + 1));
        }
        let key = if key.is_empty() { String::new() } else { format!(", key {key}") };
        let subject = format!("watcher {}{key}", self.watcher.name);
        self.report.violation(rule, &subject, excerpt);
    }

    /// The event in question and the two before it that concern the same key or the whole watch.
    fn context(&self, key: &str, position: usize) -> Vec<(usize, &'a Seen)> {
        let concerns = |seen: &Seen| match seen {
            Seen::Put { key: of, .. } | Seen::Removed { key: of, .. } => {
                key.is_empty() || of == key
            }
            Seen::Progress => false,
            _ => true,
        };
        let before = self.watcher.seen.iter().enumerate().take(position + 1);
        let mut last: Vec<_> = before.rev().filter(|(_, seen)| concerns(seen)).take(3).collect();
        last.reverse();
        last
    }
}
