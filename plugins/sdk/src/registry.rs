//! Registry: which instances of which services run, kept true by leases.
//!
//! The records are those of the WIT package `pintle:registry`, whose documentation is the contract.

use crate::bindings::wire::registry as wire;
use crate::lock::Validity;
use crate::outbox::Weight;
use crate::reporter::Reporter;
use crate::watch::{Feed, WatchEvent};
use crate::{Context, Error, Plugin, watch};
use std::rc::Rc;

pub use crate::bindings::wire::types::Consistency;
pub use wire::{
    AddOutcome, Event, Health as InstanceHealth, Instance, InstanceState, InstancesPage,
    OperatorOverride, PutEvent, Registration as RegisterRequest, RemoveOutcome, RemovedEvent,
    ServiceSummary, ServicesPage,
};

/// Offers `pintle:registry`.
///
/// # Cancellation
///
/// [`register`](Self::register) has its own rule. The futures of the other methods are dropped when
/// the call is cancelled or its time is over.
#[allow(async_fn_in_trait, reason = "one thread, and the SDK is the only caller")]
pub trait Registry: Plugin {
    /// What the plugin remembers of an instance that it keeps registered.
    type Registration: 'static;

    /// Registers an ephemeral instance, and keeps it registered until
    /// [`reporter.over()`](RegistrationReporter::over): start a task that renews it, registers it
    /// again when it was lost, and reports both.
    ///
    /// # Errors
    ///
    /// Every error means that no orphan is left behind. If that is not certain, say
    /// [`effect_unknown`](Error::effect_unknown).
    ///
    /// # Cancellation
    ///
    /// This future is *never* dropped. When [`cx.cancelled()`](Context::cancelled) resolves, remove
    /// what was written and return `cx.error(end)`, within 800 ms if the server answers. A
    /// registration that is returned all the same is removed by the SDK, through
    /// [`deregister`](Self::deregister).
    async fn register(
        self: Rc<Self>,
        cx: &Context,
        request: RegisterRequest,
        reporter: RegistrationReporter,
    ) -> Result<Registered<Self::Registration>, Error>;

    /// Replaces what the instance says of itself; its name cannot change.
    async fn update(
        &self,
        cx: &Context,
        registration: Rc<Self::Registration>,
        instance: Instance,
    ) -> Result<(), Error>;

    /// Afterwards the instance is not listed. Repeated after an error, and when the SDK cleans up.
    async fn deregister(
        &self,
        cx: &Context,
        registration: Rc<Self::Registration>,
    ) -> Result<(), Error>;

    /// Stores an instance that no session keeps. Feature `registry.persistent`.
    async fn add(
        &self,
        cx: &Context,
        instance: Instance,
        replace: bool,
    ) -> Result<AddOutcome, Error> {
        let _ = (cx, instance, replace);
        Err(Error::unsupported("this plugin keeps no persistent instances"))
    }

    /// Removes a persistent instance. Feature `registry.persistent`.
    async fn remove(
        &self,
        cx: &Context,
        service: String,
        id: String,
    ) -> Result<RemoveOutcome, Error> {
        let _ = (cx, service, id);
        Err(Error::unsupported("this plugin keeps no persistent instances"))
    }

    /// Sets or, with none, clears what an operator says of an instance, existing or not. Feature
    /// `registry.override`.
    async fn set_override(
        &self,
        cx: &Context,
        service: String,
        id: String,
        operator: Option<OperatorOverride>,
    ) -> Result<(), Error> {
        let _ = (cx, service, id, operator);
        Err(Error::unsupported("this plugin keeps no overrides"))
    }

    /// Services that have instances, in the order of their bytes, at most `limit` a page.
    async fn services(
        &self,
        cx: &Context,
        page: Option<String>,
        limit: u32,
    ) -> Result<ServicesPage, Error>;

    /// Instances of one service by id, at most `limit` a page.
    async fn instances(
        &self,
        cx: &Context,
        service: String,
        page: Option<String>,
        limit: u32,
        consistency: Consistency,
    ) -> Result<InstancesPage, Error>;

    /// Feeds a watch on one service, or on all; as `Config::watch`.
    async fn watch(self: Rc<Self>, service: Option<String>, sink: WatchSink) -> Result<(), Error>;
}

