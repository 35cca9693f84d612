//! Watches on backends that only say that something changed: list again, and deliver what differs.

use crate::config::{self, Entry};
use crate::registry::{self, InstanceState};
use std::collections::BTreeMap;

/// What differs between two listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference<K, V> {
    /// It is new, or not what it was.
    Put {
        /// What is there now.
        value: V,
        /// What was there before.
        previous: Option<V>,
    },
    /// It is gone.
    Removed {
        /// Its name.
        key: K,
        /// What was there before.
        previous: V,
    },
}

/// What a listing keeps for one entry beside its texts: the nodes of maps, numbers, lengths.
const ENTRY_BYTES: usize = 256;

/// What is listed, and how much memory it takes.
pub trait Weighed {
    /// About how many bytes keeping it takes.
    fn bytes(&self) -> usize;
}

impl Weighed for Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + 2 * self.key.len() + self.value.len() + self.version.len()
    }
}

impl Weighed for InstanceState {
    fn bytes(&self) -> usize {
        let instance = &self.instance;
        let labels = instance.labels.iter();
        let labels = labels.map(|(key, value)| key.len() + value.len() + ENTRY_BYTES / 4);
        let names = instance.service.len() + instance.id.len();
        2 * ENTRY_BYTES
            + 2 * names
            + instance.host.len()
            + instance.version.len()
            + self.owner.len()
            + labels.sum::<usize>()
    }
}

/// The last listing, by key.
#[derive(Clone, Debug)]
pub struct Listing<K, V> {
    /// In boxes, because a map makes room for eleven where it has one, as most of thousands of watches do.
    known: BTreeMap<K, Box<V>>,
    bytes: usize,
}

impl<K, V> Default for Listing<K, V> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), bytes: 0 }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone + Weighed> Listing<K, V> {
    /// Replaces the listing.
    pub fn set(&mut self, fresh: BTreeMap<K, Box<V>>) {
        self.bytes = fresh.values().map(|value| value.bytes()).sum();
        self.known = fresh;
    }

    /// About how many bytes it keeps.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Replaces the listing and answers the differences, in the order of the keys.
    pub fn replace(&mut self, fresh: BTreeMap<K, Box<V>>) -> Vec<Difference<K, V>> {
        let mut before = std::mem::take(&mut self.known);
        self.set(fresh);
        let mut differences = Vec::new();
        for (key, value) in &self.known {
            let previous = before.remove(key);
            if previous.as_ref() != Some(value) {
                let (value, previous) = (V::clone(value), previous.map(|previous| *previous));
                differences.push(Difference::Put { value, previous });
            }
        }
        let removed =
            |(key, previous): (K, Box<V>)| Difference::Removed { key, previous: *previous };
        let gone = before.into_iter().map(removed);
        differences.extend(gone);
        differences
    }

    /// Notes what one key holds now, and answers the difference if there is one.
    pub fn change(&mut self, key: K, value: Option<V>) -> Option<Difference<K, V>> {
        match value {
            None => {
                let previous = *self.known.remove(&key)?;
                self.bytes = self.bytes.saturating_sub(previous.bytes());
                Some(Difference::Removed { key, previous })
            }
            Some(value) => {
                self.bytes = self.bytes.saturating_add(value.bytes());
                let previous = self.known.insert(key, Box::new(value.clone()));
                let previous = previous.map(|previous| *previous);
                let replaced = previous.as_ref().map_or(0, Weighed::bytes);
                self.bytes = self.bytes.saturating_sub(replaced);
                let differs = previous.as_ref() != Some(&value);
                differs.then_some(Difference::Put { value, previous })
            }
        }
    }

    /// What was listed last.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.known.values().map(|value| &**value)
    }
}

/// Feeds one configuration watch from listings.
pub struct ConfigFollower {
    sink: config::WatchSink,
    previous: bool,
    listing: Listing<String, Entry>,
}

impl ConfigFollower {
    /// `previous`: whether the watch asked for what was there before.
    pub fn new(sink: config::WatchSink, previous: bool) -> Self {
        Self { sink, previous, listing: Listing::default() }
    }

