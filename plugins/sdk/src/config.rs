//! Configuration: values under keys, with versions, transactions and watches.
//!
//! The records are those of the WIT package `pintle:config`, whose documentation is the contract.

use crate::bindings::wire::config as wire;
use crate::outbox::Weight;
use crate::watch::{Feed, WatchEvent};
use crate::{Context, Error, Plugin, watch};
use std::rc::Rc;

pub use crate::bindings::wire::types::Consistency;
pub use wire::{
    Change, Condition, DeleteOutcome, Entry, Event, Expectation, HistoryPage, HistoryRequest,
    ListRequest, Mismatch, Page, PutEvent, PutOutcome, ReadOptions, RemovedEvent, Revision,
    Selectors, Stored, Target, TxnOp, TxnOutcome, TxnPut, TxnResult, WatchRequest,
};

/// Offers `pintle:config`.
///
/// The SDK refuses what the plugin's [features](crate::Feature) do not offer before a method is
/// called, and answers `timeout` when a method does not end in time: with effect `none` for reads
/// and `unknown` for writes.
///
/// # Cancellation
///
/// The future of a method is dropped when the call is cancelled or its time is over. What has to be
/// finished all the same belongs into a [`spawn`](crate::spawn)ed task.
#[allow(async_fn_in_trait, reason = "one thread, and the SDK is the only caller")]
pub trait Config: Plugin {
    /// What `held` preconditions refer to: the `Lease` of this plugin's [`Lock`](crate::Lock), or
    /// [`NoLease`](crate::NoLease).
    type Held: 'static;

    /// Reads one key.
    async fn get(
        &self,
        cx: &Context,
        key: String,
        options: ReadOptions,
    ) -> Result<Option<Entry>, Error>;

    /// Reads at most 128 keys, one result per key, in order; of one moment where the backend can.
    async fn get_many(
        &self,
        cx: &Context,
        keys: Vec<String>,
        options: ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let reads = keys.into_iter().map(|key| self.get(cx, key, options.clone()));
        futures::future::try_join_all(reads).await
    }

    /// Lists the keys below a prefix in the order of their bytes.
    async fn list(&self, cx: &Context, request: ListRequest) -> Result<Page, Error>;

    /// Writes one key.
    async fn put(&self, cx: &Context, request: Put<Self::Held>) -> Result<PutOutcome, Error>;

    /// Deletes one key.
    async fn delete(
        &self,
        cx: &Context,
        request: Delete<Self::Held>,
    ) -> Result<DeleteOutcome, Error>;

    /// Deletes everything below the prefix and answers how many keys.
    async fn delete_prefix(
        &self,
        cx: &Context,
        prefix: String,
        held: Option<Rc<Self::Held>>,
    ) -> Result<u64, Error>;

    /// Does all operations at one moment, or none. Feature `config.txn`.
    async fn txn(&self, cx: &Context, request: Txn<Self::Held>) -> Result<TxnOutcome, Error> {
        let _ = (cx, request);
        Err(Error::unsupported("this plugin has no transactions"))
    }

    /// The kept revisions of a key, newest first. Feature `config.history`.
    async fn history(&self, cx: &Context, request: HistoryRequest) -> Result<HistoryPage, Error> {
        let _ = (cx, request);
        Err(Error::unsupported("this plugin keeps no history"))
    }

    /// Feeds a watch. `Ok` means that a clone of the sink lives on elsewhere; a watch whose last
    /// sink is gone is reported as ended.
    ///
    /// # Errors
    ///
    /// What the server refuses for good: the watch ends with it.
    ///
    /// # Cancellation
    ///
    /// The future is dropped when the host closes the watch.
    async fn watch(self: Rc<Self>, request: WatchRequest, sink: WatchSink) -> Result<(), Error>;
}

/// A write of one key.
#[derive(Debug)]
pub struct Put<H> {
    /// The key, in its one spelling.
    pub key: String,
    /// Any bytes.
    pub value: Vec<u8>,
    /// Present only if the plugin offers `config.content-type`.
    pub content_type: Option<String>,
    /// What has to be true of the key.
    pub expect: Expectation,
    /// A lease that has to be held, checked by the backend itself.
    pub held: Option<Rc<H>>,
    /// Whether to return the entry that was replaced.
    pub previous: bool,
    /// Coordinates of a gray release.
    pub selectors: Selectors,
}

/// A deletion of one key.
#[derive(Debug)]
pub struct Delete<H> {
    /// The key, in its one spelling.
    pub key: String,
    /// What has to be true of the key.
    pub expect: Expectation,
    /// A lease that has to be held, checked by the backend itself.
    pub held: Option<Rc<H>>,
    /// Whether to return the entry that was deleted.
    pub previous: bool,
    /// Coordinates of a gray release.
    pub selectors: Selectors,
}

/// A transaction.
#[derive(Debug)]
pub struct Txn<H> {
    /// What has to be true of which keys.
    pub conditions: Vec<Condition>,
    /// Leases that have to be held, checked by the backend itself.
    pub held: Vec<Rc<H>>,
    /// At most 128, no key twice.
    pub ops: Vec<TxnOp>,
}

