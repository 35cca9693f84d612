//! A local copy of what one upstream watch shows, and its fan-out to any number of subscribers.
//!
//! One writer (the pump of the backend's events) applies upstream events; readers look at an
//! immutable state behind an [`ArcSwap`]; subscribers follow a bounded ring. A subscriber that falls
//! behind loses its place, is told so by a resync, and starts over from the state: it never holds
//! back the writer or the others.

mod following;
mod ring;
mod subscription;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::quality::RandomState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};
use tokio::sync::watch;

use ring::{After, Ring};

pub(crate) use following::Following;
pub(crate) use ring::{OVERHEAD_BYTES, Weight};
pub(crate) use subscription::{Item, Subscription};

use crate::{
    clock::BootTime,
    config::EventId,
    error::{Error, Refusal},
};

/// What the upstream watch delivers.
#[derive(Debug, Clone)]
pub(crate) enum Upstream<V> {
    SnapshotBegin,
    Put {
        key: Arc<str>,
        value: Arc<V>,
        previous: Option<Arc<V>>,
    },
    Removed {
        key: Arc<str>,
        version: Option<Arc<str>>,
        previous: Option<Arc<V>>,
    },
    /// With the version of the whole that the snapshot shows, where there is one.
    SnapshotEnd(Option<Arc<str>>),
    Resync(Arc<str>),
    /// Nothing is missing up to this version, or up to now where there is none.
    Progress(Option<Arc<str>>),
    Ended(Error),
}

/// What subscribers get.
#[derive(Debug)]
pub(crate) enum Change<V> {
    Put {
        key: Arc<str>,
        value: Arc<V>,
        previous: Option<Arc<V>>,
    },
    Removed {
        key: Arc<str>,
        version: Option<Arc<str>>,
        previous: Option<Arc<V>>,
    },
    /// Differences follow, after a gap upstream.
    Resync(Arc<str>),
}

/// A change with its place in the mirror's sequence.
#[derive(Debug)]
pub(crate) struct Published<V> {
    sequence: u64,
    change: Change<V>,
}

/// Every entry by its key; a copy is a pointer. The hash of the standard library would take most of
/// the time of a look-up.
type Entries<V> = GenericHashMap<Arc<str>, Arc<V>, RandomState, DefaultSharedPtr>;

/// All keys at one point of the sequence.
struct State<V> {
    entries: Entries<V>,
    sequence: u64,
}

/// What a synchronous read of a mirror finds.
#[derive(Debug, Clone)]
pub(crate) struct Cached<V> {
    pub(crate) value: Option<Arc<V>>,
    /// When the backend last proved that this is current.
    pub(crate) proven_at: BootTime,
    /// Whether the upstream watch works at the moment.
    pub(crate) live: bool,
}

/// Whether a mirror can be read, and if it never will be, why.
#[derive(Debug, Clone)]
enum Phase {
    Filling,
    Filled,
    Ended(Error),
}

/// The mirror of one watch. `V` is compared to leave out what did not change over a gap.
pub(crate) struct Mirror<V> {
    epoch: u64,
    state: ArcSwap<State<V>>,
    writer: Mutex<Writer<V>>,
    phase: watch::Sender<Phase>,
    ring: Mutex<Ring<V>>,
    /// How far the ring has come.
    newest: AtomicU64,
    /// The newest of the ring once more, for the many who have seen all before it: they get it without
    /// waiting for each other.
    latest: ArcSwapOption<Published<V>>,
    /// Nothing more will come.
    ended: AtomicBool,
    /// For those who wait for what comes next: one thing to wait on, because they are many.
    wakes: watch::Sender<()>,
    proven_at: AtomicU64,
    live: AtomicBool,
    /// Most bytes of a state, and of a snapshot.
    bytes_max: usize,
}

struct Writer<V> {
    /// The snapshot that is being received.
    staging: Option<Held<V>>,
    /// Bytes of the present state, roughly.
    bytes: usize,
    resync: Option<Arc<str>>,
}