    /// Delivers a fresh listing: as a snapshot where one is wanted, else what differs.
    pub async fn show(&mut self, entries: Vec<Entry>, version: Option<String>) {
        let fresh = entries.into_iter().map(|entry| (entry.key.clone(), Box::new(entry))).collect();
        if self.sink.wants_snapshot() {
            // All of it is told: what differs would only be copied.
            self.listing.set(fresh);
        } else {
            let differences = self.listing.replace(fresh);
            self.deliver_all(differences);
        }
        self.refresh(version.clone()).await;
        self.sink.progress(version);
    }

    /// Delivers what one key holds now, if that is new. Call [`refresh`](Self::refresh) behind it.
    pub fn change(&mut self, key: String, entry: Option<Entry>) {
        let difference = self.listing.change(key, entry);
        self.deliver_all(difference);
    }

    /// Sends a snapshot of what was listed last where one is wanted: at the beginning, after a gap,
    /// and when differences were more than the reader took.
    pub async fn refresh(&mut self, version: Option<String>) {
        while self.sink.wants_snapshot() && !self.sink.is_closed() {
            let mut snapshot = self.sink.snapshot();
            for entry in self.listing.values() {
                snapshot.put(entry.clone()).await;
            }
            snapshot.end(version.clone());
        }
    }

    /// About how many bytes it keeps to know what differs.
    pub fn bytes(&self) -> usize {
        self.listing.bytes()
    }

    fn deliver_all(&self, differences: impl IntoIterator<Item = Difference<String, Entry>>) {
        if !self.sink.wants_snapshot() {
            for difference in differences {
                self.deliver(difference);
            }
        }
    }

    fn deliver(&self, difference: Difference<String, Entry>) {
        match difference {
            Difference::Put { value, previous } => {
                self.sink.put(value, previous.filter(|_| self.previous));
            }
            Difference::Removed { key, previous } => {
                self.sink.removed(key, None, Some(previous).filter(|_| self.previous));
            }
        }
    }

    /// The sink, to report a gap or the end.
    pub fn sink(&self) -> &config::WatchSink {
        &self.sink
    }
}

/// Feeds one registry watch from listings.
pub struct RegistryFollower {
    sink: registry::WatchSink,
    listing: Listing<(String, String), InstanceState>,
}

impl RegistryFollower {
    /// Feeds `sink`.
    pub fn new(sink: registry::WatchSink) -> Self {
        Self { sink, listing: Listing::default() }
    }

    /// Delivers a fresh listing: as a snapshot where one is wanted, else what differs.
    pub async fn show(&mut self, instances: Vec<InstanceState>) {
        let named = instances.into_iter().map(|state| {
            let name = (state.instance.service.clone(), state.instance.id.clone());
            (name, Box::new(state))
        });
        if self.sink.wants_snapshot() {
            self.listing.set(named.collect());
        } else {
            let differences = self.listing.replace(named.collect());
            self.deliver_all(differences);
        }
        self.refresh().await;
        self.sink.progress();
    }

    /// Delivers how one instance, by service and id, is now, if that is new. Call
    /// [`refresh`](Self::refresh) behind it.
    pub fn change(&mut self, name: (String, String), state: Option<InstanceState>) {
        let difference = self.listing.change(name, state);
        self.deliver_all(difference);
    }

    /// As [`ConfigFollower::refresh`].
    pub async fn refresh(&mut self) {
        while self.sink.wants_snapshot() && !self.sink.is_closed() {
            let mut snapshot = self.sink.snapshot();
            for state in self.listing.values() {
                snapshot.put(state.clone()).await;
            }
            snapshot.end();
        }
    }

    /// As [`ConfigFollower::bytes`].
    pub fn bytes(&self) -> usize {
        self.listing.bytes()
    }

    fn deliver_all(
        &self,
        differences: impl IntoIterator<Item = Difference<(String, String), InstanceState>>,
    ) {
        if !self.sink.wants_snapshot() {
            for difference in differences {
                self.deliver(difference);
            }
        }
    }

    fn deliver(&self, difference: Difference<(String, String), InstanceState>) {
        match difference {
            Difference::Put { value, previous } => self.sink.put(value, previous),
            Difference::Removed { key: (service, id), previous } => {
                self.sink.removed(service, id, Some(previous));
            }
        }
    }