/// Where the events of one watch go. Clones feed the same watch.
///
/// The sink keeps the order that readers rely on, so a producer need not. Three rules remain:
/// - Send a [`snapshot`](Self::snapshot) first and whenever one is [wanted](Self::snapshot_wanted).
/// - Take the view that the snapshot shows in the same turn in which it begins, without an `await`
///   between, or after it: what is passed to [`put`](Self::put) and [`removed`](Self::removed)
///   before the beginning is dropped, and what is passed while the snapshot is being sent follows it.
/// - Call [`progress`](Self::progress) at least every 30 seconds while the server answers.
///
/// # Limits
///
/// 1,024 events or 1 MiB wait for the host; more changes become one `resync`, and a new snapshot is
/// wanted.
#[derive(Clone)]
pub struct WatchSink {
    feed: Feed<Event>,
}

impl WatchSink {
    pub(crate) fn new(feed: Feed<Event>) -> Self {
        Self { feed }
    }

    /// Begins a snapshot; tells the reader `resync` first if it already had one.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { inner: self.feed.snapshot() }
    }

    /// A key was written. `previous` is what was there just before, if the request asked for it.
    pub fn put(&self, entry: Entry, previous: Option<Entry>) {
        self.feed.change(Event::Put(PutEvent { entry, previous }));
    }

    /// A key was deleted.
    pub fn removed(&self, key: String, version: Option<String>, previous: Option<Entry>) {
        self.feed.change(Event::Removed(RemovedEvent { key, version, previous }));
    }

    /// Passes a write on; waits while the reader is behind. For producers who can read changes again
    /// (from a log, say) and need not keep what comes meanwhile.
    pub async fn put_in_turn(&self, entry: Entry, previous: Option<Entry>) {
        self.feed.change_in_turn(Event::Put(PutEvent { entry, previous })).await;
    }

    /// Passes a removal on; waits while the reader is behind.
    pub async fn removed_in_turn(
        &self,
        key: String,
        version: Option<String>,
        previous: Option<Entry>,
    ) {
        self.feed.change_in_turn(Event::Removed(RemovedEvent { key, version, previous })).await;
    }

    /// Nothing is missing up to now (at this version, where the backend has one for the whole).
    pub fn progress(&self, version: Option<String>) {
        self.feed.progress(version);
    }

    /// Something may be missing, and why; a new snapshot is wanted now.
    pub fn resync(&self, reason: &str) {
        self.feed.resync(reason);
    }

    /// Ends the watch for good.
    pub fn end(&self, error: Error) {
        self.feed.end(error);
    }

    /// Waits until a snapshot has to be sent: at the beginning (unless the watch opened from a
    /// version), after [`resync`](Self::resync), and when the reader fell too far behind.
    pub async fn snapshot_wanted(&self) {
        self.feed.snapshot_wanted().await;
    }

    /// Whether a snapshot has to be sent.
    pub fn wants_snapshot(&self) -> bool {
        self.feed.wants_snapshot()
    }

    /// Waits until the host has closed the watch.
    pub async fn closed(&self) {
        self.feed.closed().await;
    }

    /// Whether the host has closed the watch; what is passed to the sink then is dropped.
    pub fn is_closed(&self) -> bool {
        self.feed.is_closed()
    }
}

/// A snapshot that is being sent. Dropping it before [`end`](Self::end) is told to the reader as a
/// gap, and a new snapshot is wanted.
pub struct Snapshot {
    inner: watch::Snapshot<Event>,
}

impl Snapshot {
    /// Adds a key, each once; waits while the reader is behind.
    pub async fn put(&mut self, entry: Entry) {
        self.inner.add(Event::Put(PutEvent { entry, previous: None })).await;
    }

    /// Ends the snapshot, at the version that it shows.
    pub fn end(self, version: Option<String>) {
        self.inner.end(version);
    }
}

impl WatchEvent for Event {
    type Position = Option<String>;

    fn snapshot_begin() -> Self {
        Self::SnapshotBegin
    }

    fn snapshot_end(version: Option<String>) -> Self {
        Self::SnapshotEnd(version)
    }

    fn resync(reason: String) -> Self {
        Self::Resync(reason)
    }

    fn progress(version: Option<String>) -> Self {
        Self::Progress(version)
    }

    fn ended(error: Error) -> Self {
        Self::Ended(error.into())
    }

    fn is_progress(&self) -> bool {
        matches!(self, Self::Progress(_))
    }
}

impl Weight for Event {
    fn weight(&self) -> usize {
        let carried = match self {
            Self::Put(put) => weight_of(Some(&put.entry)) + weight_of(put.previous.as_ref()),
            Self::Removed(removed) => removed.key.len() + weight_of(removed.previous.as_ref()),
            _ => 0,
        };
        size_of::<Self>() + carried
    }
}

fn weight_of(entry: Option<&Entry>) -> usize {
    entry.map_or(0, |entry| entry.key.len() + entry.value.len() + entry.version.len())
}