/// Entries with what they take.
struct Held<V> {
    entries: Entries<V>,
    bytes: usize,
}

impl<V: PartialEq + Weight + Send + Sync + 'static> Mirror<V> {
    /// A mirror that ends its watch rather than hold more than `bytes_max`.
    pub(crate) fn bounded(bytes_max: usize) -> Self {
        Self {
            epoch: BootTime::now().nanos(),
            state: ArcSwap::from_pointee(State { entries: Entries::default(), sequence: 0 }),
            writer: Mutex::new(Writer { staging: None, bytes: 0, resync: None }),
            phase: watch::Sender::new(Phase::Filling),
            ring: Mutex::default(),
            newest: AtomicU64::new(0),
            latest: ArcSwapOption::empty(),
            ended: AtomicBool::new(false),
            wakes: watch::Sender::new(()),
            proven_at: AtomicU64::new(0),
            live: AtomicBool::new(false),
            bytes_max,
        }
    }

    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::bounded(usize::MAX)
    }

    /// Takes the next event of the upstream watch. Called by one writer, never waits.
    pub(crate) fn apply(&self, event: Upstream<V>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.end().is_some() {
            return;
        }
        match event {
            Upstream::SnapshotBegin => {
                writer.staging = Some(Held { entries: Entries::default(), bytes: 0 });
            }
            Upstream::Put { key, value, previous } => {
                let bytes = weight(&key, &*value);
                match &mut writer.staging {
                    Some(staging) => {
                        let known = staging.entries.insert(Arc::clone(&key), value);
                        staging.bytes += bytes;
                        staging.bytes -= known.map_or(0, |known| weight(&key, &*known));
                    }
                    None => {
                        let known = self.state.load().entries.get(&key).cloned();
                        writer.bytes += bytes;
                        writer.bytes -= known.map_or(0, |known| weight(&key, &*known));
                        self.put(key, value, previous);
                    }
                }
                self.check_size(&mut writer);
            }
            Upstream::Removed { key, version, previous } => match &mut writer.staging {
                Some(staging) => {
                    let known = staging.entries.remove(&key);
                    staging.bytes -= known.map_or(0, |known| weight(&key, &*known));
                }
                None => {
                    let known = self.state.load().entries.get(&key).cloned();
                    writer.bytes -= known.map_or(0, |known| weight(&key, &*known));
                    self.remove(&key, version, previous);
                }
            },
            Upstream::SnapshotEnd(_) => self.finish_snapshot(&mut writer),
            Upstream::Resync(reason) => {
                writer.staging = None;
                writer.resync = Some(reason);
                self.live.store(false, Ordering::Release);
                return;
            }
            Upstream::Progress(_) => {}
            Upstream::Ended(error) => return self.finish(error),
        }
        if writer.staging.is_none() {
            self.prove();
        }
    }

    /// Marks the upstream watch as broken: what is here gets old until a new snapshot ends.
    pub(crate) fn interrupt(&self, reason: Arc<str>) {
        self.apply(Upstream::Resync(reason));
    }

    /// The value of `key` as the mirror has it; nothing before the first snapshot.
    pub(crate) fn cached(&self, key: &str) -> Option<Cached<V>> {
        let proven_at = self.proven_at.load(Ordering::Acquire);
        if proven_at == 0 {
            return None;
        }
        let value = self.state.load().entries.get(key).cloned();
        let proven_at = BootTime::from_nanos(proven_at);
        Some(Cached { value, proven_at, live: self.live.load(Ordering::Acquire) })
    }

    /// Waits for the first snapshot.
    ///
    /// # Errors
    ///
    /// The error with which the watch ended.
    pub(crate) async fn filled(&self) -> Result<(), Error> {
        let mut phase = self.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Filled => return Ok(()),
                Phase::Ended(error) => return Err(error.clone()),
                Phase::Filling => {}
            }
            if phase.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The error with which the watch ended, if it did.
    pub(crate) fn end(&self) -> Option<Error> {
        match &*self.phase.borrow() {
            Phase::Ended(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// Where the mirror stands.
    pub(crate) fn position(&self) -> EventId {
        EventId { epoch: self.epoch, sequence: self.state.load().sequence }
    }

    /// Nothing more comes.
    fn finish(&self, error: Error) {
        self.live.store(false, Ordering::Release);
        self.phase.send_replace(Phase::Ended(error));
        self.ended.store(true, Ordering::Release);
        self.wakes.send_replace(());
    }

    /// Ends the watch when it shows more than it may.
    fn check_size(&self, writer: &mut Writer<V>) {
        let staged = writer.staging.as_ref().map_or(0, |staging| staging.bytes);
        if staged.max(writer.bytes) <= self.bytes_max {
            return;
        }
        writer.staging = None;
        writer.bytes = 0;
        let what = format!(
            "watch_bytes = {} bytes in one watch; watch less, or raise it in the backend's limits.more",
            self.bytes_max
        );
        self.finish(Refusal::Exhausted { what }.into());
        self.state
            .store(Arc::new(State { entries: Entries::default(), sequence: self.sequence() }));
    }

    fn sequence(&self) -> u64 {
        self.state.load().sequence
    }

    fn put(&self, key: Arc<str>, value: Arc<V>, previous: Option<Arc<V>>) {
        let state = self.state.load();
        let mut entries = state.entries.clone();
        let known = entries.insert(Arc::clone(&key), Arc::clone(&value));
        self.advance(entries, Change::Put { key, value, previous: previous.or(known) });
    }

    fn remove(&self, key: &Arc<str>, version: Option<Arc<str>>, previous: Option<Arc<V>>) {
        let state = self.state.load();
        let mut entries = state.entries.clone();
        let known = entries.remove(key);
        let previous = previous.or(known);
        self.advance(entries, Change::Removed { key: Arc::clone(key), version, previous });
    }

    /// Replaces the state by the snapshot; subscribers see a resync and then only the differences.
    fn finish_snapshot(&self, writer: &mut Writer<V>) {
        let Some(Held { entries: snapshot, bytes }) = writer.staging.take() else { return };
        writer.bytes = bytes;
        let reason = writer.resync.take();
        let before = self.state.load_full();
        if matches!(*self.phase.borrow(), Phase::Filled) {
            let reason = reason.unwrap_or_else(|| "the backend sent a new snapshot".into());
            self.advance(before.entries.clone(), Change::Resync(reason));
            for (key, value) in &snapshot {
                let known = before.entries.get(key);
                if known.is_none_or(|known| known != value) {
                    self.put(Arc::clone(key), Arc::clone(value), None);
                }
            }
            for key in before.entries.keys().filter(|key| !snapshot.contains_key(*key)) {
                self.remove(key, None, None);
            }
        } else {
            let sequence = before.sequence + 1;
            self.state.store(Arc::new(State { entries: snapshot, sequence }));
            self.ring().jump(sequence);
            self.newest.store(sequence, Ordering::Release);
        }
        self.live.store(true, Ordering::Release);
        self.prove();
        self.phase.send_replace(Phase::Filled);
    }

    /// Publishes one change together with the state that it leads to.
    fn advance(&self, entries: Entries<V>, change: Change<V>) {
        let sequence = self.state.load().sequence + 1;
        self.state.store(Arc::new(State { entries, sequence }));
        let published = Arc::new(Published { sequence, change });
        self.ring().push(Arc::clone(&published));
        self.latest.store(Some(published));
        self.newest.store(sequence, Ordering::Release);
        self.wakes.send_replace(());
    }

    fn ring(&self) -> MutexGuard<'_, Ring<V>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prove(&self) {
        if self.live.load(Ordering::Acquire) {
            self.proven_at.store(BootTime::now().nanos(), Ordering::Release);
        }
    }
}

/// Bytes of an entry, roughly.
fn weight<V: Weight>(key: &str, value: &V) -> usize {
    key.len() + value.bytes()
}

#[cfg(test)]
mod tests;