    /// The sink, to report a gap or the end.
    pub fn sink(&self) -> &registry::WatchSink {
        &self.sink
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Event;
    use crate::outbox::Outbox;
    use crate::testing::run;
    use crate::watch::Feed;

    fn entry(key: &str, version: &str) -> Entry {
        let (key, version) = (key.to_owned(), version.to_owned());
        Entry { key, value: Vec::new(), content_type: None, version, modified_ms: None }
    }

    fn short(events: Vec<(u64, Event)>) -> Vec<String> {
        let text = |event| match event {
            Event::SnapshotBegin => "begin".to_owned(),
            Event::SnapshotEnd(_) => "end".to_owned(),
            Event::Put(put) => {
                let previous = put.previous.map(|entry| format!(" was {}", entry.version));
                format!("{}@{}{}", put.entry.key, put.entry.version, previous.unwrap_or_default())
            }
            Event::Removed(removed) => format!("-{}", removed.key),
            Event::Resync(_) => "resync".to_owned(),
            Event::Progress(_) => "progress".to_owned(),
            Event::Ended(_) => "ended".to_owned(),
        };
        events.into_iter().map(|(_, event)| text(event)).collect()
    }

    #[test]
    fn the_first_listing_is_a_snapshot_and_later_ones_are_differences() {
        run(async {
            let outbox = Outbox::default();
            let sink = config::WatchSink::new(Feed::new(outbox.open(1).unwrap(), false));
            let mut follower = ConfigFollower::new(sink, true);
            follower.show(vec![entry("a", "1"), entry("b", "1"), entry("c", "1")], None).await;
            assert_eq!(short(outbox.take(99)), ["begin", "a@1", "b@1", "c@1", "end", "progress"]);
            follower.show(vec![entry("a", "1"), entry("b", "2"), entry("d", "1")], None).await;
            assert_eq!(short(outbox.take(99)), ["b@2 was 1", "d@1", "-c", "progress"]);
        });
    }

    #[test]
    fn one_key_that_changed_is_told_without_a_listing_of_all() {
        run(async {
            let outbox = Outbox::default();
            let sink = config::WatchSink::new(Feed::new(outbox.open(1).unwrap(), false));
            let mut follower = ConfigFollower::new(sink, true);
            follower.change("a".to_owned(), Some(entry("a", "1")));
            follower.show(vec![entry("a", "1"), entry("b", "1")], None).await;
            assert_eq!(short(outbox.take(99)), ["begin", "a@1", "b@1", "end", "progress"]);
            follower.change("a".to_owned(), Some(entry("a", "1")));
            follower.change("a".to_owned(), Some(entry("a", "2")));
            follower.change("b".to_owned(), None);
            follower.change("b".to_owned(), None);
            follower.change("c".to_owned(), Some(entry("c", "1")));
            assert_eq!(short(outbox.take(99)), ["a@2 was 1", "-b", "c@1"]);
            let two = entry("a", "2").bytes() + entry("c", "1").bytes();
            assert_eq!(follower.bytes(), two, "what is kept is weighed as it changes");
            follower.sink().resync("a gap");
            follower.refresh(None).await;
            assert_eq!(short(outbox.take(99)), ["resync", "begin", "a@2", "c@1", "end"]);
        });
    }

    #[test]
    fn differences_that_the_reader_does_not_take_become_a_snapshot() {
        run(async {
            let outbox = Outbox::default();
            let sink = config::WatchSink::new(Feed::new(outbox.open(1).unwrap(), false));
            let mut follower = ConfigFollower::new(sink, false);
            let keys =
                |version: &str| (0..900).map(|n| entry(&format!("{n:03}"), version)).collect();
            follower.show(keys("1"), None).await;
            assert_eq!(outbox.take(10_000).len(), 903);
            follower.show(keys("2"), None).await;
            follower.show(keys("3"), None).await;
            let events = short(outbox.take(10_000));
            assert_eq!(events[..3], ["resync", "begin", "000@3"]);
            assert_eq!(events[events.len() - 2..], ["end", "progress"]);
        });
    }
}