/// How registering went.
#[allow(clippy::large_enum_variant, reason = "one value per registration, moved at once")]
#[derive(Debug)]
pub enum Registered<R> {
    /// It is registered.
    Registered {
        /// What the plugin remembers of it.
        registration: R,
        /// Until when.
        validity: Validity,
    },
    /// Another live owner has the name.
    Taken(InstanceState),
}

/// Tells the host how a registration is. Clones speak of the same registration.
///
/// What is said before [`register`](Registry::register) has returned reaches the host after it.
#[derive(Clone)]
pub struct RegistrationReporter {
    inner: Reporter<Event>,
}

impl RegistrationReporter {
    pub(crate) fn new(inner: Reporter<Event>) -> Self {
        Self { inner }
    }

    /// It was renewed, or is there again after [`lost`](Self::lost).
    pub fn registered(&self, validity: Validity) {
        let status = |event: &Event| matches!(event, Event::Registered(_) | Event::Suspect(_));
        self.inner.report(Event::Registered(validity.into()), status);
    }

    /// Renewal is in doubt, and why.
    pub fn suspect(&self, reason: &str) {
        let suspect = |event: &Event| matches!(event, Event::Suspect(_));
        self.inner.report(Event::Suspect(reason.to_owned()), suspect);
    }

    /// It is not registered at the moment, and why; the plugin keeps trying.
    pub fn lost(&self, reason: &str) {
        let doubt = |event: &Event| matches!(event, Event::Suspect(_) | Event::Lost(_));
        self.inner.report(Event::Lost(reason.to_owned()), doubt);
    }

    /// It cannot be registered again: another live owner has the name. Counts once; afterwards the
    /// SDK forgets the registration.
    pub fn taken(&self, by: InstanceState) {
        self.inner.finish(Event::Taken(by));
    }

    /// Whether it was taken, deregistered or closed, so that it need not be kept any more.
    pub fn is_over(&self) -> bool {
        self.inner.is_over()
    }

    /// Waits until it was taken, deregistered or closed.
    pub async fn over(&self) {
        self.inner.over().await;
    }
}

/// Where the events of one watch go. Clones feed the same watch; the rules and limits are those of
/// [`config::WatchSink`](crate::config::WatchSink).
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

    /// An instance came or changed. `previous` is what was there just before, where known.
    pub fn put(&self, state: InstanceState, previous: Option<InstanceState>) {
        self.feed.change(Event::Put(PutEvent { state, previous }));
    }

    /// An instance went.
    pub fn removed(&self, service: String, id: String, previous: Option<InstanceState>) {
        self.feed.change(Event::Removed(RemovedEvent { service, id, previous }));
    }

    /// Nothing is missing up to now.
    pub fn progress(&self) {
        self.feed.progress(());
    }

    /// Something may be missing, and why; a new snapshot is wanted now.
    pub fn resync(&self, reason: &str) {
        self.feed.resync(reason);
    }

    /// Ends the watch for good.
    pub fn end(&self, error: Error) {
        self.feed.end(error);
    }

    /// Waits until a snapshot has to be sent.
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
    /// Adds an instance, each once; waits while the reader is behind.
    pub async fn put(&mut self, state: InstanceState) {
        self.inner.add(Event::Put(PutEvent { state, previous: None })).await;
    }

    /// Ends the snapshot.
    pub fn end(self) {
        self.inner.end(());
    }
}

impl WatchEvent for Event {
    type Position = ();

    fn snapshot_begin() -> Self {
        Self::SnapshotBegin
    }

    fn snapshot_end((): ()) -> Self {
        Self::SnapshotEnd
    }

    fn resync(reason: String) -> Self {
        Self::Resync(reason)
    }

    fn progress((): ()) -> Self {
        Self::Progress
    }

    fn ended(error: Error) -> Self {
        Self::Ended(error.into())
    }

    fn is_progress(&self) -> bool {
        matches!(self, Self::Progress)
    }
}

impl Weight for Event {
    fn weight(&self) -> usize {
        let carried = match self {
            Self::Put(put) => weight_of(Some(&put.state)) + weight_of(put.previous.as_ref()),
            Self::Removed(removed) => weight_of(removed.previous.as_ref()),
            _ => 0,
        };
        size_of::<Self>() + carried
    }
}

fn weight_of(state: Option<&InstanceState>) -> usize {
    let labels = state.map_or(&[][..], |state| &state.instance.labels);
    labels.iter().map(|(name, value)| name.len() + value.len()).sum()
}
