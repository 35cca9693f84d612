//! A clock that tests set, a store on it, and short ways to say things.

use crate::disk::Disk;
use pintle_plugin_local::store::{
    Acquire, Acquired, Clock, Effects, Entry, Expectation, Grant, Instance, Mode, Options, Put,
    PutOutcome, Register, Result, Seeds, Store, Turn,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that stands still until it is told to go on.
#[derive(Debug, Default)]
pub(crate) struct ManualClock(AtomicU64);

impl ManualClock {
    pub(crate) fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.monotonic_ns() / 1_000_000
    }
}

/// A store on a disk and a clock that the test holds.
pub(crate) struct Bench {
    pub(crate) disk: Disk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: Options,
    pub(crate) store: Store,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let (disk, clock) = (Disk::default(), Arc::new(ManualClock::default()));
        let store = open(&disk, &clock, &options);
        Self { disk, clock, options, store }
    }

    /// Closes the store in good order and opens it again.
    pub(crate) fn restart(&mut self) {
        self.store.close().unwrap();
        self.store = open(&self.disk, &self.clock, &self.options);
    }

    /// Loses power, and with it all that was not synced; the clock begins anew.
    pub(crate) fn crash(&mut self) {
        self.disk = self.disk.after_crash(|| false);
        self.clock = Arc::new(ManualClock::default());
        self.store = open(&self.disk, &self.clock, &self.options);
    }

    /// A turn whose effects do not matter.
    pub(crate) fn turn<R>(&mut self, work: impl FnOnce(&mut Turn<'_>) -> Result<R>) -> R {
        self.store.turn(work).unwrap().0
    }

    /// A turn whose effects are what matters.
    pub(crate) fn effects(&mut self, work: impl FnOnce(&mut Turn<'_>) -> Result<()>) -> Effects {
        self.store.turn(work).unwrap().1
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> u64 {
        stored(self.turn(|turn| turn.put(&put(key, value, Expectation::Anything))))
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        self.store.entry(key, None).unwrap().map(text)
    }

    pub(crate) fn acquire(&mut self, request: &Acquire) -> Acquired {
        self.turn(|turn| turn.acquire(request))
    }

    pub(crate) fn hold(&mut self, name: &str, mode: Mode) -> Grant {
        match self.acquire(&acquire(name, mode, false)) {
            Acquired::Held(grant) => grant,
            other => panic!("lock {name} is not free: {other:?}"),
        }
    }

    pub(crate) fn wait_for(&mut self, name: &str, mode: Mode) -> u64 {
        match self.acquire(&acquire(name, mode, true)) {
            Acquired::Queued(lease) => lease,
            other => panic!("lock {name} is free: {other:?}"),
        }
    }
}

pub(crate) fn open(disk: &Disk, clock: &Arc<ManualClock>, options: &Options) -> Store {
    try_open(disk, clock, options).unwrap()
}

pub(crate) fn try_open(disk: &Disk, clock: &Arc<ManualClock>, options: &Options) -> Result<Store> {
    let clock = Arc::clone(clock);
    let seeds = Seeds { identity: 0xE90C, generation: disk.opening() };
    Store::open(Box::new(disk.clone()), options.clone(), clock, seeds)
}

pub(crate) fn put(key: &str, value: &str, expect: Expectation) -> Put {
    Put {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        content_type: None,
        expect,
        held: None,
        previous: true,
    }
}

pub(crate) fn stored(outcome: PutOutcome) -> u64 {
    match outcome {
        PutOutcome::Stored { revision, .. } => revision,
        other => panic!("not stored: {other:?}"),
    }
}

pub(crate) fn text(entry: Entry) -> String {
    String::from_utf8(entry.value).unwrap()
}

pub(crate) const TTL_MS: u32 = 10_000;

pub(crate) fn acquire(name: &str, mode: Mode, wait: bool) -> Acquire {
    Acquire { name: name.to_owned(), mode, ttl_ms: TTL_MS, owner: "test".to_owned(), wait }
}

pub(crate) fn instance(service: &str, id: &str) -> Instance {
    Instance {
        service: service.to_owned(),
        id: id.to_owned(),
        host: "10.0.0.1".to_owned(),
        port: 8080,
        version: "1.2.3".to_owned(),
        zone: Some("a".to_owned()),
        weight: 100,
        enabled: true,
        labels: vec![("stage".to_owned(), "blue".to_owned())],
    }
}

pub(crate) fn register(service: &str, id: &str) -> Register {
    Register { instance: instance(service, id), ttl_ms: TTL_MS, owner: "node/local".to_owned() }
}
